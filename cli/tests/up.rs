//! `eventrail up`, as a newcomer runs it: one command, its data kept over every kind of end.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};

use eventrail_core::servers::free_port;
use eventrail_core::testing::EventrailProcess;
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_eventrail");

struct Home {
    directory: PathBuf,
    listen: String,
}

impl Home {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("eventrail-up-{}", std::process::id()));
        Self { directory, listen: format!("127.0.0.1:{}", free_port().unwrap()) }
    }

    fn spawn(&self, listen: &str) -> EventrailProcess {
        let environment = [
            ("DATA_DIR".to_owned(), self.directory.display().to_string()),
            ("LISTEN".to_owned(), listen.to_owned()),
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
        ];
        EventrailProcess::spawn(BINARY, &["up"], &environment, listen)
    }

    async fn up(&self) -> EventrailProcess {
        self.spawn(&self.listen).until_ready().await
    }

    /// The process ids of the private servers that run.
    fn servers(&self) -> Vec<i32> {
        let first_line = |file: &str| {
            let text = std::fs::read_to_string(self.directory.join(file)).ok()?;
            text.lines().next()?.trim().parse::<i32>().ok()
        };
        let pids = ["postgres/postmaster.pid", "redis/redis.pid"].into_iter().filter_map(first_line);
        pids.filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn post(up: &EventrailProcess) -> (u16, String) {
    let api = up.client();
    let reply = api.post_event_once("key-1", "order.created", "shop", json!({ "total": 42 })).await.unwrap();
    (reply.status, reply.body["id"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn up_keeps_its_data_over_ctrl_c_and_kill_9() {
    let home = Home::new();
    let up = home.up().await;
    up.until_says("EventRail is up at").await;
    let (status, id) = post(&up).await;
    assert_eq!(status, 201);
    assert_eq!(up.client().get("/health").await.expect(200).body["redis"], "ok");
    up.sigint();
    assert!(up.exit().await.success());
    assert_eq!(home.servers(), Vec::<i32>::new(), "Ctrl-C stops the servers too");

    let up = home.up().await;
    assert_eq!(post(&up).await, (200, id.clone()), "the same event, known by its key");
    let servers = home.servers();
    assert_eq!(servers.len(), 2);
    up.kill9().await;

    let up = home.up().await;
    assert_eq!(post(&up).await, (200, id));
    assert!(home.servers().iter().all(|pid| !servers.contains(pid)));
    assert!(up.sigterm().await.success());
}

#[tokio::test]
async fn a_second_up_on_the_same_port_or_data_is_refused_in_one_line() {
    let home = Home::new();
    let up = home.up().await;

    let same_port = home.spawn(&home.listen);
    same_port.until_says("is taken: set LISTEN").await;
    assert_eq!(same_port.log().lines().count(), 1, "{}", same_port.log());
    assert_eq!(same_port.exit().await.code(), Some(2));

    let same_data = home.spawn("127.0.0.1:0");
    same_data.until_says("is in use by another EventRail").await;
    assert_eq!(same_data.log().lines().count(), 1, "{}", same_data.log());
    assert_eq!(same_data.exit().await.code(), Some(2));
    assert!(up.sigterm().await.success());
}
