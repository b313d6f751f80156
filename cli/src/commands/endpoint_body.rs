//! What an endpoint is like, as flags of `endpoints create` and `endpoints update`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};

use super::failure::Usage;
use super::retry::{OrNone, RetryArgs};

#[derive(Args)]
pub(super) struct FieldArgs {
    /// For people: whose it is, and what for
    #[arg(long)]
    description: Option<String>,
    /// A pattern of the events that it is sent, such as invoice.* (may come more than once; '*' is all)
    #[arg(long = "event-type", value_name = "PATTERN", value_delimiter = ',')]
    event_types: Vec<String>,
    /// Whose events it is sent (may come more than once; '' is everybody's)
    #[arg(long = "source", value_name = "SOURCE", value_delimiter = ',')]
    sources: Vec<String>,
    /// A header that each delivery gets, as 'name: value' (may come more than once)
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// How long a delivery may take, or none for the dispatcher's setting
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<OrNone<u64>>,
    /// How many deliveries may be under way at once, or none
    #[arg(long, value_name = "NUMBER")]
    max_in_flight: Option<OrNone<u64>>,
    /// How many deliveries may begin in a second, or none
    #[arg(long, value_name = "NUMBER")]
    rate_per_second: Option<OrNone<u64>>,
    /// A file with what the receiver wants to see as basic authentication: user:password (- reads it from
    /// standard input)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bearer_file", "no_auth"])]
    basic_auth_file: Option<PathBuf>,
    /// A file with the bearer token that the receiver wants to see (- reads it from standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "no_auth")]
    bearer_file: Option<PathBuf>,
    /// Send no credentials (any more)
    #[arg(long)]
    no_auth: bool,
    #[command(flatten)]
    retry: RetryArgs,
}

impl FieldArgs {
    /// The body, or the merge patch, of what was given.
    pub(super) fn body(self, is_patch: bool) -> anyhow::Result<Map<String, Value>> {
        let mut body = Map::new();
        let sources = if self.sources == [""] { Value::Null } else { json!(self.sources) };
        let headers: Map<_, _> = self.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        let given = [
            ("description", self.description.map(Value::from)),
            ("event_types", (!self.event_types.is_empty()).then(|| json!(self.event_types))),
            ("sources", (!self.sources.is_empty()).then_some(sources)),
            ("headers", (!headers.is_empty()).then(|| headers.into())),
            ("timeout_ms", self.timeout_ms.map(Value::from)),
            ("max_in_flight", self.max_in_flight.map(Value::from)),
            ("rate_per_second", self.rate_per_second.map(Value::from)),
            ("auth", auth(self.basic_auth_file.as_deref(), self.bearer_file.as_deref(), self.no_auth)?),
        ];
        body.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        self.retry.add_to(&mut body, is_patch);
        Ok(body)
    }
}

/// A header's name and value.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn auth(basic: Option<&Path>, bearer: Option<&Path>, none: bool) -> anyhow::Result<Option<Value>> {
    if none {
        return Ok(Some(Value::Null));
    }
    if let Some(file) = basic {
        let text = secret_from(file)?;
        let Some((username, password)) = text.split_once(':') else {
            return Err(Usage(format!("{}: must hold user:password", file.display())).into());
        };
        return Ok(Some(json!({ "type": "basic", "username": username, "password": password })));
    }
    let token = bearer.map(secret_from).transpose()?;
    Ok(token.map(|token| json!({ "type": "bearer", "token": token })))
}

/// A secret from a file, or from standard input: command lines are seen by others, and kept by shells.
pub(super) fn secret_from(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input can't be read")?;
    } else {
        text = std::fs::read_to_string(file)
            .map_err(|error| Usage(format!("{} can't be read: {error}", file.display())))?;
    }
    Ok(text.trim().to_owned())
}
