//! Streams: entries published under a name, in order for each ordering key, and read by groups of consumers until each
//! group has acknowledged them.
//!
//! A consumer takes, works, and acknowledges. What it took and did not acknowledge comes again: to itself if it gives it
//! back, to another when it leaves or is silent for as long as its lease. So an entry may come twice, and what is done
//! with it has to bear that, by the entry's id.

use std::time::Duration;

use mainspring_core::row::StreamEntryRow;
use mainspring_core::stream::view::{GroupView, PartView, StreamView};
use mainspring_core::stream::{
    DEAD_LETTERS, Letter, NewEntry, Place, Span, StreamAsk, StreamReply, StreamSettings, Taken,
};
use mainspring_core::{Command, Reply};
use tokio::time::Instant;

use crate::client::{Client, ClientError};

/// Bytes of entries one taking reads. What was handed out beyond is given back unseen.
const TAKE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of entries one command carries.
const PIECE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The shortest wait before a group is asked again, when something is due that soon.
const AGAIN_MIN: Duration = Duration::from_millis(20);
/// The group by which dead letters are published again.
const REPLAY: &str = "replay";

/// How entries are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeOptions {
    /// How many at most. 0 takes nothing, and keeps what the consumer holds.
    pub max: u32,
    /// How long the consumer holds its partitions without being heard of.
    pub lease: Duration,
    /// How long to wait if there is nothing.
    pub wait: Duration,
    /// If the group is new, it begins with what is published from now on, and not with the oldest entry that is kept.
    pub from_now: bool,
    /// The consumer has nothing in hand: what was handed to it before and is not settled is handed out again. For who
    /// begins anew under a name, or has lost an answer.
    pub again: bool,
}

impl Default for TakeOptions {
    fn default() -> Self {
        TakeOptions { max: 100, lease: Duration::from_secs(30), wait: Duration::ZERO, from_now: false, again: false }
    }
}

/// An entry as it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEntry {
    /// Where it is, for acknowledging it.
    pub place: Place,
    /// What it is.
    pub row: StreamEntryRow,
    /// Which time it is handed out, counted from 1.
    pub deliveries: u32,
}

/// When the oldest entry a group has not acknowledged was published, by partition.
pub type OldestAt = Vec<(u16, u64)>;

/// What one taking gave, whether anything was handed out, and when there may be more by itself.
type TakenOnce = (Vec<StreamEntry>, bool, Option<Duration>);

/// A tenant's streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Streams {
    client: Client,
}

impl Client {
    /// The tenant's streams.
    pub fn streams(&self) -> Streams {
        Streams { client: self.clone() }
    }
}

impl Streams {
    /// Creates a stream, or changes what is said of it. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError::Engine`]; a refusal says which number is too large.
    pub async fn put(&self, stream: &str, settings: StreamSettings) -> Result<(), ClientError> {
        self.ask(stream, StreamAsk::Put(settings)).await.map(|_| ())
    }

    /// Publishes entries in the order given, all of them or none. Durable when it returns. Answers where each is, and
    /// whether it was published before under its id.
    ///
    /// # Errors
    /// [`ClientError::Engine`]: a refusal with the code `stream_full` says that a group is too far behind; try again
    /// when it has caught up.
    pub async fn publish(&self, stream: &str, entries: Vec<NewEntry>) -> Result<Vec<(Place, bool)>, ClientError> {
        match self.ask(stream, StreamAsk::Publish(entries)).await? {
            Reply::Stream(StreamReply::Published(places)) => Ok(places),
            other => unreachable!("what is published is answered with places, not {other:?}"),
        }
    }

