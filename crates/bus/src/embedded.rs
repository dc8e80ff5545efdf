//! A bus without Redis: the streams of the engine itself. What is published is in the log when it is answered, so
//! nothing of it can be lost and all of it is settled.
//!
//! The streams are those of `/v1/streams`: other programs publish to them and take from them over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mainspring_client::{
    Client, ClientError, EngineError, NewEntry as StreamNewEntry, Place, Refusal, Span, StreamEntry, StreamSettings,
    Streams, TakeOptions, letter,
};

use crate::bus::{
    Bus, BusError, DEAD_PREFIX, ENTRIES_MAX, Entry, EntryId, GroupLag, NewEntry, check_entries, check_name,
};

/// Bytes of entries that are published in one decision. More go in several, one after the other.
const PUBLISH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// As whom groups are made that nobody reads for yet.
const MAKER: &str = "mainspring";

/// How streams are kept and handed out.
#[derive(Debug, Clone)]
pub struct EmbeddedBusOptions {
    /// What is said of each stream when this process first uses it. What is not said stays as it is.
    pub settings: StreamSettings,
    /// Partitions of streams that have another number, by name.
    pub partitions_of: BTreeMap<String, u16>,
    /// How long a consumer keeps its partitions without a sign of life. A second at least.
    pub lease: Duration,
    /// Groups that streams have from the first entry on, by stream, whether anybody reads for them yet or not.
    pub groups_of: BTreeMap<String, Vec<String>>,
}

impl Default for EmbeddedBusOptions {
    fn default() -> Self {
        EmbeddedBusOptions {
            settings: StreamSettings::default(),
            partitions_of: BTreeMap::new(),
            lease: Duration::from_secs(10),
            groups_of: BTreeMap::new(),
        }
    }
}

/// One tenant's streams as a bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EmbeddedBus {
    streams: Streams,
    options: Arc<EmbeddedBusOptions>,
    /// The streams that were set up.
    known: Arc<Mutex<BTreeSet<String>>>,
}

impl EmbeddedBus {
    /// The streams of the client's tenant.
    pub fn new(client: &Client, options: EmbeddedBusOptions) -> Self {
        EmbeddedBus { streams: client.streams(), options: Arc::new(options), known: Arc::default() }
    }

    /// Sets a stream up as it is configured, with its groups, before this process first uses it.
    async fn set_up(&self, stream: &str) -> Result<(), BusError> {
        check_name("stream", stream)?;
        if stream.starts_with(DEAD_PREFIX) || self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(stream)
        {
            return Ok(());
        }
        let EmbeddedBusOptions { settings, partitions_of, groups_of, .. } = &*self.options;
        let partitions = partitions_of.get(stream).copied().or(settings.partitions);
        self.streams.put(stream, StreamSettings { partitions, ..*settings }).await.map_err(failed)?;
        for group in groups_of.get(stream).into_iter().flatten() {
            check_name("group", group)?;
            let nothing = TakeOptions { max: 0, ..TakeOptions::default() };
            self.streams.take(stream, group, MAKER, nothing).await.map_err(failed)?;
            self.streams.leave(stream, group, MAKER).await.map_err(failed)?;
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.to_owned());
        Ok(())
    }

