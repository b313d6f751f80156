//! The rules of the house that no lint knows. Each complaint names the file, the line and the rule.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use eventrail_core::metrics;

const CRATES: [&str; 6] = ["api", "bench", "cli", "core", "dispatcher", "protocol"];
/// Files are about 250 lines, and are split by noun before this.
const LONGEST_SOURCE: usize = 400;
const LONGEST_TEST: usize = 700;

struct Source {
    /// From the root of the repository, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("tests.rs")
    }

    /// Where a word stands outside comments, as `path:line`.
    fn mentions<'a>(&'a self, word: &'a str) -> impl Iterator<Item = String> + 'a {
        let lines = self.text.lines().enumerate();
        let code = lines.filter(move |(_, line)| !line.trim_start().starts_with("//") && line.contains(word));
        code.map(move |(index, _)| format!("{}:{}: {word}", self.path, index + 1))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All files of the repository that people write, but for this one, whose rules name what they forbid, and the
/// seeds of the fuzz targets, which are ugly on purpose.
fn files() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found.retain(|file| file.path != "cli/tests/tidy.rs" && !file.is_in(&["fuzz/seeds/"]));
    assert!(found.len() > 50, "the repository is found");
    found
}

fn collect(directory: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let made = ["target", "node_modules", ".git", ".eventrail", "Cargo.lock", "package-lock.json"];
        if made.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
            found.push(Source { path, text });
        }
    }
}

fn rust() -> Vec<Source> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// Complains about every mention of `words` in the Rust files that `forbidden` picks.
fn forbid(rule: &str, words: &[&str], forbidden: impl Fn(&Source) -> bool) {
    let files = rust();
    let mentions: Vec<String> = files
        .iter()
        .filter(|file| forbidden(file))
        .flat_map(|file| words.iter().flat_map(|word| file.mentions(word)))
        .collect();
    assert!(mentions.is_empty(), "{rule}\n  {}", mentions.join("\n  "));
}

#[test]
fn all_sql_sits_in_core_db() {
    forbid("SQL belongs into core::db", &["sqlx::query", "sqlx::raw_sql"], |file| {
        !file.is_in(&["core/src/db/", "core/src/testing/", "bench/"]) && !file.is_test()
    });
}

#[test]
fn the_environment_is_read_in_config_alone() {
    forbid("settings are read in core::config", &["env::var"], |file| file.path != "core/src/config.rs");
}

#[test]
fn core_knows_no_http_and_routes_know_no_transport() {
    forbid("core serves and sends no HTTP", &["axum::", "reqwest::"], |file| {
        file.is_in(&["core/src/"]) && !file.is_in(&["core/src/testing/"])
    });
    forbid("routes go through core", &["redis::", "reqwest::"], |file| file.is_in(&["api/src/routes"]));
}

#[test]
fn dependencies_point_one_way() {
    let edges = [
        ("api/", &["eventrail_dispatcher", "eventrail-dispatcher"] as &[&str]),
        ("dispatcher/", &["eventrail_api", "eventrail-api"]),
        ("core/", &["eventrail_api", "eventrail-api", "eventrail_dispatcher", "eventrail-dispatcher"]),
    ];
    for file in files().iter().filter(|file| file.path.ends_with(".rs") || file.path.ends_with("Cargo.toml"))
    {
        for (folder, names) in edges {
            // Names for connections and logs, in quotes, are no dependencies.
            let uses = |name: &str| {
                file.text.contains(&format!("use {name}")) || file.text.contains(&format!("{name}."))
            };
            let used: Vec<&&str> = names.iter().filter(|name| file.is_in(&[folder]) && uses(name)).collect();
            assert!(used.is_empty(), "{} must not use {used:?}", file.path);
        }
    }
}

/// Polling and pacing take a moment; a test that is about time says so on the line before.
const LONGEST_MOMENT_MS: u64 = 100;

