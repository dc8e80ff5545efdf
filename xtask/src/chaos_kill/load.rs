//! People who go on talking whatever happens: each message is sent with one key until it is accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::dice::Dice;
use crate::http::Http;

/// A message that is not accepted for this long, over however many restarts, is a failure of its own.
const ACCEPTED_MAX: Duration = Duration::from_secs(60);
/// One message in so many is sent once more after it was accepted.
const AGAIN_ONCE_IN: u64 = 20;

/// A message that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    /// The talker's number, and the message's among its own, both counted from 0.
    pub(super) talker: usize,
    pub(super) nth: usize,
    pub(super) text: String,
    pub(super) message_id: String,
    /// The turn named in the answer. Others may have taken the message over since.
    pub(super) turn_id: String,
    pub(super) session: String,
}

/// What all talkers did, counted while they do it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) accepted: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) repeated: AtomicU64,
}

/// The talkers, each in a thread.
pub(super) struct Talkers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<Vec<Accepted>>>>,
    pub(super) counts: Arc<Counts>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Answer {
    message_id: String,
    turn_id: String,
    session: String,
    duplicate: bool,
}

impl Talkers {
    pub(super) fn start(count: usize, url: &str, token: &str, seed: u64) -> Talkers {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let threads = (0..count).map(|number| {
            let talker = Talker {
                number,
                seed,
                http: Http::new(url, token),
                dice: Dice::new(seed, 1 + number as u64),
                stop: stop.clone(),
                counts: counts.clone(),
            };
            std::thread::spawn(move || talker.talk())
        });
        let threads = threads.collect();
        Talkers { stop, threads, counts }
    }

    /// Has them finish the message they are at, and gives all that was accepted, talker by talker, in order.
    pub(super) fn stop(self) -> anyhow::Result<Vec<Vec<Accepted>>> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| match thread.join() {
            Ok(accepted) => accepted,
            Err(_) => bail!("a talker panicked"),
        });
        ended.collect()
    }
}

struct Talker {
    number: usize,
    seed: u64,
    http: Http,
    dice: Dice,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Talker {
    fn talk(mut self) -> anyhow::Result<Vec<Accepted>> {
        let mut all = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let nth = all.len();
            let text = format!("talker {} says {nth}", self.number);
            let answer = self.send(nth, &text)?;
            self.counts.accepted.fetch_add(1, Ordering::Relaxed);
            if self.dice.once_in(AGAIN_ONCE_IN) {
                let again = self.send(nth, &text)?;
                self.counts.repeated.fetch_add(1, Ordering::Relaxed);
                if again.message_id != answer.message_id || !again.duplicate {
                    bail!("accepted as {answer:?}, then under the same key as {again:?}");
                }
            }
            let Answer { message_id, turn_id, session, .. } = answer;
            all.push(Accepted { talker: self.number, nth, text, message_id, turn_id, session });
            // Bursts that belong together, and pauses that end them.
            let pause = if self.dice.once_in(3) { self.dice.between(60, 400) } else { self.dice.between(1, 60) };
            std::thread::sleep(Duration::from_millis(pause));
        }
        Ok(all)
    }

    /// Sends until accepted. No answer says nothing about whether it was.
    fn send(&mut self, nth: usize, text: &str) -> anyhow::Result<Answer> {
        let key = format!("chaos-{}-{}-{nth}", self.seed, self.number);
        let path = format!("/v1/sessions/orders/talker-{}/chaos/messages", self.number);
        let body = serde_json::to_vec(&serde_json::json!({ "text": text }))?;
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < ACCEPTED_MAX {
            match self.http.ask("POST", &path, &[("Idempotency-Key", &key)], &body) {
                Ok(response) if response.status == 202 => return Ok(serde_json::from_slice(&response.body)?),
                // Busy, or going down.
                Ok(response) if response.status == 429 || response.status == 503 => last = Some(response.status),
                Ok(response) => {
                    bail!("{key} answered {}: {}", response.status, String::from_utf8_lossy(&response.body))
                }
                Err(_) => {}
            }
            self.counts.retried.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(self.dice.between(2, 20)));
        }
        let last = last.map_or("no answer".to_owned(), |status| status.to_string());
        Err(anyhow::anyhow!(last)).with_context(|| format!("{key} was not accepted within {ACCEPTED_MAX:?}"))
    }
}