    async fn publish_all(&self, stream: &str, entries: Vec<NewEntry>) -> Result<Vec<EntryId>, BusError> {
        check_entries(&entries)?;
        self.set_up(stream).await?;
        let mut ids = Vec::with_capacity(entries.len());
        let mut rest = entries.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut some, mut bytes) = (Vec::new(), 0);
            while let Some(entry) =
                rest.next_if(|entry| some.is_empty() || bytes + entry.body.len() <= PUBLISH_BYTES_MAX)
            {
                bytes += entry.body.len();
                some.push(entry);
            }
            ids.extend(self.publish_some(stream, some).await?);
        }
        Ok(ids)
    }

    async fn publish_some(&self, stream: &str, entries: Vec<NewEntry>) -> Result<Vec<EntryId>, BusError> {
        let new = |NewEntry { id, key, body, .. }: NewEntry| StreamNewEntry {
            key: Some(key).filter(|key| !key.is_empty()),
            id: Some(id),
            body,
        };
        let places = self.streams.publish(stream, entries.into_iter().map(new).collect()).await.map_err(failed)?;
        Ok(places.into_iter().map(|(place, _)| EntryId(place.to_string())).collect())
    }

    async fn take_some(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        for (what, name) in [("group", group), ("consumer", consumer)] {
            check_name(what, name)?;
        }
        self.set_up(stream).await?;
        let max = max.min(ENTRIES_MAX) as u32;
        // Who takes nothing only keeps what it holds, and waits for nothing.
        let wait = if max == 0 { Duration::ZERO } else { wait };
        let options = TakeOptions { max, lease: self.options.lease, wait, ..TakeOptions::default() };
        let entries = self.streams.take(stream, group, consumer, options).await.map_err(failed)?;
        Ok(entries.into_iter().map(entry).collect())
    }

    async fn ack_all(&self, stream: &str, group: &str, consumer: &str, ids: &[EntryId]) -> Result<(), BusError> {
        for some in ids.chunks(ENTRIES_MAX) {
            let places = some.iter().map(place).collect::<Result<Vec<_>, _>>()?;
            self.streams.ack(stream, group, consumer, &places).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn give_up(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        entry: &Entry,
        reason: &str,
    ) -> Result<(), BusError> {
        let place = place(&entry.entry)?;
        let Some(view) = self.streams.look(stream).await.map_err(failed)? else {
            return Err(BusError::refused(format!("there is no stream {stream:?}"), "give up what was handed out"));
        };
        // As it lies there: what a consumer made of it is not what should be replayed.
        let kept = self.streams.read(view.row.number, Span::of(place), usize::MAX).await.map_err(failed)?.pop();
        // One that is not kept any more was acknowledged by every group.
        let Some((place, row)) = kept else { return Ok(()) };
        let letters = vec![letter(place, row, entry.deliveries, reason.to_owned())];
        self.streams.give_up(stream, group, consumer, letters).await.map_err(failed)
    }

    async fn lag_of(&self, stream: &str) -> Result<Vec<GroupLag>, BusError> {
        let Some(view) = self.streams.look(stream).await.map_err(failed)? else { return Ok(Vec::new()) };
        let mut lag = Vec::new();
        for group in &view.groups {
            let oldest = self.streams.oldest_at(&view, group).await.map_err(failed)?;
            // What waits in partitions that came later is behind each of those that are read now.
            for part in &group.parts {
                lag.push(GroupLag {
                    group: group.name.clone(),
                    partition: u32::from(part.partition),
                    backlog: part.waiting - part.in_hand,
                    pending: part.in_hand,
                    oldest_at_ms: oldest.iter().find(|(of, _)| *of == part.partition).map(|(_, at)| *at),
                    held_by: part.holder.clone(),
                });
            }
        }
        Ok(lag)
    }
}

impl Bus for EmbeddedBus {
    fn publish<'a>(&'a self, stream: &'a str, entries: Vec<NewEntry>) -> BoxFuture<'a, Result<Vec<EntryId>, BusError>> {
        Box::pin(self.publish_all(stream, entries))
    }

    fn take<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Entry>, BusError>> {
        Box::pin(self.take_some(stream, group, consumer, max, wait))
    }

    fn ack<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        ids: &'a [EntryId],
    ) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(self.ack_all(stream, group, consumer, ids))
    }

    fn dead_letter<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        entry: &'a Entry,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(self.give_up(stream, group, consumer, entry, reason))
    }

    fn leave<'a>(&'a self, stream: &'a str, group: &'a str, consumer: &'a str) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(async move { self.streams.leave(stream, group, consumer).await.map_err(failed) })
    }

    fn lag<'a>(&'a self, stream: &'a str) -> BoxFuture<'a, Result<Vec<GroupLag>, BusError>> {
        Box::pin(self.lag_of(stream))
    }
}

fn place(id: &EntryId) -> Result<Place, BusError> {
    let action = "acknowledge entries as they were handed out";
    id.0.parse().map_err(|error| BusError::refused(format!("{:?} is {error}", id.0), action))
}

fn entry(StreamEntry { place, row, deliveries }: StreamEntry) -> Entry {
    let entry = EntryId(place.to_string());
    Entry {
        id: row.id.unwrap_or_else(|| entry.0.clone()),
        entry,
        key: row.key.unwrap_or_default(),
        body: row.body,
        deliveries,
    }
}

fn failed(error: ClientError) -> BusError {
    match error {
        ClientError::Engine(EngineError::Refused(Refusal::StreamFull { stream, max, .. })) => {
            BusError::Full { stream, max }
        }
        ClientError::Engine(EngineError::ShuttingDown) => BusError::ShuttingDown,
        ClientError::Engine(EngineError::Refused(refusal)) => {
            BusError::refused(refusal.to_string(), "change the call as it says")
        }
        other => BusError::Away { cause: other.to_string() },
    }
}