#[test]
fn tests_wait_for_what_they_expect_and_not_for_time() {
    let mut blind = Vec::new();
    for file in rust().iter().filter(|file| file.is_test()) {
        let mut before = "";
        for (index, line) in file.text.lines().enumerate() {
            let millis =
                line.split("from_millis(").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok());
            let is_moment = millis.is_some_and(|millis: u64| millis <= LONGEST_MOMENT_MS);
            if line.contains("time::sleep(") && !is_moment && !before.trim_start().starts_with("//") {
                blind.push(format!("{}:{}", file.path, index + 1));
            }
            before = line;
        }
    }
    assert!(blind.is_empty(), "wait with a deadline for the condition\n  {}", blind.join("\n  "));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut complaints = Vec::new();
    for file in rust() {
        // Unit tests in the same file do not count.
        let code = file.text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().count();
        let most = if file.is_test() { LONGEST_TEST } else { LONGEST_SOURCE };
        if lines > most {
            complaints.push(format!("{}: {lines} lines, more than {most}: split it by noun", file.path));
        }
        if !file.text.starts_with("//!") {
            complaints.push(format!("{}: begins without a word on what it is (//!)", file.path));
        }
        let name = Path::new(&file.path).file_stem().unwrap().to_str().unwrap();
        if ["util", "utils", "common", "helpers", "misc"].contains(&name) {
            complaints.push(format!("{}: `{name}` is no noun of ours", file.path));
        }
    }
    for file in files().iter().filter(|file| file.path.ends_with(".sql") && !file.text.starts_with("--")) {
        complaints.push(format!("{}: opens without its why", file.path));
    }
    assert!(complaints.is_empty(), "\n  {}", complaints.join("\n  "));
}

#[test]
fn texts_are_clean_and_know_no_machine() {
    let mut complaints = Vec::new();
    for file in files() {
        for (index, line) in file.text.lines().enumerate() {
            let place = format!("{}:{}", file.path, index + 1);
            if line.ends_with([' ', '\t', '\r']) {
                complaints.push(format!("{place}: white space at the end of the line"));
            }
            for machine in ["root", "work", "Users", "home"].map(|folder| format!("/{folder}/")) {
                if line.contains(&machine) && !line.contains("/home/linuxbrew/") {
                    complaints.push(format!("{place}: {machine} is a path of one machine"));
                }
            }
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            complaints.push(format!("{}: the last line has no end", file.path));
        }
    }
    assert!(complaints.is_empty(), "\n  {}", complaints.join("\n  "));
}

/// The words of a text that look like names of our metrics.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("eventrail_")).collect()
}

#[test]
fn dashboards_and_documents_name_metrics_that_exist_and_each_metric_is_measured() {
    let known: BTreeSet<&str> = metrics::ALL.iter().map(|(name, _)| *name).collect();
    let files = files();
    let mut dashboards = 0;
    for file in files.iter().filter(|file| file.is_in(&["dashboards/", "docs/", "README.md"])) {
        if file.path.ends_with(".json") {
            dashboards += 1;
            serde_json::from_str::<serde_json::Value>(&file.text).unwrap();
        }
        for word in metrics_in(&file.text) {
            let suffixes = ["_bucket", "_sum", "_count"];
            let base = suffixes.iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word);
            let is_crate = CRATES.iter().any(|name| word.strip_prefix("eventrail_") == Some(name));
            assert!(is_crate || known.contains(base), "{}: {word} is not in core::metrics", file.path);
        }
    }
    assert!(dashboards > 0);

    let definitions = &files.iter().find(|file| file.path == "core/src/metrics.rs").unwrap().text;
    for line in
        definitions.lines().filter(|line| line.starts_with("pub const") && line.contains("\"eventrail_"))
    {
        let constant = line.trim_start_matches("pub const ").split(':').next().unwrap();
        let is_measured = files.iter().any(|file| {
            file.path.ends_with(".rs") && file.path != "core/src/metrics.rs" && file.text.contains(constant)
        });
        assert!(is_measured, "core::metrics::{constant} is never measured");
    }
}

