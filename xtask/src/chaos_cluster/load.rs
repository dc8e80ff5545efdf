//! People who talk and programs that start runs, whatever happens: each asks one node after another, with one key, until it
//! is accepted. As a load balancer would, they leave a node that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::tenant;
use crate::dice::Dice;
use crate::http::Http;

/// How long a node is waited for before the next is asked.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is not accepted for this long is a failure of its own.
const ACCEPTED_MAX: Duration = Duration::from_secs(90);

/// A message that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) tenant: usize,
    pub(super) talker: usize,
    pub(super) text: String,
    pub(super) begun: Instant,
    pub(super) accepted: Instant,
}

/// A run that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub(super) id: String,
    pub(super) n: u64,
}

/// What all of them were answered, counted while they go on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) messages: AtomicU64,
    pub(super) runs: AtomicU64,
    pub(super) again: AtomicU64,
    /// Answers 503, which say that it was not accepted, or not for certain.
    pub(super) refused: AtomicU64,
}

/// All who load the cluster, each in a thread.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    talkers: Vec<JoinHandle<anyhow::Result<Vec<Accepted>>>>,
    starters: Vec<JoinHandle<anyhow::Result<Vec<Started>>>>,
    pub(super) counts: Arc<Counts>,
}

struct Caller {
    urls: Vec<String>,
    token: String,
    at: usize,
    http: Option<Http>,
    dice: Dice,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Load {
    /// `talkers` for each tenant, whose tokens are given, and `starters` for the first.
    pub(super) fn start(urls: &[String], tokens: &[String], talkers: usize, starters: usize, seed: u64) -> Load {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let caller = |token: &String, nth: usize| Caller {
            urls: urls.to_vec(),
            token: token.clone(),
            at: nth % urls.len(),
            http: None,
            dice: Dice::new(seed, 1 + nth as u64),
            stop: stop.clone(),
            counts: counts.clone(),
        };
        let mut talking = Vec::new();
        for (tenant, token) in tokens.iter().enumerate() {
            for talker in 0..talkers {
                let caller = caller(token, tenant * talkers + talker);
                talking.push(std::thread::spawn(move || caller.talk(tenant, talker, seed)));
            }
        }
        let starting = (0..starters).map(|starter| {
            let caller = caller(&tokens[0], 10_000 + starter);
            std::thread::spawn(move || caller.start_runs(starter as u64, seed))
        });
        let starters = starting.collect();
        Load { stop, talkers: talking, starters, counts }
    }

    /// Has them finish what they are at, and gives all that was accepted, in order for each talker.
    pub(super) fn stop(self) -> anyhow::Result<(Vec<Accepted>, Vec<Started>)> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut accepted, mut started) = (Vec::new(), Vec::new());
        for thread in self.talkers {
            accepted.extend(thread.join().map_err(|_| anyhow::anyhow!("a talker panicked"))??);
        }
        for thread in self.starters {
            started.extend(thread.join().map_err(|_| anyhow::anyhow!("a starter panicked"))??);
        }
        Ok((accepted, started))
    }
}

impl Caller {
    fn talk(mut self, number: usize, talker: usize, seed: u64) -> anyhow::Result<Vec<Accepted>> {
        let mut all = Vec::new();
        let path = format!("/v1/sessions/echo/talker-{talker}/chaos/messages");
        while !self.stop.load(Ordering::Relaxed) {
            let text = format!("{} talker-{talker} says {}", tenant(number), all.len());
            let key = format!("chaos-{seed}-{talker}-{}", all.len());
            let begun = Instant::now();
            self.post(&path, &key, &json!({ "text": text }))?;
            self.counts.messages.fetch_add(1, Ordering::Relaxed);
            all.push(Accepted { tenant: number, talker, text, begun, accepted: Instant::now() });
            // Bursts that belong together, and pauses that end them.
            let pause = if self.dice.once_in(3) { self.dice.between(100, 800) } else { self.dice.between(10, 150) };
            std::thread::sleep(Duration::from_millis(pause));
        }
        Ok(all)
    }

    fn start_runs(mut self, starter: u64, seed: u64) -> anyhow::Result<Vec<Started>> {
        #[derive(Deserialize)]
        struct Answer {
            run_id: String,
        }
        let mut all: Vec<Started> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let n = starter * 1_000_000 + all.len() as u64;
            let key = format!("chaos-{seed}-run-{n}");
            let answer = self.post("/v1/workflows/double/runs", &key, &json!({ "input": { "n": n } }))?;
            self.counts.runs.fetch_add(1, Ordering::Relaxed);
            let Answer { run_id } = serde_json::from_value(answer)?;
            all.push(Started { id: run_id, n });
            let pause = self.dice.between(20, 200);
            std::thread::sleep(Duration::from_millis(pause));
        }
        Ok(all)
    }

    /// Asks until it is accepted. No answer says nothing about whether it was.
    fn post(&mut self, path: &str, key: &str, body: &Value) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(body)?;
        let begun = Instant::now();
        let mut last = "no answer".to_owned();
        while begun.elapsed() < ACCEPTED_MAX {
            let (url, token) = (&self.urls[self.at], &self.token);
            let http = self.http.get_or_insert_with(|| Http::new(url, token).patience(PATIENCE));
            match http.ask("POST", path, &[("Idempotency-Key", key)], &body) {
                Ok(response) if (200..300).contains(&response.status) => {
                    return Ok(serde_json::from_slice(&response.body)?);
                }
                Ok(response) if response.status == 429 || response.status == 503 => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    last = String::from_utf8_lossy(&response.body).into_owned();
                }
                Ok(response) => {
                    let said = String::from_utf8_lossy(&response.body).into_owned();
                    bail!("{key} was answered {}: {said}", response.status)
                }
                Err(_) => {
                    // The next node: this one is gone, frozen, or going.
                    self.http = None;
                    self.at = (self.at + 1) % self.urls.len();
                }
            }
            self.counts.again.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(self.dice.between(5, 50)));
        }
        Err(anyhow::anyhow!(last)).with_context(|| format!("{key} was not accepted within {ACCEPTED_MAX:?}"))
    }
}
