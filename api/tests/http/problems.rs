//! The page that explains problems has each of them, and no other.

use std::collections::HashSet;

use eventrail_api::problem::Kind;
use eventrail_core::testing::Stack;

use crate::support::Server;

const PAGE: &str = include_str!("../../../docs/PROBLEMS.md");

#[test]
fn the_page_has_a_section_for_each_kind_with_its_status() {
    let mut sections = HashSet::new();
    for section in PAGE.split("\n## ").skip(1) {
        let (slug, text) = section.split_once('\n').unwrap();
        let status = text.trim_start().split('.').next().unwrap();
        sections.insert(format!("{slug} {status}"));
    }
    let kinds: HashSet<String> = Kind::ALL
        .iter()
        .map(|kind| {
            let (slug, status, _) = kind.parts();
            format!("{slug} {}", status.as_u16())
        })
        .collect();
    assert_eq!(sections, kinds);
}

#[tokio::test]
async fn the_page_is_served_where_types_point() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    assert_eq!(api.get("/problems").await.expect(200).text, PAGE);
}
