//! What `--help` says of all settings, and how bad ones are refused.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Arg, Args, Command};
use eventrail_core::config::{
    ApiConfig, DispatcherConfig, EgressConfig, StoreArgs, TelemetryConfig, UpConfig,
};

/// Settings that may hold secrets are read from the environment only, or from the file that `NAME_FILE`
/// names.
const SECRETS: [(&str, &str); 5] = [
    ("DATABASE_URL", "PostgreSQL, such as postgres://user@host/eventrail"),
    ("REDIS_URL", "Redis, such as redis://host:6379"),
    ("ADMIN_TOKEN", "The first key of the API; without it the API runs open, on loopback only"),
    (
        "SECRETS_KEY",
        "Seals secrets in the database: 32 bytes in base64, the same for all processes (up makes its own)",
    ),
    (
        "SECRETS_KEYS_OLD",
        "Keys that secrets may still be sealed with while SECRETS_KEY is changed, separated by commas",
    ),
];

/// What the operators' commands read.
const OF_OPERATORS: [(&str, &str); 2] = [
    ("EVENTRAIL_URL [http://127.0.0.1:8080]", "Where the API is"),
    ("EVENTRAIL_KEY, or EVENTRAIL_KEY_FILE with a file that holds it", "The key, where the API wants one"),
];

/// A setting is missing or unusable; its text names it.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct SettingsError(anyhow::Error);

/// Marks errors as those of settings: exit code 2.
pub(crate) trait IsSetting<T> {
    fn setting(self) -> anyhow::Result<T>;
}

impl<T> IsSetting<T> for anyhow::Result<T> {
    fn setting(self) -> anyhow::Result<T> {
        self.map_err(|error| SettingsError(error).into())
    }
}

/// The table of all settings, from the same definitions that parse them.
pub(crate) fn help() -> String {
    let mut text = String::from("Settings, each an environment variable and a flag of the same name:\n");
    for setting in all() {
        let default = setting.default.map(|default| format!(" [{default}]")).unwrap_or_default();
        let _ = writeln!(text, "  {}{default}\n{}", setting.name, indented(&setting.about));
    }
    text.push_str("\nSecrets, environment variables only, or NAME_FILE with a file that holds the value:\n");
    for (name, about) in SECRETS {
        let _ = writeln!(text, "  {name}\n{}", indented(about));
    }
    text.push_str(
        "\nThe commands from groups to audit-log need none of these, and work against any EventRail:\n",
    );
    for (name, about) in OF_OPERATORS {
        let _ = writeln!(text, "  {name}\n{}", indented(about));
    }
    text
}

struct Setting {
    name: String,
    default: Option<String>,
    about: String,
}

fn all() -> Vec<Setting> {
    let all = Command::new("settings");
    let all = UpConfig::augment_args(all);
    let all = StoreArgs::augment_args(all);
    let all = ApiConfig::augment_args(all);
    let all = EgressConfig::augment_args(all);
    let all = DispatcherConfig::augment_args(all);
    let all = TelemetryConfig::augment_args(all);
    all.get_arguments().filter_map(Setting::new).collect()
}

impl Setting {
    fn new(argument: &Arg) -> Option<Self> {
        let defaults: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        Some(Self {
            name: argument.get_env()?.to_string_lossy().into_owned(),
            default: Some(defaults.join(",")).filter(|default| !default.is_empty()),
            about: argument.get_help().map(ToString::to_string).unwrap_or_default(),
        })
    }
}

/// Broken into lines that fit an old terminal, so that nobody else breaks them.
fn indented(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + word.len() > 70) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if line.is_empty() { "        " } else { " " });
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// The first paragraph of clap's message, which names the setting, on one line.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

/// Says it on one line of standard error; exit code 2.
pub(crate) fn refuse(line: &str) -> ExitCode {
    complain(line);
    ExitCode::from(2)
}

/// Says it on standard error, even where logging is off.
pub(crate) fn complain(line: &str) {
    // Nobody may be reading, and there is nowhere else to say so.
    let _ = writeln!(std::io::stderr(), "eventrail: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_setting_with_its_default() {
        let help = help();
        for expected in ["CONSUMER_NAME [api-1]", "MAX_RETRIES [5]", "BASE_BACKOFF_MS [500]", "DATABASE_URL"]
        {
            assert!(help.contains(&format!("  {expected}\n")), "{expected} is not in:\n{help}");
        }
        assert!(help.lines().all(|line| line.len() < 90));
    }

    #[test]
    fn the_readme_has_a_row_for_every_setting() {
        let readme = include_str!("../../README.md");
        for Setting { name, default, .. } in all() {
            let default = default.map(|default| format!("`{default}`")).unwrap_or_default();
            let row = format!("| `{name}` | {default} |").replace("|  |", "| |");
            assert!(readme.contains(&row), "README.md has no row that begins with {row}");
        }
        for (name, _) in SECRETS {
            assert!(readme.contains(&format!("| `{name}` |")), "README.md has no row for {name}");
        }
    }
}
