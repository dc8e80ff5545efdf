//! The two ends of the bus: a channel gateway that adds what people say, and a sender that takes what is said back.
//! Neither knows anything of the server; both keep their own books.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::redis::{Conn, Reply};

pub(super) const PARTITIONS: u32 = 4;
pub(super) const SESSIONS: usize = 40;
/// A message that nobody has confirmed for so long is added again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// What the ends wrote down.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Messages of each session that are known to have been accepted: 0 up to this.
    pub(super) accepted: BTreeMap<usize, u64>,
    /// Messages of each session that were ever added: 0 up to this.
    pub(super) begun: BTreeMap<usize, u64>,
    /// How often messages were added.
    pub(super) added: u64,
    /// Replies as they first came, in that order: id, session, text.
    pub(super) replies: Vec<(String, String, String)>,
    /// How often replies came.
    pub(super) received: u64,
    /// Replies that came with another text under the same id.
    pub(super) differing: Vec<String>,
}

pub(super) struct Ends {
    pub(super) books: Arc<Mutex<Books>>,
    quiet: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Ends {
    pub(super) fn start(port: u16) -> Ends {
        let books = Arc::new(Mutex::new(Books::default()));
        let (quiet, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let gateway = Gateway { port, books: books.clone(), quiet: quiet.clone(), stop: stop.clone() };
        let sender = Sender { port, books: books.clone(), stop: stop.clone(), texts: BTreeMap::new() };
        let threads = vec![std::thread::spawn(move || gateway.go()), std::thread::spawn(move || sender.go())];
        Ends { books, quiet, stop, threads }
    }

    /// Nothing new is said; what was said and is not confirmed is still seen to.
    pub(super) fn hush(&self) {
        self.quiet.store(true, Ordering::SeqCst);
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// CRC-32C, by which the partition is chosen.
fn partition_of(key: &str) -> u32 {
    let mut crc = !0_u32;
    for byte in key.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc % PARTITIONS
}

/// Entries of a group's stream over all partitions, acknowledged after `take` has seen them. A group that is gone is
/// made anew.
fn read_group(conn: &mut Conn, stream: &str, group: &str, mut take: impl FnMut(&Value)) -> anyhow::Result<()> {
    let keys: Vec<String> = (0..PARTITIONS).map(|number| format!("{stream}.p{number}")).collect();
    // What was handed out before the connection broke comes first.
    for from in ["0", ">"] {
        let mut words = vec!["XREADGROUP", "GROUP", group, "chaos", "COUNT", "50", "STREAMS"];
        words.extend(keys.iter().map(String::as_str));
        words.extend(keys.iter().map(|_| from));
        let read = match conn.ask(&words) {
            Err(error) if error.to_string().starts_with("NOGROUP") => {
                for key in &keys {
                    // It may have been made by somebody else.
                    let made = conn.ask(&["XGROUP", "CREATE", key, group, "0", "MKSTREAM"]);
                    if let Err(error) = made
                        && !error.to_string().starts_with("BUSYGROUP")
                    {
                        return Err(error);
                    }
                }
                return Ok(());
            }
            other => other?,
        };
        for of_stream in read.list() {
            let [key, entries] = of_stream.list() else { continue };
            for entry in entries.list() {
                let [id, fields] = entry.list() else { continue };
                let mut fields = fields.list().chunks(2);
                let body = fields.find_map(|pair| (pair[0].text() == "envelope").then(|| pair[1].text()));
                if let Some(body) = body {
                    take(&serde_json::from_str(body)?);
                }
                let _: Reply = conn.ask(&["XACK", key.text(), group, id.text()])?;
            }
        }
    }
    Ok(())
}

struct Gateway {
    port: u16,
    books: Arc<Mutex<Books>>,
    quiet: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Gateway {
    fn go(self) {
        // The next message of each session, and when it was last added. One at a time: one that was lost with Redis
        // must not be overtaken by its successor.
        let mut open: BTreeMap<usize, (u64, Option<Instant>)> = (0..SESSIONS).map(|one| (one, (0, None))).collect();
        while !self.stop.load(Ordering::SeqCst) {
            // Whatever goes wrong is Redis being away.
            if let Ok(mut conn) = Conn::open(self.port) {
                while self.round(&mut conn, &mut open).is_ok() && !self.stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn round(&self, conn: &mut Conn, open: &mut BTreeMap<usize, (u64, Option<Instant>)>) -> anyhow::Result<()> {
        let mut confirmed = BTreeSet::new();
        let read = read_group(conn, "events.routed.acme.web", "gateway", |envelope| {
            confirmed.insert(envelope["payload"]["provider_message_id"].as_str().unwrap_or_default().to_owned());
        });
        {
            let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
            for (session, (next, added)) in open.iter_mut() {
                if confirmed.contains(&format!("{session}:{next}")) {
                    *next += 1;
                    *added = None;
                    books.accepted.insert(*session, *next);
                }
            }
        }
        read?;
        let quiet = self.quiet.load(Ordering::SeqCst);
        for (session, (next, added)) in open.iter_mut() {
            let due = match added {
                None => !quiet,
                Some(at) => at.elapsed() > AGAIN_AFTER,
            };
            if !due {
                continue;
            }
            let who = format!("person-{session}");
            let envelope = json!({
                "v": 1, "id": format!("{session}:{next}"), "type": "message", "tenant": "acme", "agent": "echo",
                "channel": "web", "interlocutor": who, "time": 1, "payload": { "text": format!("{session}:{next}") },
            });
            let stream = format!("events.inbound.acme.web.p{}", partition_of(&who));
            // It may have come although we do not hear so: then it is the same message again.
            *added = Some(Instant::now());
            conn.ask(&["XADD", &stream, "*", "key", &who, "envelope", &envelope.to_string()])?;
            let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
            books.begun.insert(*session, *next + 1);
            books.added += 1;
        }
        Ok(())
    }
}

struct Sender {
    port: u16,
    books: Arc<Mutex<Books>>,
    stop: Arc<AtomicBool>,
    texts: BTreeMap<String, String>,
}

impl Sender {
    fn go(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            if let Ok(mut conn) = Conn::open(self.port) {
                while !self.stop.load(Ordering::SeqCst) {
                    let (books, texts) = (&self.books, &mut self.texts);
                    let read = read_group(&mut conn, "events.outbound.acme.web", "senders", |envelope| {
                        take(books, texts, envelope);
                    });
                    if read.is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn take(books: &Mutex<Books>, texts: &mut BTreeMap<String, String>, envelope: &Value) {
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (id, session) = (text_of(&envelope["id"]), text_of(&envelope["interlocutor"]));
    let text = text_of(&envelope["payload"]["text"]);
    let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
    books.received += 1;
    match texts.get(&id) {
        Some(known) if *known != text => books.differing.push(format!("{id}: {known:?}, and then {text:?}")),
        Some(_) => {}
        None => {
            texts.insert(id.clone(), text.clone());
            books.replies.push((id, session, text));
        }
    }
}
