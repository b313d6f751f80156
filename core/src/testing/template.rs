//! A PostgreSQL directory with the schema in it, made once for each version of the migrations and copied
//! by every test: `initdb` and the migrations would take each of them a second.

use std::path::{Path, PathBuf};

use crate::db;
use crate::servers::{Binaries, Postgres, PostgresOptions};

/// The template's path. Tests that run at once may all make it; the first to finish wins.
pub(super) async fn path(binaries: &Binaries) -> PathBuf {
    let name = format!("{}-{}", postgres_version(binaries), db::migrate::fingerprint());
    let shelf = build_directory().join("eventrail-templates");
    let template = shelf.join(name);
    if template.exists() {
        return template;
    }
    std::fs::create_dir_all(&shelf).unwrap();
    let workshop = std::env::temp_dir().join(format!("eventrail-template-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&workshop).unwrap();
    let mut postgres = Postgres::start(binaries, &workshop, PostgresOptions::for_tests()).await.unwrap();
    let options = db::connect_options(&postgres.url(), "eventrail-template").unwrap();
    let pool = db::pool(options, 1);
    db::migrate::migrate(&pool).await.unwrap();
    pool.close().await;
    postgres.stop().await;

    let unfinished = shelf.join(format!("unfinished-{}", uuid::Uuid::new_v4()));
    let copied = tokio::process::Command::new("cp")
        .args(["-a", &postgres.directory().display().to_string(), &unfinished.display().to_string()])
        .status()
        .await
        .unwrap();
    assert!(copied.success());
    if std::fs::rename(&unfinished, &template).is_err() {
        // Another test was faster.
        std::fs::remove_dir_all(&unfinished).unwrap();
    }
    std::fs::remove_dir_all(workshop).unwrap();
    template
}

/// `target/<profile>`, or the temporary directory for a binary that lies elsewhere.
fn build_directory() -> PathBuf {
    let binary = std::env::current_exe().unwrap_or_default();
    let profile = binary.ancestors().find(|directory| directory.join(".cargo-lock").exists());
    profile.map_or_else(std::env::temp_dir, Path::to_owned)
}

fn postgres_version(binaries: &Binaries) -> String {
    let output = std::process::Command::new(binaries.postgres_bin.join("postgres")).arg("--version").output();
    let line = String::from_utf8(output.unwrap().stdout).unwrap();
    line.chars().filter(char::is_ascii_digit).take(6).collect()
}