/// A heading as the fragment of a link to it.
fn fragment(heading: &str) -> String {
    let letters = heading.trim().to_lowercase().replace(' ', "-");
    letters.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
}

#[test]
fn each_alert_has_its_section_in_the_runbook() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (rules, runbook) = (read("dashboards/alerts.yml"), read("docs/RUNBOOK.md"));
    let sections: BTreeMap<String, &str> = runbook
        .split("\n## ")
        .skip(1)
        .map(|section| (fragment(section.lines().next().unwrap()), section))
        .collect();
    let rules: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(rules.len() > 10, "the rules are found");
    for rule in rules {
        let name = rule.lines().next().unwrap();
        for needed in ["expr: ", "severity: ", "summary: "] {
            assert!(rule.contains(needed), "{name} has no `{needed}`");
        }
        assert!(!metrics_in(rule).is_empty() || rule.contains("expr: up{"), "{name} asks for no metric");
        let link = rule.split("runbook: docs/RUNBOOK.md#").nth(1).and_then(|rest| rest.lines().next());
        let section = link.and_then(|link| sections.get(link));
        let section = section.unwrap_or_else(|| panic!("{name}: docs/RUNBOOK.md has no section {link:?}"));
        assert!(section.contains(&format!("`{name}`")), "{name} is not named in its section of the runbook");
    }
    let alerts = runbook.split('`').filter(|word| word.starts_with("EventRail"));
    for alert in alerts.filter(|word| word.chars().all(char::is_alphanumeric)) {
        let is_rule = read("dashboards/alerts.yml").contains(&format!("- alert: {alert}\n"));
        assert!(is_rule, "docs/RUNBOOK.md names {alert}, which dashboards/alerts.yml does not have");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for file in files().iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root().join(&file.path).parent().unwrap().to_owned();
        let targets = file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, part) = target.split_once('#').unwrap_or((target, ""));
            let found = if path.is_empty() { root().join(&file.path) } else { folder.join(path) };
            assert!(found.exists(), "{}: {target} does not exist", file.path);
            if part.is_empty() || found.extension().is_none_or(|kind| kind != "md") {
                continue;
            }
            let text = std::fs::read_to_string(&found).unwrap();
            let mut headings = text.lines().filter_map(|line| line.strip_prefix("## ")).map(fragment);
            assert!(headings.any(|heading| heading == part), "{}: {target} has no heading", file.path);
        }
    }
}

#[test]
fn documents_name_tests_that_exist() {
    let sources: Vec<String> =
        rust().into_iter().map(|file| file.text).chain([include_str!("tidy.rs").to_owned()]).collect();
    let page = std::fs::read_to_string(root().join("docs/RELIABILITY.md")).unwrap();
    let mut seen = 0;
    for name in page.split('`').skip(1).step_by(2).filter_map(|part| part.rsplit_once("::")).map(|two| two.1)
    {
        seen += 1;
        let is_there = sources.iter().any(|text| text.contains(&format!("fn {name}(")));
        assert!(is_there, "docs/RELIABILITY.md: there is no test {name}");
    }
    assert!(seen > 40, "{seen} tests are named");
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    for name in CRATES {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name}/Cargo.toml");
    }
}

#[test]
fn the_image_is_built_with_all_that_the_binary_embeds() {
    let context = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    for member in CRATES {
        assert!(context.contains(&format!("!{member}\n")), "{member} is not in .dockerignore");
    }
    for file in rust().iter().filter(|file| !file.is_test()) {
        let code = file.text.split("\n#[cfg(test)]").next().unwrap();
        for embedded in code.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let outside = embedded.trim_start_matches("../");
            let top = outside.split('/').next().unwrap();
            let is_near = !embedded.starts_with("../");
            assert!(
                is_near || !root().join(top).exists() || context.contains(&format!("!{top}\n")),
                "{}: {embedded} is not in .dockerignore",
                file.path
            );
        }
    }
}
