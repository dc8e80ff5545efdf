//! The relay: reads a tenant's events in order and publishes replies for channels, accepted messages, and what happens.
//!
//! The log is the outbox. The relay's place in it is a document that moves on only past what the bus has settled: what
//! every group has acknowledged, or what a bus that keeps things has. While the bus is away the rest stays in the log;
//! when the bus has lost entries, they are published again from there. Entries keep their ids, so whoever reads them
//! recognises a repeat.
//!
//! What this module does not know: which bus it is, how a turn goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainspring_client::{Client, ClientError, EngineError, EventRow, FeedPosition, PutDocument, Refusal, RunState};
use mainspring_flows::channel::{self, Media, Segment};
use mainspring_flows::message::MessageBody;
use mainspring_flows::{Agents, SessionKey, TurnOutput};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::bus::{Bus, BusError, ENTRIES_MAX, NewEntry, Settled};
use crate::envelope::{BYTES_MAX, Envelope, EnvelopeType};
use crate::hints::Hints;
use crate::names::{Names, Pattern};

/// The reader's name, under which its place in the events is kept.
pub const READER: &str = "bus";
/// The event with which the first relay of a tenant begins.
const BEGAN_EVENT: &str = "bus.began";
/// Events read at once.
const EVENTS_AT_ONCE: usize = 500;
/// Entries one event can become: a place has as many numbers. Segments of a reply are fewer.
const ENTRIES_OF_EVENT: u64 = 128;
const _: () = assert!(channel::SEGMENTS_MAX < ENTRIES_OF_EVENT as usize);
/// How long to wait for something to happen before looking again: hints may be lost.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often is looked what the bus has settled.
const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// How long after something failed it is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How long the place is kept after the last sign of a relay; then a tenant's events are not held for it any more.
const KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How often it is written although it has not moved.
const WRITE_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Events whose names begin so are told, if they are a session's.
const TOLD: [&str; 7] = ["turn.", "supersede.", "session.", "reply.", "tool.", "commit.", "message."];

/// Publishes what happens in a tenant.
pub struct Relay {
    bus: Arc<dyn Bus>,
    client: Client,
    agents: Agents,
    tenant: String,
    names: Names,
    hints: Hints,
    /// The channels whose replies and messages go out; all, if it is not said.
    channels: Option<BTreeSet<String>>,
}

/// Where a relay is.
struct Going {
    /// On record: everything up to here is settled.
    position: FeedPosition,
    written: Instant,
    /// Published up to here.
    read: u64,
    /// Streams that were published to and are not known to be settled.
    open: BTreeSet<String>,
    looked: Instant,
}

/// Why a relay stops for now.
enum Halt {
    Client(ClientError),
    Bus(BusError),
    /// A reply that can't be read yet.
    NotYet,
}

impl From<ClientError> for Halt {
    fn from(error: ClientError) -> Self {
        Halt::Client(error)
    }
}

impl From<BusError> for Halt {
    fn from(error: BusError) -> Self {
        Halt::Bus(error)
    }
}

impl Relay {
    /// A relay of a tenant, known by this name in the names of streams.
    pub fn new(bus: Arc<dyn Bus>, client: Client, agents: Agents, tenant: &str, names: Names, hints: Hints) -> Self {
        Relay { bus, client, agents, tenant: tenant.to_owned(), names, hints, channels: None }
    }

    /// A relay for these channels alone. What happens is told of all.
    #[must_use]
    pub fn of_channels(mut self, channels: impl IntoIterator<Item = String>) -> Self {
        self.channels = Some(channels.into_iter().collect());
        self
    }

    /// The name of a channel's stream, if it has one here.
    fn stream(&self, pattern: &Pattern, channel: &str) -> Option<String> {
        let ours = self.channels.as_ref().is_none_or(|ours| ours.contains(channel));
        if ours { pattern.of(&self.tenant, channel) } else { None }
    }

    /// Writes down where the relay begins, if this is the tenant's first. What happens from then on is published; so this
    /// comes before anything is taken in. Durable when it returns; [`Relay::run`] does it too.
    ///
    /// # Errors
    /// [`ClientError::Engine`] if the engine takes nothing.
    pub async fn prepare(&self) -> Result<(), ClientError> {
        self.position().await.map(drop)
    }

