//! The gateway: reads what channel gateways publish and has it taken in. An entry is acknowledged once what became of it
//! is durable. One that never can be taken goes to the dead letters with the reason; one that can't be taken now waits
//! in its session's order, while other sessions go on.
//!
//! What this module does not know: which bus it reads, how a turn goes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use crate::bus::{Bus, BusError, Entry, EntryId};
use crate::envelope::{Envelope, EnvelopeType, Found};
use crate::hints::Hints;
use crate::intake::{Intake, NotTaken, Taken};

/// Entries of one source that are taken and not acknowledged at most.
const IN_HAND_MAX: usize = 1_000;
/// Entries asked for at once.
const TAKE_MAX: usize = 200;
/// How long one look at the bus waits for something.
const TAKE_WAIT: Duration = Duration::from_secs(2);
/// How often is said that what is in hand is still worked on.
const KEEP_EVERY: Duration = Duration::from_secs(2);
/// Acknowledgements that go together, if so many come before the first is this old.
const ACKS_AT_ONCE: usize = 200;
const ACK_AFTER: Duration = Duration::from_millis(5);
/// How long after something failed it is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How long an entry waits for a limit that is used up before it is a dead letter.
const LIMITED_MAX: Duration = Duration::from_secs(60);

/// A stream that is read.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub stream: String,
    /// The tenant's name, as stream names have it.
    pub tenant: String,
    /// The channel, if it is one's.
    pub channel: Option<String>,
    /// For whom it is taken in.
    pub intake: Intake,
}

/// What was done, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Entries that became something new.
    pub taken: AtomicU64,
    /// Entries that had come before.
    pub repeated: AtomicU64,
    /// Entries that went to the dead letters.
    pub dead: AtomicU64,
}

/// Reads streams and has what is in them taken in.
pub struct Gateway {
    bus: Arc<dyn Bus>,
    group: String,
    consumer: String,
    hints: Hints,
    counts: Arc<Counts>,
}

impl Gateway {
    /// A gateway that reads as this consumer of this group.
    pub fn new(bus: Arc<dyn Bus>, group: impl Into<String>, consumer: impl Into<String>, hints: Hints) -> Self {
        Gateway { bus, group: group.into(), consumer: consumer.into(), hints, counts: Arc::default() }
    }

    /// What it has done.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Reads a stream until `stop` says so or the engine stops; then it leaves, and others get what it had in hand.
    pub async fn read(&self, source: Source, mut stop: watch::Receiver<bool>) {
        let mut reading =
            Reading { gateway: self, source: &source, sessions: HashMap::new(), in_hand: 0, acks: Vec::new() };
        reading.go(&mut stop).await;
        if let Err(error) = self.bus.leave(&source.stream, &self.group, &self.consumer).await {
            tracing::info!(%error, stream = source.stream, "the group was not left in order; others take over in a while");
        }
    }
}

/// An entry, and what is known of it.
struct Work {
    entry: EntryId,
    raw: Entry,
    envelope: Envelope,
    session: String,
}

/// What came of an entry.
enum Outcome {
    Done(EntryId, String),
    Stopping(String),
}

struct Reading<'a> {
    gateway: &'a Gateway,
    source: &'a Source,
    /// What waits behind an entry of its session that is being taken.
    sessions: HashMap<String, VecDeque<Work>>,
    in_hand: usize,
    acks: Vec<EntryId>,
}

