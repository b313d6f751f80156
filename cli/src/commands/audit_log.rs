//! `eventrail audit-log`

use clap::Args;

use super::client::LimitArgs;
use super::table::{Cell, shortened, whole};
use super::{Operator, OperatorArgs};

#[derive(Args)]
#[command(after_help = "Example:
  eventrail audit-log --limit 20")]
pub(crate) struct AuditLogArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(flatten)]
    limit: LimitArgs,
}

pub(super) async fn run(args: &AuditLogArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    let listing = operator.client.get(&["audit-log"]).list(args.limit.limit()).await?;
    let columns = [
        whole("WHEN"),
        shortened("WHO"),
        whole("ACTION"),
        shortened("WHAT"),
        whole("FROM"),
        shortened("DETAIL"),
    ];
    operator.output.list(&listing, "Nothing has been changed.", &columns, |look, entry| {
        let detail = &entry["detail"];
        let is_empty = detail.is_null() || detail.as_object().is_some_and(serde_json::Map::is_empty);
        vec![
            Cell::time(look, entry, "at"),
            Cell::text(entry, "actor"),
            Cell::text(entry, "action"),
            Cell::text(entry, "subject"),
            Cell::text(entry, "address"),
            if is_empty { Cell::nothing() } else { Cell::plain(&detail.to_string()) },
        ]
    })
}