    /// Takes entries for a consumer, those handed out in vain before first. Empty if there are none within the time.
    ///
    /// Entries that were handed out as often as may be go to the dead letters instead. Who holds what is not recorded:
    /// after a restart everything that is not acknowledged is handed out again.
    ///
    /// # Errors
    /// [`ClientError`]. What was handed out by then comes again when the consumer leaves or its lease lapses.
    pub async fn take(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        options: TakeOptions,
    ) -> Result<Vec<StreamEntry>, ClientError> {
        let until = Instant::now() + options.wait;
        // Listening comes first, so that what is published between asking and waiting is not missed.
        let mut stirs = self.client.engine().hub().stream_stirs(self.client.tenant(), stream);
        let mut options = options;
        loop {
            let (entries, handed_out, again) = self.take_whole(stream, group, consumer, options).await?;
            options.again = false;
            let left = until.saturating_duration_since(Instant::now());
            if !entries.is_empty() || left.is_zero() {
                return Ok(entries);
            }
            if handed_out {
                // All of it was given up or is not kept any more: there may be something behind it.
                continue;
            }
            // Well within its lease, so that a consumer that waits keeps what it holds.
            let look_again = again.unwrap_or(left).max(AGAIN_MIN).min(left).min(options.lease / 3);
            let _ = tokio::time::timeout(look_again, stirs.changed()).await;
        }
    }