impl<'a> Reading<'a> {
    async fn go(&mut self, stop: &mut watch::Receiver<bool>) {
        let Gateway { bus, group, consumer, .. } = self.gateway;
        let mut running: FuturesUnordered<BoxFuture<'a, Outcome>> = FuturesUnordered::new();
        // Kept over the rounds of the loop: one that is dropped may have been handed entries already.
        let mut taking: Option<BoxFuture<'_, Result<Vec<Entry>, BusError>>> = None;
        let mut pause: Option<Instant> = None;
        let (mut acked, mut kept) = (Instant::now(), Instant::now());
        loop {
            if *stop.borrow() {
                break;
            }
            let paused = pause.is_some_and(|until| Instant::now() < until);
            if taking.is_none() && !paused && self.in_hand + TAKE_MAX <= IN_HAND_MAX {
                taking = Some(bus.take(&self.source.stream, group, consumer, TAKE_MAX, TAKE_WAIT));
            } else if taking.is_none() && !paused && kept.elapsed() >= KEEP_EVERY {
                // As much is in hand as may be. It stays ours, however long it takes.
                taking = Some(bus.take(&self.source.stream, group, consumer, 0, Duration::ZERO));
            }
            let due = !self.acks.is_empty()
                && (self.acks.len() >= ACKS_AT_ONCE || running.is_empty() || acked.elapsed() >= ACK_AFTER);
            if due && !paused {
                let acks = &self.acks[..self.acks.len().min(ACKS_AT_ONCE)];
                match bus.ack(&self.source.stream, group, consumer, acks).await {
                    Ok(()) => {
                        self.in_hand -= acks.len();
                        let done = acks.len();
                        self.acks.drain(..done);
                        acked = Instant::now();
                    }
                    Err(error) if error.is_passing() => pause = Some(Instant::now() + TRY_AGAIN),
                    Err(error) => {
                        tracing::error!(%error, stream = self.source.stream, "what was taken can't be acknowledged");
                        pause = Some(Instant::now() + TRY_AGAIN);
                    }
                }
                continue;
            }
            let tick = if self.acks.is_empty() { Duration::from_secs(1) } else { ACK_AFTER };
            let tick = pause.map_or(tick, |until| until.saturating_duration_since(Instant::now()).max(ACK_AFTER));
            tokio::select! {
                Some(outcome) = running.next(), if !running.is_empty() => match outcome {
                    Outcome::Done(entry, session) => {
                        self.acks.push(entry);
                        if let Some(next) = self.next_of(&session) {
                            running.push(self.take_in(next));
                        }
                    }
                    Outcome::Stopping(why) => {
                        tracing::info!(why, stream = self.source.stream, "nothing more is taken from the bus");
                        break;
                    }
                },
                taken = async { match taking.as_mut() { Some(taking) => taking.await, None => std::future::pending().await } } => {
                    taking = None;
                    kept = Instant::now();
                    match taken {
                        Ok(entries) => {
                            for entry in entries {
                                if let Some(future) = self.sort(entry) {
                                    running.push(future);
                                }
                            }
                        }
                        Err(BusError::ShuttingDown) => break,
                        Err(error) => {
                            if !error.is_passing() {
                                tracing::error!(%error, stream = self.source.stream, "the stream can't be read");
                            }
                            pause = Some(Instant::now() + TRY_AGAIN);
                        }
                    }
                }
                () = tokio::time::sleep(tick) => {}
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
        // What is durable need not be handed to others again.
        drop(taking);
        if !self.acks.is_empty() {
            let _ = bus.ack(&self.source.stream, group, consumer, &self.acks).await;
        }
    }

    /// Puts an entry into its session's order. Answers what is to be done now, if it is first.
    fn sort(&mut self, raw: Entry) -> Option<BoxFuture<'a, Outcome>> {
        self.in_hand += 1;
        let id = self.source.intake.client().tenant().to_string();
        let found = Found {
            tenant: (&self.source.tenant, &id),
            channel: self.source.channel.as_deref(),
            entry: &raw.id,
            now_ms: self.source.intake.client().engine().world().now_ms(),
        };
        let read = Envelope::read(&raw.body, found).map_err(|error| error.to_string());
        let read = read.and_then(|envelope| match envelope.kind {
            EnvelopeType::Message | EnvelopeType::Interrupt => match self.source.intake.session_of(&envelope) {
                Ok(session) => Ok((envelope, session.to_string())),
                Err(NotTaken::Never(why)) => Err(why),
                Err(other) => Err(format!("{other:?}")),
            },
            // Receipts of one segment stay in order; they are few.
            EnvelopeType::Receipt | EnvelopeType::Status | EnvelopeType::Outbound => Ok((envelope, String::new())),
        });
        match read {
            Err(why) => Some(self.bury(raw, why)),
            Ok((envelope, session)) => {
                let work = Work { entry: raw.entry.clone(), raw, envelope, session };
                match self.sessions.get_mut(&work.session) {
                    Some(waiting) => {
                        waiting.push_back(work);
                        None
                    }
                    None => {
                        self.sessions.insert(work.session.clone(), VecDeque::new());
                        Some(self.take_in(work))
                    }
                }
            }
        }
    }

    fn next_of(&mut self, session: &str) -> Option<Work> {
        let next = self.sessions.get_mut(session)?.pop_front();
        if next.is_none() {
            self.sessions.remove(session);
        }
        next
    }

    /// An entry that never becomes anything; it holds up nobody.
    fn bury(&self, raw: Entry, why: String) -> BoxFuture<'a, Outcome> {
        let (gateway, source) = (self.gateway, self.source);
        // No session has this name, so nobody waits behind it.
        Box::pin(async move { gateway.bury(source, &raw, &why, "\n".to_owned()).await })
    }

    fn take_in(&self, work: Work) -> BoxFuture<'a, Outcome> {
        let (gateway, source) = (self.gateway, self.source);
        Box::pin(gateway.take_in(source, work))
    }
}

impl Gateway {
    async fn take_in(&self, source: &Source, work: Work) -> Outcome {
        let Work { entry, raw, envelope, session } = work;
        let began = Instant::now();
        let interrupts = envelope.kind == EnvelopeType::Interrupt;
        loop {
            match source.intake.take(envelope.clone()).await {
                Ok(taken) => {
                    let fresh = match &taken {
                        Taken::Message { duplicate, .. } => !duplicate,
                        Taken::Receipt { advanced } => *advanced,
                        Taken::Ignored => false,
                    };
                    let count = if fresh { &self.counts.taken } else { &self.counts.repeated };
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Taken::Message { session, message_id, turn_id, .. } = &taken
                        && interrupts
                    {
                        self.hints.interrupt(&source.tenant, session, message_id, turn_id).await;
                    }
                    return Outcome::Done(entry, session);
                }
                Err(NotTaken::Stopping(why)) => return Outcome::Stopping(why),
                Err(NotTaken::Never(why)) => return self.bury(source, &raw, &why, session).await,
                Err(NotTaken::Limited { why, .. }) if began.elapsed() >= LIMITED_MAX => {
                    let why = format!("it waited {} s for a limit: {why}", LIMITED_MAX.as_secs());
                    return self.bury(source, &raw, &why, session).await;
                }
                Err(NotTaken::Limited { after, .. } | NotTaken::Later { after, .. }) => tokio::time::sleep(after).await,
            }
        }
    }

    /// Puts an entry to the dead letters, however long that takes: until then it stays where it is.
    async fn bury(&self, source: &Source, raw: &Entry, why: &str, session: String) -> Outcome {
        loop {
            let buried = self.bus.dead_letter(&source.stream, &self.group, &self.consumer, raw, why).await;
            match buried {
                Ok(()) => {
                    self.counts.dead.fetch_add(1, Ordering::Relaxed);
                    return Outcome::Done(raw.entry.clone(), session);
                }
                Err(BusError::ShuttingDown) => return Outcome::Stopping("the bus is shutting down".to_owned()),
                Err(error) => {
                    tracing::debug!(%error, "a dead letter waits");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }
}
