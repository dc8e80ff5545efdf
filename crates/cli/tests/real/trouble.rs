//! The real binary in trouble: a disk that takes no more, a port in use, a directory in use, a damaged log.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::house::{BINARY, Server};

struct Dev {
    server: Server,
    token: String,
}

impl Dev {
    /// Starts `mainspring dev` behind a shell prelude, and waits until it has said where it listens.
    async fn start(dir: &Path, prelude: &str) -> Dev {
        let mut command = Command::new("sh");
        let script = format!("{prelude} exec {BINARY} dev --dir {} --listen 127.0.0.1:0", dir.display());
        command.args(["-c", &script]).env("MAINSPRING_DEV_QUIET_MS", "100").env("MAINSPRING_DEV_TOOL_MS", "0");
        let server = Server::start(command, dir).await;
        // It was there before the server was ready.
        let token = std::fs::read_to_string(dir.join("keys/dev.token")).expect("a token");
        Dev { server, token }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.server.get(&self.token, path).await
    }

    async fn send(&self, who: &str, text: &str) -> (u16, Value) {
        let path = format!("/v1/sessions/orders/{who}/web/messages");
        self.server.post(&self.token, &path, &json!({ "text": text })).await
    }
}

/// What `dev` says on a directory that it must refuse.
fn refused_on(dir: &Path) -> String {
    let mut command = Command::new(BINARY);
    let output = command.args(["dev", "--listen", "127.0.0.1:0", "--dir"]).arg(dir).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    text
}

#[tokio::test]
async fn a_full_disk_stops_acceptance_and_loses_nothing_accepted() {
    let dir = tempfile::tempdir().expect("a directory");
    // No file may grow beyond 4 MiB: the log's second segment can't be made. Ignoring the signal turns it into an error.
    let dev = Dev::start(dir.path(), "trap '' XFSZ; ulimit -f 4096;").await;
    let text = "x".repeat(20_000);
    let mut accepted = Vec::new();
    let refused = loop {
        let (status, body) = dev.send(&format!("p{}", accepted.len()), &text).await;
        if status != 202 {
            break (status, body);
        }
        accepted.push(body["message_id"].as_str().expect("an id").to_owned());
        assert!(accepted.len() < 5_000, "the limit is never felt");
    };
    assert_eq!((refused.0, refused.1["code"].as_str()), (503, Some("log_unwritable")), "{}", refused.1);
    let (status, problem) = dev.get("/readyz").await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("log_unwritable")), "{problem}");
    assert!(problem["action"].as_str().is_some_and(|action| action.contains("restart")), "{problem}");
    assert_eq!(dev.get("/healthz").await.0, 200, "the process itself lives");
    drop(dev);

    let dev = Dev::start(dir.path(), "").await;
    assert_eq!(dev.get("/readyz").await.0, 200);
    assert!(accepted.len() > 5, "some were accepted before");
    for id in &accepted {
        let (status, message) = dev.get(&format!("/v1/messages/{id}")).await;
        assert_eq!(status, 200, "message {id} was accepted and is lost: {message}");
        assert_eq!(message["text"].as_str().map(str::len), Some(text.len()));
    }
}

#[tokio::test]
async fn a_second_process_is_told_that_the_directory_is_in_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let _dev = Dev::start(dir.path(), "").await;
    let text = refused_on(dir.path());
    assert!(text.contains("in use") || text.contains("another process"), "{text}");
    assert!(!text.contains("backtrace"), "{text}");
}

#[tokio::test]
async fn a_torn_tail_opens_and_damage_in_the_middle_refuses() {
    let dir = tempfile::tempdir().expect("a directory");
    let dev = Dev::start(dir.path(), "").await;
    let mut ids = Vec::new();
    for nth in 0..20 {
        let (status, body) = dev.send("ann", &format!("message {nth}")).await;
        assert_eq!(status, 202, "{body}");
        ids.push(body["message_id"].as_str().expect("an id").to_owned());
    }
    drop(dev);
    let segment =
        dir.path().join("p0/log").read_dir().expect("the log").filter_map(Result::ok).map(|entry| entry.path());
    let segment = segment.filter(|path| path.extension().is_some_and(|e| e == "seg")).min().expect("a segment");
    let whole = std::fs::read(&segment).expect("readable");

    // Behind the last record: what a write cut short leaves.
    let end = whole.iter().rposition(|byte| *byte != 0).expect("not empty") / 4096 * 4096 + 4096;
    let mut torn = whole.clone();
    torn[end..end + 100].fill(0xab);
    std::fs::write(&segment, &torn).expect("writable");
    let dev = Dev::start(dir.path(), "").await;
    for id in &ids {
        assert_eq!(dev.get(&format!("/v1/messages/{id}")).await.0, 200);
    }
    drop(dev);

    // In a record that others follow. The tables must not have passed it, or nobody would read it again.
    let fresh = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(fresh.path().join("p0/log")).expect("writable");
    std::fs::copy(dir.path().join("partitions"), fresh.path().join("partitions")).expect("copied");
    let mut damaged = whole;
    damaged[4096 * 3 + 40] ^= 0xff;
    let name = segment.file_name().expect("a name");
    std::fs::write(fresh.path().join("p0/log").join(name), &damaged).expect("writable");
    let text = refused_on(fresh.path());
    let named = [name.to_str().expect("ascii"), "byte 12288", "backup"];
    assert!(named.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn wrong_settings_are_one_sentence_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = |text: &str| {
        let path = dir.path().join("mainspring.toml");
        std::fs::write(&path, text).expect("writable");
        let output = Command::new(BINARY).args(["serve", "--config"]).arg(&path).output().expect("the binary runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(config("").contains("no tenant is configured"));
    assert!(config("[tenants.acme]\non_message = \"queue\"").contains("has no agent"));
    assert!(config("[[agents]]\nname = \"a\"\ntenant = \"t\"\nkind = \"http\"").contains("takes url"));
    assert!(config("[servr]").contains("servr"));
    let beyond = Command::new(BINARY).args(["dev", "--listen", "0.0.0.0:0"]).output().expect("the binary runs");
    assert!(String::from_utf8_lossy(&beyond.stderr).contains("loopback"));
}
