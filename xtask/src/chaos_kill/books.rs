//! What the server says afterwards, read through its own front door, and what the agent left behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::load::Accepted;
use super::sink::Sink;
use crate::http::Http;

/// How long everything accepted may take to be finished once nobody talks any more.
const FINISH_MAX: Duration = Duration::from_secs(120);
/// Threads that read.
const READERS: usize = 4;
/// Runs asked for at once.
const PAGE: usize = 200;

/// A message, as the server shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub(super) state: String,
    pub(super) turn_id: Option<String>,
}

/// A turn, as the server shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Turn {
    pub(super) id: String,
    pub(super) session: String,
    pub(super) state: String,
    pub(super) superseded_by: Option<String>,
    pub(super) turn_group_id: String,
    pub(super) messages: Vec<TurnMessage>,
    pub(super) reply: Option<Reply>,
    pub(super) error: Option<String>,
    pub(super) started_at: u64,
    pub(super) finished_at: Option<u64>,
    pub(super) agent_run: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TurnMessage {
    pub(super) id: String,
    pub(super) text: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Reply {
    pub(super) id: String,
    pub(super) text: String,
}

/// A run, as the server lists it.
#[derive(Debug, Deserialize)]
struct Listed {
    id: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Page {
    runs: Vec<Listed>,
    next_cursor: Option<String>,
}

/// A run with its journal.
#[derive(Debug, Deserialize)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) tasks: Vec<Task>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Task {
    pub(super) journal: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) state: String,
    pub(super) detail: Option<String>,
}

/// One line the agent's tool wrote about what it did to the world.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SideEffect {
    pub(super) run: String,
    pub(super) turn: String,
    pub(super) step: String,
    pub(super) nonce: String,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) messages: BTreeMap<String, Message>,
    /// In the order they were begun in.
    pub(super) turns: Vec<Turn>,
    pub(super) agent_runs: BTreeMap<String, Run>,
    pub(super) side_effects: Vec<SideEffect>,
}

/// Waits until nothing is going on any more. An error names what still is.
pub(super) fn wait_until_finished(http: &mut Http, sink: &Sink) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        let open = open_runs(http)?;
        if open.is_empty() {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > FINISH_MAX {
            let some: Vec<&str> = open.iter().take(10).map(String::as_str).collect();
            bail!(
                "{FINISH_MAX:?} after the last message {} runs had not ended ({} deliveries came): {}",
                open.len(),
                sink.taken().len(),
                some.join(", ")
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn open_runs(http: &mut Http) -> anyhow::Result<Vec<String>> {
    let mut open = Vec::new();
    for state in ["queued", "running", "parked"] {
        let page: Page = http.get(&format!("/v1/runs?state={state}&limit={PAGE}"))?;
        open.extend(page.runs.into_iter().map(|run| format!("{} {}", run.id, run.state)));
    }
    Ok(open)
}

impl Books {
    pub(super) fn read(url: &str, token: &str, accepted: &[Vec<Accepted>], dir: &Path) -> anyhow::Result<Books> {
        let mut http = Http::new(url, token);
        let mut ids = Vec::new();
        let mut cursor = None::<String>;
        loop {
            let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let page: Page = http.get(&format!("/v1/runs?workflow=turn&limit={PAGE}{after}"))?;
            ids.extend(page.runs.into_iter().map(|run| run.id));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let read = |paths: Vec<String>| Reading { url, token, paths };
        let mut turns: Vec<Turn> = read(ids.iter().map(|id| format!("/v1/turns/{id}")).collect()).all()?;
        turns.sort_by(|a, b| (a.started_at, &a.id).cmp(&(b.started_at, &b.id)));
        let runs = turns.iter().filter_map(|turn| turn.agent_run.as_ref()).map(|id| format!("/v1/runs/{id}"));
        let runs: Vec<Run> = read(runs.collect()).all()?;
        let ids: Vec<&String> = accepted.iter().flatten().map(|one| &one.message_id).collect();
        let messages: Vec<Message> = read(ids.iter().map(|id| format!("/v1/messages/{id}")).collect()).all()?;
        Ok(Books {
            messages: ids.into_iter().cloned().zip(messages).collect(),
            turns,
            agent_runs: runs.into_iter().map(|run| (run.id.clone(), run)).collect(),
            side_effects: side_effects(&dir.join("orders-agent").join("side-effects.jsonl"))?,
        })
    }
}

/// Many reads, by several threads.
struct Reading<'a> {
    url: &'a str,
    token: &'a str,
    paths: Vec<String>,
}

impl Reading<'_> {
    /// All answers, in the order of the paths.
    fn all<T: serde::de::DeserializeOwned + Send>(&self) -> anyhow::Result<Vec<T>> {
        let share = self.paths.len().div_ceil(READERS).max(1);
        let parts: Vec<anyhow::Result<Vec<T>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .paths
                .chunks(share)
                .map(|paths| {
                    scope.spawn(move || {
                        let mut http = Http::new(self.url, self.token);
                        paths.iter().map(|path| http.get(path)).collect()
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|part| part.unwrap_or_else(|_| bail!("a reader panicked"))).collect()
        });
        let mut all = Vec::new();
        for part in parts {
            all.extend(part?);
        }
        Ok(all)
    }
}

fn side_effects(path: &Path) -> anyhow::Result<Vec<SideEffect>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
    let lines = text.lines().map(|line| {
        serde_json::from_str(line).with_context(|| format!("{}: not a whole line: {line:?}", path.display()))
    });
    lines.collect()
}
