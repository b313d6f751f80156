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

/// A run of long ago, of which one figure is known.
const OLD: &str = r#"{
    "format": 1, "revision": "abc", "taken_at": "then", "cores": 2, "scale": 1.0,
    "bare": { "per_second": [1000.0], "cpu_us": 30.0 },
    "scenarios": [{
        "name": "latency-300", "about": "", "seconds": 1.0, "counted": 1, "missing": 0, "duplicates": 0,
        "figures": [{ "name": "POST to 201, p50", "value": 0.5, "unit": "ms" }],
        "cpu_us": {}, "memory_mib": { "api": 1.0, "dispatcher": 1.0, "redis": 1.0 }, "error": null
    }]
}"#;

#[test]
fn a_run_ends_with_its_table_and_json_and_is_shown_beside_an_earlier_one() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (file, old) = (folder.join("suite.json"), folder.join("suite-old.json"));
    std::fs::write(&old, OLD).unwrap();
    let (file, old) = (file.to_str().unwrap(), old.to_str().unwrap());
    let (ended_well, output, errors) =
        suite(&["--scale", "0.003", "--only", "fan-out-1,latency-300", "--json", file, "--compare", old]);
    assert!(ended_well, "{errors}\n{output}");
    let (table, comparison) = output.split_once("\nold: ").unwrap();
    let first = line(table, "fan-out-1");
    assert!(first.contains(&"/s") && first.contains(&"%") && first.contains(&"bare"), "{table}");
    assert!(line(table, "latency-300").contains(&"ms"), "{table}");

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
        // Of processes it is known where there is a /proc.
        let known: &[&str] =
            if cfg!(target_os = "linux") { &["api", "dispatcher", "redis"] } else { &["redis"] };
        for process in known {
            assert!(scenario["memory_mib"][process].as_f64().unwrap() > 0.0, "{scenario}");
        }
    }
    assert_eq!(scenarios[0]["figures"][0]["target"]["of_bare"], 0.25);

    assert!(comparison.contains("they are not alike: sizes 1 and 0.003"), "{comparison}");
    let row = line(comparison, "latency-300").join(" ");
    assert!(row.starts_with("latency-300 POST to 201, p50 0.500 ms ") && !row.ends_with('-'), "{row}");
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