    /// Takes once, to its end also if nobody waits for it any more: what is handed out by then is given back.
    async fn take_whole(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        options: TakeOptions,
    ) -> Result<TakenOnce, ClientError> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let (streams, stream) = (self.clone(), stream.to_owned());
        let (group, consumer) = (group.to_owned(), consumer.to_owned());
        tokio::spawn(async move {
            let taken = streams.take_once(&stream, &group, &consumer, options).await;
            let Err(Ok((entries, _, _))) = sender.send(taken) else { return };
            let places: Vec<Place> = entries.iter().map(|entry| entry.place).collect();
            if !places.is_empty() {
                let (reason, after_ms, unseen) = (String::new(), 0, true);
                let ask = StreamAsk::GiveBack { group, consumer, places, reason, after_ms, unseen };
                if let Err(error) = streams.ask(&stream, ask).await {
                    tracing::debug!(%error, stream, "what nobody waited for is handed out again when its lease is over");
                }
            }
        });
        answer.await.unwrap_or(Err(ClientError::Engine(mainspring_engine::EngineError::ShuttingDown)))
    }

    async fn take_once(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        options: TakeOptions,
    ) -> Result<TakenOnce, ClientError> {
        let ask = StreamAsk::Take {
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            max: options.max,
            lease_ms: options.lease.as_millis() as u64,
            from_now: options.from_now,
            again: options.again,
        };
        let taken = match self.ask(stream, ask).await? {
            Reply::Stream(StreamReply::Taken(taken)) => taken,
            other => unreachable!("a taking is answered as one, not {other:?}"),
        };
        let again = taken.again_after_ms.map(Duration::from_millis);
        let handed_out = !taken.given.is_empty() || !taken.exhausted.is_empty();
        Ok((self.read_taken(stream, group, consumer, taken).await?, handed_out, again))
    }

    /// Reads what was handed out, gives up what is exhausted, and passes over what is not kept any more.
    async fn read_taken(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        taken: Taken,
    ) -> Result<Vec<StreamEntry>, ClientError> {
        if taken.given.is_empty() && taken.exhausted.is_empty() {
            return Ok(Vec::new());
        }
        let (tenant, number) = (self.client.tenant(), taken.number);
        let Taken { given, exhausted, .. } = taken;
        let spans = given.clone();
        let places: Vec<Place> = exhausted.iter().map(|(place, _, _)| *place).collect();
        let read = move |reader: &mainspring_engine::Reader| {
            let (mut found, mut room) = (Vec::new(), TAKE_BYTES_MAX);
            for (span, deliveries) in &spans {
                let entries = reader.stream_entries(tenant, number, *span, room)?;
                room = room.saturating_sub(entries.iter().map(|(_, row)| row.body.len()).sum());
                found.extend(entries.into_iter().map(|(place, row)| StreamEntry {
                    place,
                    row,
                    deliveries: *deliveries,
                }));
            }
            let mut dead = Vec::new();
            for place in places {
                dead.extend(reader.stream_entries(tenant, number, Span::of(place), usize::MAX)?);
            }
            Ok((found, dead, room == 0))
        };
        let (entries, dead, cut) = self.client.engine().read(tenant, read).await?;
        if !exhausted.is_empty() {
            let letters = exhausted.into_iter().filter_map(|(place, deliveries, reason)| {
                let row = dead.iter().find(|(at, _)| *at == place).map(|(_, row)| row.clone())?;
                Some(letter(place, row, deliveries, format!("handed out {deliveries} times in vain: {reason}")))
            });
            self.give_up(stream, group, consumer, letters.collect()).await?;
        }
        self.settle_unread(stream, group, consumer, &given, &entries, cut).await?;
        Ok(entries)
    }

    /// What was handed out and not read: given back if there was no room, passed over if it is not kept any more.
    async fn settle_unread(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        given: &[(Span, u32)],
        entries: &[StreamEntry],
        cut: bool,
    ) -> Result<(), ClientError> {
        let handed_out: u64 = given.iter().map(|(span, _)| span.to - span.from).sum();
        if handed_out == entries.len() as u64 {
            return Ok(());
        }
        let read: std::collections::BTreeSet<Place> = entries.iter().map(|entry| entry.place).collect();
        let of = |span: &Span| {
            let Span { generation, partition, from, to } = *span;
            (from..to).map(move |seq| Place { generation, partition, seq })
        };
        let unread: Vec<Place> =
            given.iter().flat_map(|(span, _)| of(span)).filter(|place| !read.contains(place)).collect();
        if cut {
            let (group, consumer, reason) = (group.to_owned(), consumer.to_owned(), String::new());
            let ask = StreamAsk::GiveBack { group, consumer, places: unread, reason, after_ms: 0, unseen: true };
            return self.ask(stream, ask).await.map(|_| ());
        }
        tracing::debug!(stream, group, entries = unread.len(), "entries are not kept any more and are passed over");
        self.ack(stream, group, consumer, &unread).await
    }

    /// Acknowledges entries: they are not handed out to the group again. Durable when it returns. Repeating it is
    /// harmless, and so is being late.
    ///
    /// # Errors
    /// [`ClientError::Engine`]; a refusal for an entry that was never published.
    pub async fn ack(&self, stream: &str, group: &str, consumer: &str, places: &[Place]) -> Result<(), ClientError> {
        let (group, consumer) = (group.to_owned(), consumer.to_owned());
        self.ask(stream, StreamAsk::Acknowledge { group, consumer, spans: spans_of(places) }).await.map(|_| ())
    }

    /// Gives entries back, to be handed out again after a time. Their partitions wait for them, so that order is kept.
    /// May be lost: after a restart they come again at once.
    ///
    /// # Errors
    /// [`ClientError::Engine`].
    pub async fn give_back(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        places: Vec<Place>,
        reason: &str,
        after: Duration,
    ) -> Result<(), ClientError> {
        let ask = StreamAsk::GiveBack {
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            places,
            reason: reason.to_owned(),
            after_ms: after.as_millis() as u64,
            unseen: false,
        };
        self.ask(stream, ask).await.map(|_| ())
    }

    /// Puts entries into the stream of dead letters and acknowledges them: each in one decision, and of many bytes one
    /// after the other. Durable when it returns; repeating it is harmless.
    ///
    /// # Errors
    /// [`ClientError::Engine`].
    pub async fn give_up(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        letters: Vec<Letter>,
    ) -> Result<(), ClientError> {
        for some in in_pieces(&letters, |letter| letter.entry.body.len()) {
            let (group, consumer, letters) = (group.to_owned(), consumer.to_owned(), some.to_vec());
            self.ask(stream, StreamAsk::GiveUp { group, consumer, letters }).await?;
        }
        Ok(())
    }

    /// Leaves a group: what the consumer holds goes to others at once. May be lost: then it goes when the lease lapses.
    ///
    /// # Errors
    /// [`ClientError::Engine`].
    pub async fn leave(&self, stream: &str, group: &str, consumer: &str) -> Result<(), ClientError> {
        let (group, consumer) = (group.to_owned(), consumer.to_owned());
        self.ask(stream, StreamAsk::Leave { group, consumer }).await.map(|_| ())
    }

    /// Forgets a group: nothing is kept for it any more. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError::Engine`].
    pub async fn drop_group(&self, stream: &str, group: &str) -> Result<(), ClientError> {
        self.ask(stream, StreamAsk::DropGroup { group: group.to_owned() }).await.map(|_| ())
    }

    /// How a stream stands. `None` if there is none of this name.
    ///
    /// # Errors
    /// [`ClientError::Engine`].
    pub async fn look(&self, stream: &str) -> Result<Option<StreamView>, ClientError> {
        use mainspring_engine::EngineError;
        match self.ask(stream, StreamAsk::Look).await {
            Ok(Reply::Stream(StreamReply::Views(views))) => Ok(views.into_iter().next()),
            Ok(other) => unreachable!("a look at a stream is answered with it, not {other:?}"),
            Err(ClientError::Engine(EngineError::Refused(mainspring_core::Refusal::NoStream { .. }))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How all streams stand, without their partitions.
    ///
    /// # Errors
    /// [`ClientError::Engine`].
    pub async fn list(&self) -> Result<Vec<StreamView>, ClientError> {
        match self.client.engine().submit(self.client.tenant(), Command::LookAtStreams).await? {
            (Reply::Stream(StreamReply::Views(views)), _) => Ok(views),
            (other, _) => unreachable!("a look at streams is answered with them, not {other:?}"),
        }
    }

    /// When the oldest entry that a group has not acknowledged was published, in milliseconds since the Unix epoch, for
    /// each partition in which something waits.
    ///
    /// # Errors
    /// [`ClientError::Engine`] if the store can't be read.
    pub async fn oldest_at(&self, stream: &StreamView, group: &GroupView) -> Result<OldestAt, ClientError> {
        let (tenant, number, generation) = (self.client.tenant(), stream.row.number, group.generation);
        let waiting = group.parts.iter().filter(|part| part.waiting > 0);
        let floors: Vec<(u16, u64)> = waiting.map(|PartView { partition, floor, .. }| (*partition, *floor)).collect();
        let read = move |reader: &mainspring_engine::Reader| {
            let mut oldest = Vec::with_capacity(floors.len());
            for (partition, seq) in floors {
                let first = reader.stream_first(tenant, number, Place { generation, partition, seq })?;
                oldest.extend(first.map(|(_, row)| (partition, row.at)));
            }
            Ok(oldest)
        };
        Ok(self.client.engine().read(tenant, read).await?)
    }

    /// The entries of a span that are kept, in order, and no more after those that together have `bytes_max`: for
    /// whoever reads without a group. `number` is the stream's, as a look tells it.
    ///
    /// # Errors
    /// [`ClientError::Engine`] if the store can't be read.
    pub async fn read(
        &self,
        number: u32,
        span: Span,
        bytes_max: usize,
    ) -> Result<Vec<(Place, StreamEntryRow)>, ClientError> {
        let tenant = self.client.tenant();
        let read = move |reader: &mainspring_engine::Reader| reader.stream_entries(tenant, number, span, bytes_max);
        Ok(self.client.engine().read(tenant, read).await?)
    }

    /// The first entry of a partition from a place on that is kept.
    ///
    /// # Errors
    /// [`ClientError::Engine`] if the store can't be read.
    pub async fn first(&self, number: u32, from: Place) -> Result<Option<(Place, StreamEntryRow)>, ClientError> {
        let tenant = self.client.tenant();
        Ok(self.client.engine().read(tenant, move |reader| reader.stream_first(tenant, number, from)).await?)
    }

    /// The number the next entry gets, of each partition that has any: generation, partition, number. Shows everything
    /// that is durable.
    ///
    /// # Errors
    /// [`ClientError::Engine`] if the store can't be read.
    pub async fn heads(&self, number: u32) -> Result<Vec<(u32, u16, u64)>, ClientError> {
        let tenant = self.client.tenant();
        Ok(self.client.engine().read(tenant, move |reader| reader.stream_heads(tenant, number)).await?)
    }

    /// Publishes up to `max` dead letters to the stream they come from, those not published again yet, oldest first.
    /// Answers how many. Repeated after a crash, each is published once in effect: its id says which letter it was.
    ///
    /// # Errors
    /// [`ClientError::Engine`]; what was not published is still to be.
    pub async fn replay(&self, dead: &str, max: u32) -> Result<usize, ClientError> {
        let Some(stream) = dead.strip_prefix(DEAD_LETTERS) else { return Ok(0) };
        if self.look(dead).await?.is_none() {
            return Ok(0);
        }
        let consumer = format!("{REPLAY}-{:016x}", chance_of(&self.client)?);
        let options = TakeOptions { max, ..TakeOptions::default() };
        let letters = self.take(dead, REPLAY, &consumer, options).await?;
        let published = async {
            for some in in_pieces(&letters, |letter| letter.row.body.len()) {
                self.publish(stream, some.iter().map(again).collect()).await?;
                let places: Vec<Place> = some.iter().map(|letter| letter.place).collect();
                self.ack(dead, REPLAY, &consumer, &places).await?;
            }
            Ok(letters.len())
        };
        let published = published.await;
        self.leave(dead, REPLAY, &consumer).await?;
        published
    }

    async fn ask(&self, stream: &str, ask: StreamAsk) -> Result<Reply, ClientError> {
        let command = Command::Stream { name: stream.to_owned(), ask };
        Ok(self.client.engine().submit(self.client.tenant(), command).await?.0)
    }
}

/// A list in pieces that one command can carry.
fn in_pieces<T>(list: &[T], bytes_of: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut pieces, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, one) in list.iter().enumerate() {
        let more = bytes_of(one);
        if at > from && bytes + more > PIECE_BYTES_MAX {
            pieces.push(&list[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    if from < list.len() {
        pieces.push(&list[from..]);
    }
    pieces
}

fn chance_of(client: &Client) -> Result<u64, ClientError> {
    client.engine().world().chance().map(|chance| chance as u64).map_err(|cause| ClientError::Random { cause })
}

/// A dead letter as it is published again.
fn again(letter: &StreamEntry) -> NewEntry {
    let id = Some(format!("replay:{}", letter.place));
    NewEntry { key: letter.row.key.clone(), id, body: letter.row.body.clone() }
}

/// A letter that gives an entry up.
pub fn letter(place: Place, row: StreamEntryRow, deliveries: u32, reason: String) -> Letter {
    Letter { place, entry: NewEntry { key: row.key, id: row.id, body: row.body }, deliveries, reason }
}

/// Places as spans, those that follow each other in one.
fn spans_of(places: &[Place]) -> Vec<Span> {
    let mut places = places.to_vec();
    places.sort_unstable();
    let mut spans: Vec<Span> = Vec::new();
    for place in places {
        match spans.last_mut() {
            Some(last) if last.generation == place.generation && last.partition == place.partition => {
                if place.seq == last.to {
                    last.to += 1;
                } else if place.seq > last.to {
                    spans.push(Span::of(place));
                }
            }
            _ => spans.push(Span::of(place)),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_follow_each_other_are_one_span() {
        let place = |partition, seq| Place { generation: 0, partition, seq };
        let span = |partition, from, to| Span { generation: 0, partition, from, to };
        let places = [place(1, 4), place(0, 1), place(0, 0), place(0, 0), place(0, 3), place(0, 2), place(0, 9)];
        assert_eq!(spans_of(&places), [span(0, 0, 4), span(0, 9, 10), span(1, 4, 5)]);
        assert_eq!(spans_of(&[]), []);
    }
}
