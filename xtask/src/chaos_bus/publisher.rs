//! Somebody who publishes configurations all the while, asks again under the same key until answered, and keeps book of
//! what was accepted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::redis::{Conn, Reply};
use crate::http::Http;

const AGENT: &str = "/v1/agents/echo";
/// Where Redis has the number of the version that is current.
const POINTER: &str = "acme:echo:cfg";
/// Between two publishes.
const PAUSE: Duration = Duration::from_millis(400);
/// How long what was accepted may take after the last trouble.
const FINISH_MAX: Duration = Duration::from_secs(300);

pub(super) struct Publisher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<String>>>,
}

impl Publisher {
    pub(super) fn start(url: &str, token: &str) -> Publisher {
        let stop = Arc::new(AtomicBool::new(false));
        let (http, stopped) = (Http::new(url, token), stop.clone());
        let thread = std::thread::spawn(move || go(http, &stopped));
        Publisher { stop, thread }
    }

    /// Publishes nothing new; gives what was accepted.
    pub(super) fn stop(self) -> anyhow::Result<Vec<String>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?
    }
}

fn go(mut http: Http, stop: &AtomicBool) -> anyhow::Result<Vec<String>> {
    insist(&mut http, "PUT", &format!("{AGENT}/config/settings"), None, &json!({ "concurrency": "queue" }))?;
    let mut accepted = Vec::new();
    for n in 1.. {
        let draft = json!({ "templates": [{ "id": "greeting", "text": format!("hello {n}") }] });
        insist(&mut http, "PUT", &format!("{AGENT}/config/draft"), None, &draft)?;
        let key = format!("publish-{n}");
        let said = insist(&mut http, "POST", &format!("{AGENT}/publish"), Some(&key), &json!({}))?;
        accepted.push(said["publish_id"].as_str().context("a publish without an id")?.to_owned());
        if stop.load(Ordering::SeqCst) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(accepted)
}

/// Asks until it is answered: whether an earlier one of the same request was heard, nobody knows.
fn insist(http: &mut Http, method: &str, path: &str, key: Option<&str>, body: &Value) -> anyhow::Result<Value> {
    let headers: Vec<(&str, &str)> = key.iter().map(|key| ("idempotency-key", *key)).collect();
    let begun = Instant::now();
    loop {
        match http.ask(method, path, &headers, body.to_string().as_bytes()) {
            Ok(answer) if (200..300).contains(&answer.status) && answer.body.is_empty() => return Ok(Value::Null),
            Ok(answer) if (200..300).contains(&answer.status) => return Ok(serde_json::from_slice(&answer.body)?),
            Ok(answer) if answer.status < 500 && answer.status != 429 => {
                bail!("{method} {path} answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body))
            }
            other if begun.elapsed() > FINISH_MAX => {
                let last = other.map_or_else(|error| error.to_string(), |answer| format!("status {}", answer.status));
                bail!("{method} {path} had no answer for {FINISH_MAX:?}, last: {last}")
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// What is wrong with the accepted publishes, once all are over: each moved the pointer once, and Redis has the last.
pub(super) fn check(url: &str, token: &str, redis: u16, accepted: &[String]) -> anyhow::Result<Vec<String>> {
    let mut http = Http::new(url, token);
    let mut violations = Vec::new();
    let (mut epochs, mut versions) = (BTreeSet::new(), BTreeSet::new());
    let begun = Instant::now();
    for id in accepted {
        let over = loop {
            let found: Value = http.get(&format!("/v1/publishes/{id}"))?;
            if !["pending", "running"].contains(&found["status"].as_str().unwrap_or_default()) {
                break found;
            }
            if begun.elapsed() > FINISH_MAX {
                bail!("publish {id} is not over after {FINISH_MAX:?}: {found}");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if over["status"] != "completed" {
            violations.push(format!("publish {id} is {}: {}", over["status"], over["error"]));
        }
        let (epoch, version) = (over["epoch"].as_u64().unwrap_or(0), over["version"].as_u64().unwrap_or(0));
        if !epochs.insert(epoch) || !versions.insert(version) {
            violations.push(format!("publish {id} has epoch {epoch} and version {version}, as another has"));
        }
    }
    let pointer: Value = http.get(&format!("{AGENT}/pointer"))?;
    let (last, count) = (pointer["version"].as_u64().unwrap_or(0), accepted.len() as u64);
    if pointer["epoch"].as_u64() != Some(count) || epochs.last() != Some(&count) {
        violations.push(format!("{count} publishes moved the pointer {} times", pointer["epoch"]));
    }
    if versions.last() != Some(&last) {
        violations.push(format!("the pointer is at version {last}, the last one accepted is {:?}", versions.last()));
    }
    let wanted = Reply::Text(last.to_string());
    loop {
        let has = Conn::open(redis).and_then(|mut conn| conn.ask(&["GET", POINTER]));
        match has {
            Ok(found) if found == wanted => return Ok(violations),
            _ if begun.elapsed() < FINISH_MAX => std::thread::sleep(Duration::from_millis(200)),
            found => {
                violations.push(format!("Redis has {found:?} at {POINTER} rather than {last}"));
                return Ok(violations);
            }
        }
    }
}
