//! Bad settings stop the start with one line that names the setting.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::process::{Command, Output};

const SECRETS_KEY: (&str, &str) = ("SECRETS_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");

/// A command, its environment, and the setting that it complains about.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);

fn eventrail(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventrail"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn bad_settings_are_refused_in_one_line_with_exit_code_2() {
    let cases: &[Case] = &[
        ("dispatcher", &[("MAX_RETRIES", "many")], "MAX_RETRIES"),
        ("dispatcher", &[("MAX_RETRIES", "51")], "MAX_RETRIES"),
        ("dispatcher", &[("AUTO_DISABLE_AFTER", "5")], "AUTO_DISABLE_AFTER"),
        ("up", &[("RETENTION_DAYS", "30"), ("RETENTION_HARD_DAYS", "29")], "RETENTION_HARD_DAYS"),
        ("up", &[("BASE_BACKOFF_MS", "5000"), ("MAX_BACKOFF_MS", "100")], "BASE_BACKOFF_MS"),
        ("up", &[("CONSUMER_NAME", "two words")], "CONSUMER_NAME"),
        ("up", &[("EGRESS_ALLOW", "10.0.0.0/8,nonsense")], "EGRESS_ALLOW"),
        ("api", &[("AUTH", "maybe")], "AUTH"),
        ("api", &[("LISTEN", "here")], "LISTEN"),
        ("api", &[], "DATABASE_URL"),
        ("migrate", &[], "DATABASE_URL"),
        ("migrate", &[("DATABASE_URL_FILE", "/nowhere")], "DATABASE_URL_FILE"),
        ("migrate", &[("DATABASE_URL", "postgres://localhost/x")], "DATABASE_URL"),
        (
            "api",
            &[("DATABASE_URL", "postgres://u@localhost/x"), ("REDIS_URL", "redis://localhost")],
            "SECRETS_KEY",
        ),
        (
            "api",
            &[SECRETS_KEY, ("DATABASE_URL", "postgres://u@localhost/x"), ("REDIS_URL", "nonsense")],
            "REDIS_URL",
        ),
        (
            "api",
            &[
                SECRETS_KEY,
                ("DATABASE_URL", "postgres://u@localhost/x"),
                ("REDIS_URL", "redis://localhost"),
                ("LISTEN", "0.0.0.0:0"),
            ],
            "ADMIN_TOKEN",
        ),
        ("api", &[("LOG_FORMAT", "xml")], "LOG_FORMAT"),
        ("api", &[("RUST_LOG", "a=b=c")], "RUST_LOG"),
    ];
    for (command, environment, name) in cases {
        let output = eventrail(&[command], environment);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{command} {environment:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(name), "{command} {environment:?}: {said}");
    }
}

#[test]
fn help_lists_the_settings_and_goes_to_standard_output() {
    let output = eventrail(&["--help"], &[]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    for expected in ["CONSUMER_NAME [api-1]", "MAX_RETRIES [5]", "BASE_BACKOFF_MS [500]", "DATABASE_URL"] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn an_empty_list_of_networks_is_an_empty_list() {
    let output = eventrail(&["api"], &[("EGRESS_ALLOW", "")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("DATABASE_URL is not set"), "the next complaint, not one of EGRESS_ALLOW: {said}");
}

#[test]
fn a_database_that_is_away_is_named_and_is_no_matter_of_settings() {
    let output = eventrail(&["migrate"], &[("DATABASE_URL", "postgres://u@127.0.0.1:1/x")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("PostgreSQL can't be used") && said.contains("refused"), "{said}");
}
