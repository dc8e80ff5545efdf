//! The tools that are called, one for each policy and way, and those who call them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::http::Http;

/// A call that is not accepted for this long, over however many restarts, is a failure of its own.
const ACCEPTED_MAX: Duration = Duration::from_secs(60);

/// What a tool promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// It only reads, and is answered.
    Read,
    /// It is done in the end, once for whoever knows its key.
    Done,
    /// It is done at most once, and where that is in doubt nobody pretends to know.
    OnceOrUnknown,
    /// It is done once: the provider can be asked.
    Once,
    /// What it did is undone: its last step fails.
    Undone,
}

/// A tool that is called, by name.
pub(super) const CALLED: [(&str, Promise); 9] = [
    ("look", Promise::Read),
    ("note", Promise::Done),
    ("note.durable", Promise::Done),
    ("book", Promise::OnceOrUnknown),
    ("book.probed", Promise::Once),
    ("pay", Promise::OnceOrUnknown),
    ("pay.probed", Promise::Once),
    ("look.queued", Promise::Read),
    ("trip", Promise::Undone),
];

/// The steps of `trip` that are done and undone.
pub(super) const TRIP_STEPS: [&str; 2] = ["flight", "hotel"];

/// Puts every tool into the catalogue.
pub(super) fn define(http: &mut Http, proxy: &str) -> anyhow::Result<()> {
    // More tries than will ever be needed: what is promised does not depend on luck.
    let retry = json!({ "tries_max": 100, "backoff_ms": 10, "backoff_max_ms": 100 });
    let tool = |path: &str, policy: &str, more: Value| {
        let mut tool = json!({
            "policy": policy, "provider": { "kind": "http", "url": format!("{proxy}{path}") }, "retry": retry,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            tool[name] = value.clone();
        }
        tool
    };
    let probe = json!({ "tool": "probe", "arguments": { "key": "{{call.key}}" } });
    let undo = json!({ "tool": "cancel" });
    let both = json!({ "compensation": undo, "probe": probe });
    let steps = json!({ "kind": "steps", "steps": [
        { "name": TRIP_STEPS[0], "tool": "book.probed" },
        { "name": TRIP_STEPS[1], "tool": "book.probed" },
        { "name": "full", "tool": "full" },
    ] });
    let all = [
        ("probe", tool("/probe", "pure", json!({}))),
        ("cancel", tool("/once", "idempotent", json!({}))),
        ("full", tool("/full", "idempotent", json!({}))),
        ("look", tool("/look", "pure", json!({ "path": "durable" }))),
        ("note", tool("/once", "idempotent", json!({}))),
        ("note.durable", tool("/once", "idempotent", json!({ "path": "durable" }))),
        ("book", tool("/act", "compensatable", json!({ "compensation": undo }))),
        ("book.probed", tool("/act", "compensatable", both)),
        ("pay", tool("/act", "irreversible", json!({}))),
        ("pay.probed", tool("/act", "irreversible", json!({ "probe": probe }))),
        ("look.queued", tool("/look", "pure", json!({ "path": "queued" }))),
        ("trip", json!({ "policy": "compensatable", "provider": steps })),
    ];
    for (name, tool) in all {
        let response = http.ask("PUT", &format!("/v1/tools/{name}"), &[], &serde_json::to_vec(&tool)?)?;
        if response.status != 200 {
            bail!("tool {name} answered {}: {}", response.status, String::from_utf8_lossy(&response.body));
        }
    }
    Ok(())
}

/// A call that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) tool: &'static str,
    pub(super) promise: Promise,
    /// What the provider is sent.
    pub(super) key: String,
    pub(super) execution: String,
}

/// What all callers did, counted while they do it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) accepted: AtomicU64,
    pub(super) retried: AtomicU64,
}

/// Programs that call tools whatever happens: each call under one key until it is accepted.
pub(super) struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<Vec<Accepted>>>>,
    pub(super) counts: Arc<Counts>,
}

impl Callers {
    pub(super) fn start(count: usize, url: &str, token: &str, seed: u64) -> Callers {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let threads = (0..count).map(|number| {
            let caller = Caller {
                number,
                http: Http::new(url, token),
                dice: Dice::new(seed, 1 + number as u64),
                stop: stop.clone(),
                counts: counts.clone(),
            };
            std::thread::spawn(move || caller.go_on())
        });
        let threads = threads.collect();
        Callers { stop, threads, counts }
    }

    /// Has them finish the call they are at, and gives all that were accepted.
    pub(super) fn stop(self) -> anyhow::Result<Vec<Accepted>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            match thread.join() {
                Ok(accepted) => all.extend(accepted?),
                Err(_) => bail!("a caller panicked"),
            }
        }
        Ok(all)
    }
}

struct Caller {
    number: usize,
    http: Http,
    dice: Dice,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Caller {
    fn go_on(mut self) -> anyhow::Result<Vec<Accepted>> {
        let mut all = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let (tool, promise) = CALLED[self.dice.between(0, CALLED.len() as u64 - 1) as usize];
            let answer = self.call(tool, all.len())?;
            self.counts.accepted.fetch_add(1, Ordering::Relaxed);
            let text =
                |part: &str| answer[part].as_str().map(str::to_owned).with_context(|| format!("no {part}: {answer}"));
            all.push(Accepted { tool, promise, key: text("idempotency_key")?, execution: text("execution_id")? });
            std::thread::sleep(Duration::from_millis(self.dice.between(0, 15)));
        }
        Ok(all)
    }

    /// Calls until accepted. No answer says nothing about whether it was.
    fn call(&mut self, tool: &str, nth: usize) -> anyhow::Result<Value> {
        let key = format!("call-{}-{nth}", self.number);
        let path = format!("/v1/tools/{tool}/execute");
        let body = serde_json::to_vec(&json!({ "arguments": { "nth": nth }, "wait_ms": 0 }))?;
        let begun = Instant::now();
        while begun.elapsed() < ACCEPTED_MAX {
            match self.http.ask("POST", &path, &[("Idempotency-Key", &key)], &body) {
                Ok(response) if response.status == 200 || response.status == 202 => {
                    return Ok(serde_json::from_slice(&response.body)?);
                }
                // Busy, or going down.
                Ok(response) if response.status == 429 || response.status == 503 => {}
                Ok(response) => {
                    bail!("{key} of {tool} answered {}: {}", response.status, String::from_utf8_lossy(&response.body))
                }
                Err(_) => {}
            }
            self.counts.retried.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(self.dice.between(2, 20)));
        }
        bail!("{key} of {tool} was not accepted within {ACCEPTED_MAX:?}")
    }
}
