//! `eventrail keys` and `eventrail audit-log`, and how commands show who they are

use crate::desk::{Desk, run};

const ADMIN: (&str, &str) = ("EVENTRAIL_KEY", "the-first-key-of-all");

#[tokio::test]
async fn keys_are_made_used_and_revoked() {
    let desk = Desk::start_with(&[("ADMIN_TOKEN", ADMIN.1)]).await;
    let _ = desk.run(&["groups", "list"]).await.refuses(1, &["A key is needed", "EVENTRAIL_KEY"]);
    let wrong = desk.run_with(&[("EVENTRAIL_KEY", "wrong")], &["groups", "list"]).await;
    assert!(!wrong.refuses(1, &["A key is needed"]).err.contains("no key was sent"));

    let words =
        ["keys", "create", "billing team", "--role", "subscriber", "--group", "default", "--expires", "30d"];
    let made = desk.run_with(&[ADMIN], &words).await.shows(&["billing team", "subscriber", "never again"]);
    let word = |prefix: &str| {
        let line = made.out.lines().find(|line| line.starts_with(prefix)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let (id, key) = (word("id"), word("key"));

    let file = std::env::temp_dir().join(format!("eventrail-key-{}", std::process::id()));
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let path = file.to_str().unwrap();
    let _ = desk.run_with(&[("EVENTRAIL_KEY_FILE", path)], &["groups", "list"]).await.shows(&["default"]);
    let forbidden = desk.run(&["keys", "list", "--key-file", path]).await;
    let _ = forbidden.refuses(1, &["The key does not open this"]);
    std::fs::remove_file(&file).unwrap();
    let _ = desk.run(&["keys", "list", "--key-file", path]).await.refuses(2, &["can't be read", path]);
    let unusable = desk.run_with(&[("EVENTRAIL_KEY", "a\nb")], &["groups", "list"]).await;
    assert!(!unusable.refuses(2, &["is it the right file"]).err.contains("a\nb"));

    let listed = desk.run_with(&[ADMIN], &["keys", "list"]).await.shows(&["billing team"]);
    assert!(!listed.out.contains(&key), "{listed:#?}");
    assert_eq!(listed.rows()[0][0], id);
    let revoke = ["keys", "revoke", &id];
    let _ = desk.run_with(&[ADMIN], &revoke).await.refuses(2, &["billing team", "--yes"]);
    let _ = desk.run_with(&[ADMIN], &[&revoke[..], &["--yes"]].concat()).await.shows(&["Revoked"]);
    let gone = desk.run_with(&[("EVENTRAIL_KEY", &key)], &["groups", "list"]).await;
    let _ = gone.refuses(1, &["A key is needed"]);

    let audit = desk.run_with(&[ADMIN], &["audit-log"]).await.shows(&["create_api_key", "delete_api_key"]);
    assert!(audit.rows()[0].contains(&"admin"), "{audit:#?}");
}

#[tokio::test]
async fn completions_know_the_commands_of_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&[], &["completions", shell]).await.expect(0);
        for word in ["dead-letters", "set-cursor", "rotate-secret"] {
            assert!(script.out.contains(word), "{shell}: {word}");
        }
    }
    let _ = run(&[], &["completions", "tcsh"]).await.refuses(2, &["tcsh"]);
}
