//! The fuzz targets over their seeds, so that neither rots between two runs of `make fuzz`. What fuzzing finds is
//! kept as a seed, beside the test of the crate that it was mended in.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a crate of its own, where it is fuzzed")]
mod fuzz;

#[test]
fn each_fuzz_target_holds_for_its_seeds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifest = std::fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
    for (name, run) in fuzz::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        let mut seeds = 0;
        for seed in std::fs::read_dir(root.join("fuzz/seeds").join(name)).unwrap() {
            let path = seed.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            let held = std::panic::catch_unwind(|| run(&data));
            assert!(held.is_ok(), "{name} does not hold for {}", path.display());
            seeds += 1;
        }
        assert!(seeds >= 10, "{name} has {seeds} seeds");
    }
    assert_eq!(std::fs::read_dir(root.join("fuzz/seeds")).unwrap().count(), fuzz::TARGETS.len());
}
