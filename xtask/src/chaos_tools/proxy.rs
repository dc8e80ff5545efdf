//! The way between the server and the provider, on which connections end before, while and after the provider acts.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::http::{Head, Http};

/// One request in so many is broken.
const BROKEN_ONCE_IN: u64 = 4;
/// Broken requests in a row. More, and the server would leave the provider alone for half a minute.
const BROKEN_IN_A_ROW_MAX: u32 = 2;

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Before the provider is asked.
    Before,
    /// While it acts: its answer goes nowhere.
    While,
    /// After it acted, in the middle of its answer.
    After,
}

/// What was seen of one key's way to a provider's act.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Requests, each with its beginning and its end.
    pub(super) requests: Vec<(Instant, Option<Instant>)>,
    pub(super) faults: Vec<Fault>,
    /// Requests that are on their way now.
    open: u32,
}

/// The proxy, listening until this program ends.
pub(super) struct Proxy {
    pub(super) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    provider: String,
    breaking: AtomicBool,
    chance: Mutex<(Dice, u32)>,
    seen: Mutex<BTreeMap<String, Seen>>,
}

impl Proxy {
    pub(super) fn listen(provider: &str, seed: u64) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            provider: provider.to_owned(),
            breaking: AtomicBool::new(true),
            chance: Mutex::new((Dice::new(seed, 1_000), 0)),
            seen: Mutex::default(),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Ok(Proxy { url, shared })
    }

    /// Breaks nothing any more.
    pub(super) fn calm(&self) {
        self.shared.breaking.store(false, Ordering::Relaxed);
    }

    /// What was seen, by key.
    pub(super) fn seen(&self) -> BTreeMap<String, Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut connection = BufReader::new(stream);
        let mut provider = Http::new(&self.provider, "none");
        while let Some(head) = Head::read(&mut connection)? {
            let body = head.body(&mut connection)?;
            let path = head.first_line.split(' ').nth(1).unwrap_or("/").to_owned();
            let key = head.header("idempotency-key").unwrap_or_default().to_owned();
            if path == "/probe" {
                // Those who ask what happened are always answered, and only when it has happened or never will: so it is
                // certain what must be known in the end.
                let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                self.wait_until_quiet(asked["key"].as_str().unwrap_or_default());
            }
            let fault = if path == "/probe" { None } else { self.fault() };
            let nth = self.note(&key, fault);
            let answer = match fault {
                Some(Fault::Before) => Ok(None),
                _ => provider.ask("POST", &path, &[("Idempotency-Key", &key)], &body).map(Some),
            };
            self.closed(&key);
            let Some(answer) = answer?.filter(|_| fault != Some(Fault::While)) else { return Ok(()) };
            let mut text = format!(
                "HTTP/1.1 {} So\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                answer.status,
                answer.body.len()
            )
            .into_bytes();
            text.extend_from_slice(&answer.body);
            if fault == Some(Fault::After) {
                text.truncate(text.len() - answer.body.len().div_ceil(2));
            }
            connection.get_mut().write_all(&text)?;
            if fault.is_some() {
                return Ok(());
            }
            self.answered(&key, nth);
        }
        Ok(())
    }

    fn fault(&self) -> Option<Fault> {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let (dice, in_a_row) = &mut *chance;
        let broken = self.breaking.load(Ordering::Relaxed) && dice.once_in(BROKEN_ONCE_IN);
        if !broken || *in_a_row >= BROKEN_IN_A_ROW_MAX {
            *in_a_row = 0;
            return None;
        }
        *in_a_row += 1;
        Some([Fault::Before, Fault::While, Fault::After][dice.between(0, 2) as usize])
    }

    fn note(&self, key: &str, fault: Option<Fault>) -> usize {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(key.to_owned()).or_default();
        seen.requests.push((Instant::now(), None));
        seen.faults.extend(fault);
        seen.open += 1;
        seen.requests.len() - 1
    }

    fn closed(&self, key: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.get_mut(key) {
            seen.open -= 1;
        }
    }

    fn answered(&self, key: &str, nth: usize) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(request) = seen.get_mut(key).and_then(|seen| seen.requests.get_mut(nth)) {
            request.1 = Some(Instant::now());
        }
    }

    fn wait_until_quiet(&self, key: &str) {
        let open =
            || self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(key).is_some_and(|seen| seen.open > 0);
        while open() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