    /// Publishes until `stop` says so or the engine stops.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut listening = self.client.engine().hub().listen(self.client.tenant(), None);
        let mut told = String::new();
        while !*stop.borrow() {
            let Some(mut going) = self.begin(&mut stop).await else { return };
            loop {
                let outcome = self.step(&mut going).await;
                let wait = match outcome {
                    Ok(true) => {
                        told.clear();
                        Duration::ZERO
                    }
                    Ok(false) => LOOK_AGAIN,
                    Err(Halt::Client(ClientError::Engine(EngineError::ShuttingDown | EngineError::Stopped { .. }))) => {
                        return;
                    }
                    // Somebody else has moved on: where it is now is read anew.
                    Err(Halt::Client(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict {
                        ..
                    })))) => {
                        break;
                    }
                    Err(Halt::NotYet) => Duration::from_millis(50),
                    Err(Halt::Bus(BusError::Lost { stream })) => {
                        tracing::warn!(stream, "the bus has lost entries: what is not settled is published again");
                        going.read = going.position.seq;
                        Duration::ZERO
                    }
                    Err(Halt::Bus(error)) => {
                        // The connection says for itself when it is away.
                        let text = error.to_string();
                        if told != text && !matches!(error, BusError::Away { .. }) {
                            tracing::warn!(
                                error = text,
                                tenant = self.tenant,
                                "nothing more goes out over the bus for now; it waits in the log"
                            );
                            told = text;
                        }
                        TRY_AGAIN
                    }
                    Err(Halt::Client(error)) => {
                        tracing::warn!(%error, tenant = self.tenant, "events can't be relayed; trying again");
                        TRY_AGAIN
                    }
                };
                if *stop.borrow() {
                    break;
                }
                if wait.is_zero() {
                    continue;
                }
                tokio::select! {
                    hint = listening.recv(), if wait == LOOK_AGAIN => {
                        if matches!(hint, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
                            tokio::time::sleep(LOOK_AGAIN).await;
                        }
                        // All hints that came meanwhile are this one.
                        while listening.try_recv().is_ok() {}
                    }
                    () = tokio::time::sleep(wait) => {}
                    changed = stop.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// Where to go on. What happened before the first relay of a tenant is not published.
    async fn begin(&self, stop: &mut watch::Receiver<bool>) -> Option<Going> {
        loop {
            match self.position().await {
                Ok(position) => {
                    let read = position.seq;
                    // Everything after the position may have been published by another before, to any of these.
                    return Some(Going {
                        position,
                        written: Instant::now(),
                        read,
                        open: BTreeSet::new(),
                        looked: Instant::now(),
                    });
                }
                Err(ClientError::Engine(EngineError::ShuttingDown | EngineError::Stopped { .. })) => return None,
                Err(error) => tracing::warn!(%error, tenant = self.tenant, "the relay can't begin; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(TRY_AGAIN) => {}
                _ = stop.changed() => return None,
            }
        }
    }

    async fn position(&self) -> Result<FeedPosition, ClientError> {
        if let Some(position) = self.client.feed_position(READER).await? {
            return Ok(position);
        }
        let seq = self.client.emit(BEGAN_EVENT, None, &json!({})).await?;
        match self.client.advance(vec![put(FeedPosition::default(), seq)], Vec::new()).await {
            Ok(_) | Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => {}
            Err(error) => return Err(error),
        }
        Ok(self.client.feed_position(READER).await?.unwrap_or_default())
    }

    /// Publishes the next events, and moves the place on record. Answers whether there was anything.
    async fn step(&self, going: &mut Going) -> Result<bool, Halt> {
        let events = self.client.feed(going.read, EVENTS_AT_ONCE).await?;
        let some = !events.is_empty();
        let mut by_stream: BTreeMap<String, Vec<NewEntry>> = BTreeMap::new();
        let mut decisions = Vec::new();
        let mut upto = going.read;
        for (seq, event) in events {
            match self.entries_of(seq, &event).await {
                Ok(entries) => {
                    for (stream, entry) in entries {
                        by_stream.entry(stream).or_default().push(entry);
                    }
                }
                // What comes before it goes out first.
                Err(Halt::NotYet) if upto > going.read => break,
                Err(halt) => return Err(halt),
            }
            if event.name == "supersede.decision" {
                decisions.push(event);
            }
            upto = seq;
        }
        for (stream, mut entries) in by_stream {
            going.open.insert(stream.clone());
            while !entries.is_empty() {
                let rest = entries.split_off(entries.len().min(ENTRIES_MAX));
                self.bus.publish(&stream, entries).await?;
                entries = rest;
            }
        }
        for event in decisions {
            if let (Some(session), Ok(decision)) = (&event.scope, serde_json::from_slice(&event.data)) {
                self.hints.interrupted(&self.tenant, session, &decision).await;
            }
        }
        going.read = upto;
        if going.looked.elapsed() >= SETTLE_EVERY {
            self.settle(going).await?;
        }
        Ok(some)
    }

    /// Moves the place on record as far as the bus has settled.
    async fn settle(&self, going: &mut Going) -> Result<(), Halt> {
        going.looked = Instant::now();
        let mut upto = going.read;
        let mut closed = Vec::new();
        for stream in &going.open {
            match self.bus.settled(stream).await? {
                Settled::All => closed.push(stream.clone()),
                Settled::Below(number) => upto = upto.min((number / ENTRIES_OF_EVENT).saturating_sub(1)),
                Settled::Lost => return Err(BusError::Lost { stream: stream.clone() }.into()),
            }
        }
        if upto > going.position.seq || going.written.elapsed() >= WRITE_AGAIN {
            let upto = upto.max(going.position.seq);
            self.client.advance(vec![put(going.position, upto)], Vec::new()).await?;
            going.position = FeedPosition { seq: upto, version: going.position.version + 1 };
            going.written = Instant::now();
        }
        for stream in closed {
            going.open.remove(&stream);
        }
        Ok(())
    }

    /// What an event becomes, and where.
    async fn entries_of(&self, seq: u64, event: &EventRow) -> Result<Vec<(String, NewEntry)>, Halt> {
        let Some(session) = event.scope.as_deref().and_then(SessionKey::parse) else { return Ok(Vec::new()) };
        let mut made = Vec::new();
        let mut nth = 0;
        let mut add = |stream: Option<String>, envelope: Envelope| {
            let Some(stream) = stream else { return };
            let place = Some((event.at, seq * ENTRIES_OF_EVENT + nth));
            nth += 1;
            let (id, key) = (envelope.id.clone(), session.to_string());
            made.push((stream, NewEntry { id, key, body: within_limit(envelope).into(), place }));
        };
        let of = |kind, id: String, turn: &str, payload| Envelope {
            v: 1,
            id,
            kind,
            tenant: self.tenant.clone(),
            agent: Some(session.agent.clone()),
            channel: Some(session.channel.clone()),
            interlocutor: Some(session.interlocutor.clone()),
            session: Some(session.to_string()),
            correlation_id: Some(format!("{session}:{turn}")),
            traceparent: None,
            time: event.at,
            payload,
        };
        let data: Value = serde_json::from_slice(&event.data).unwrap_or(Value::Null);
        let run = event.run.map(|run| run.to_string()).unwrap_or_default();
        match event.name.as_str() {
            "message.accepted" => {
                let stream = self.stream(&self.names.routed, &session.channel);
                let id = data["message_id"].as_str().unwrap_or_default().to_owned();
                let mut payload = object(json!({ "message_id": id, "turn_id": run }));
                if let Ok(body) = serde_json::from_value::<MessageBody>(data["message"].clone()) {
                    payload.insert("text".to_owned(), body.text.into());
                    payload.extend(body.data.map(|data| ("data".to_owned(), data)));
                    payload.extend(body.message_id.map(|id| ("provider_message_id".to_owned(), id.into())));
                }
                add(stream, of(EnvelopeType::Message, id, &run, payload));
            }
            "reply.sent" => {
                let stream = self.stream(&self.names.outbound, &session.channel);
                if stream.is_some() {
                    let reply = self.reply_of(event, &data).await?;
                    for (id, payload) in self.segments_of(&session, &reply) {
                        let turn = reply.turn_id().to_owned();
                        add(stream.clone(), of(EnvelopeType::Outbound, id, &turn, payload));
                    }
                }
            }
            _ => {}
        }
        if TOLD.iter().any(|prefix| event.name.starts_with(prefix)) {
            let id = format!("{}/{seq}", self.client.tenant());
            let payload = object(json!({ "event": event.name, "event_id": id, "turn_id": run, "data": data }));
            add(self.names.events.of(&self.tenant, &session.channel), of(EnvelopeType::Status, id, &run, payload));
        }
        Ok(made)
    }

    /// The reply an event tells of. A long one is read from its turn.
    async fn reply_of(&self, event: &EventRow, data: &Value) -> Result<Reply, Halt> {
        let told: Reply = serde_json::from_value(data.clone()).unwrap_or_default();
        if told.text.is_some() {
            return Ok(told);
        }
        let Some(id) = event.run else { return Ok(told) };
        let Some(run) = self.client.run(id).await? else { return Ok(told) };
        let output = match run.output {
            Some(output) => self.client.payload(output).await.map_err(ClientError::from)?,
            // Its end is the next thing that is decided about it.
            None if matches!(run.state, RunState::Running | RunState::Queued) => return Err(Halt::NotYet),
            None => return Ok(told),
        };
        let Ok(output) = serde_json::from_slice::<TurnOutput>(&output) else { return Ok(told) };
        let reply = output.reply;
        Ok(Reply { text: Some(reply.text), data: reply.data, media: reply.media, ..told })
    }

    /// The segments of a reply, each under its own id.
    fn segments_of(&self, session: &SessionKey, reply: &Reply) -> Vec<(String, Map<String, Value>)> {
        let Some(settings) = self.agents.get(session.tenant, &session.agent) else { return Vec::new() };
        let Some((stem, _)) = reply.reply_id.rsplit_once('0') else { return Vec::new() };
        let capability = settings.capability_of(&session.channel);
        let text = reply.text.as_deref().unwrap_or_default();
        let segments = match channel::segments(&capability, text, &reply.media) {
            Ok(segments) => segments,
            Err(error) => {
                tracing::error!(%error, reply_id = reply.reply_id, "a reply can't go out over its channel");
                return Vec::new();
            }
        };
        let count = segments.len();
        let payload = |(place, Segment { text, media }): (usize, Segment)| {
            let mut payload = object(json!({
                "reply_id": format!("{stem}{place}"), "turn_id": reply.turn_id(), "segment": place, "segments": count,
                "delay_ms": capability.natural_delay_ms,
            }));
            payload.extend(text.map(|text| ("text".to_owned(), text.into())));
            payload.extend(media.map(|media| ("media".to_owned(), json!(media))));
            payload.extend(reply.data.clone().filter(|_| place == 0).map(|data| ("data".to_owned(), data)));
            (format!("{stem}{place}"), payload)
        };
        segments.into_iter().enumerate().map(payload).collect()
    }
}

/// A reply, as its event tells of it.
#[derive(Debug, Default, Deserialize)]
struct Reply {
    reply_id: String,
    text: Option<String>,
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    media: Vec<Media>,
}

impl Reply {
    fn turn_id(&self) -> &str {
        self.reply_id.split(':').next().unwrap_or_default()
    }
}

fn put(position: FeedPosition, seq: u64) -> PutDocument {
    PutDocument { ttl_ms: Some(KEPT.as_millis() as u64), ..position.moved_to(READER, seq) }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

/// The envelope's bytes; without what makes it too large, if it is. Its ids still say where the whole is.
fn within_limit(mut envelope: Envelope) -> Vec<u8> {
    let bytes = envelope.to_bytes();
    if bytes.len() <= BYTES_MAX {
        return bytes;
    }
    envelope.payload.remove("data");
    let bytes = envelope.to_bytes();
    if bytes.len() <= BYTES_MAX {
        return bytes;
    }
    for name in ["text", "media"] {
        envelope.payload.remove(name);
    }
    envelope.payload.insert("omitted".to_owned(), true.into());
    envelope.to_bytes()
}
