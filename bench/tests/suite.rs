//! The suite in miniature: what it measures there says nothing, but that it measures, counts and shows it does.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn suite(arguments: &[&str]) -> (bool, String, String) {
    let bench = Path::new(env!("CARGO_BIN_EXE_eventrail-bench"));
    assert!(bench.with_file_name("eventrail").is_file(), "first: cargo build -p eventrail");
    let output = Command::new(bench).arg("suite").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// A line of the table without its blanks.
fn line<'a>(table: &'a str, beginning: &str) -> Vec<&'a str> {
    let found = table.lines().find(|line| line.split_whitespace().next() == Some(beginning));
    found.unwrap_or_else(|| panic!("no line {beginning} in\n{table}")).split_whitespace().collect()
}

#[test]
fn a_run_ends_with_its_table_and_json_and_is_shown_beside_an_earlier_one() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("suite.json");
    let file = file.to_str().unwrap();
    let (ended_well, table, errors) =
        suite(&["--scale", "0.003", "--only", "fan-out-1,latency-300", "--json", file]);
    assert!(ended_well, "{errors}\n{table}");
    let first = line(&table, "fan-out-1");
    assert!(first.contains(&"/s") && first.contains(&"%") && first.contains(&"bare"), "{table}");
    assert!(line(&table, "latency-300").contains(&"ms"), "{table}");

    let document: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((&document["format"], &document["scale"]), (&1.into(), &0.003.into()));
    assert_eq!(document["bare"]["per_second"].as_array().unwrap().len(), 2);
    let scenarios = document["scenarios"].as_array().unwrap();
    let names: Vec<&str> = scenarios.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["fan-out-1", "latency-300"]);
    for scenario in scenarios {
        assert!(scenario["counted"].as_u64().unwrap() > 0, "{scenario}");
        assert_eq!(scenario["missing"], 0, "{scenario}");
        assert_eq!(scenario["error"], Value::Null, "{scenario}");
        for figure in scenario["figures"].as_array().unwrap() {
            assert!(figure["value"].as_f64().unwrap() >= 0.0, "{figure}");
            assert_eq!(figure["target"].is_null(), figure["met"].is_null(), "{figure}");
        }
        for process in ["api", "dispatcher", "redis"] {
            assert!(scenario["memory_mib"][process].as_f64().unwrap() > 0.0, "{scenario}");
        }
    }
    assert_eq!(scenarios[0]["figures"][0]["target"]["of_bare"], 0.25);

    let (ended_well, both, errors) = suite(&["--scale", "0.003", "--only", "latency-300", "--compare", file]);
    assert!(ended_well, "{errors}\n{both}");
    let comparison = both.split("\nold: ").nth(1).unwrap();
    let row = line(comparison, "latency-300");
    assert_eq!(row.iter().filter(|word| **word == "ms").count(), 2, "{both}");
    assert!(row.last().unwrap().parse::<f64>().unwrap() > 0.0, "{both}");
}

#[test]
fn scenarios_that_do_not_exist_are_refused_with_those_that_do() {
    let (ended_well, _, errors) = suite(&["--only", "fan-out-7"]);
    assert!(!ended_well);
    assert!(
        errors.contains("there is no scenario fan-out-7") && errors.contains("\nretry-storm "),
        "{errors}"
    );
    let (ended_well, list, _) = suite(&["--list"]);
    assert!(ended_well && list.contains("fan-out-1 "), "{list}");
}
