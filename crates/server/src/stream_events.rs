//! A stream's entries as server-sent events, for those who read without a group.
//!
//! How far such a reader came is in the `id` of each event: the generation it reads, and the next number of each of its
//! partitions, as `0:12,5,7`. Nothing of it is kept here, and nothing is kept for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use mainspring_client::view::StreamView;
use mainspring_client::{Client, ClientError, Place, Span, StreamEntryRow};
use tokio::sync::watch::Receiver;

use crate::api::streams::EntryView;
use crate::auth::Caller;
use crate::problem::Problem;

/// Entries of one partition read at once.
const PAGE: u64 = 100;
/// Bytes of them.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A comment is sent this often when nothing happens, so that both ends notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a silent stream looks whether its token still holds.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(2);

/// Where a reader begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With the oldest entry that is kept.
    Start,
    /// With what is published from now on.
    Now,
    /// After the event with this id.
    After(String),
}

/// How far a reader came.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    generation: u32,
    next: Vec<u64>,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.generation)?;
        for (nth, next) in self.next.iter().enumerate() {
            write!(f, "{}{next}", if nth == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (generation, next) = text.split_once(':').ok_or(())?;
        let next = next.split(',').map(|number| number.parse().map_err(drop)).collect::<Result<_, _>>()?;
        Ok(Position { generation: generation.parse().map_err(drop)?, next })
    }
}

struct Following {
    client: Client,
    caller: Caller,
    name: String,
    stirs: Receiver<()>,
    position: Position,
    read: VecDeque<(Place, StreamEntryRow)>,
    /// Nothing was found when it was last looked: wait first.
    waits: bool,
}

/// Follows a stream.
///
/// # Errors
/// A 404 if there is no such stream, a 400 for an id that is not one of its events.
pub(crate) async fn follow(
    client: Client,
    caller: Caller,
    name: String,
    begin: Begin,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    // Listening comes first, so that nothing is missed between looking and waiting.
    let stirs = client.engine().hub().stream_stirs(client.tenant(), &name);
    let view = client.streams().look(&name).await?.ok_or_else(|| Problem::not_found("stream"))?;
    let position = beginning(&client, &view, begin).await?;
    let following = Following { client, caller, name, stirs, position, read: VecDeque::new(), waits: false };
    let events = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok(event), following))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

async fn beginning(client: &Client, view: &StreamView, begin: Begin) -> Result<Position, Problem> {
    let of = |generation: u32| view.row.generations.iter().find(|known| known.number == generation);
    let (first, last) = (view.row.generations.first(), view.row.generations.last());
    match begin {
        Begin::Start => {
            let first = first.ok_or_else(|| Problem::not_found("stream"))?;
            Ok(Position { generation: first.number, next: vec![0; usize::from(first.partitions)] })
        }
        Begin::Now => {
            let last = last.ok_or_else(|| Problem::not_found("stream"))?;
            let mut next = vec![0; usize::from(last.partitions)];
            for (generation, partition, number) in client.streams().heads(view.row.number).await? {
                if let Some(next) = next.get_mut(usize::from(partition)).filter(|_| generation == last.number) {
                    *next = number;
                }
            }
            Ok(Position { generation: last.number, next })
        }
        Begin::After(text) => {
            let bad = || {
                let detail = format!("{:?} is not the id of an event of this stream", text.get(..80).unwrap_or(&text));
                Problem::bad_request("event_id_malformed", detail, "send the id of the last event you have, or none")
            };
            let position: Position = text.parse().map_err(|()| bad())?;
            if let Some(known) = of(position.generation) {
                let fits = position.next.len() == usize::from(known.partitions);
                return if fits { Ok(position) } else { Err(bad()) };
            }
            // One that is forgotten was read whole by all groups long ago.
            match first.filter(|first| position.generation < first.number) {
                Some(first) => Ok(Position { generation: first.number, next: vec![0; usize::from(first.partitions)] }),
                None => Err(bad()),
            }
        }
    }
}

impl Following {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.caller.expired() || self.client.engine().hub().is_revoked(self.caller.token) {
                return None;
            }
            if let Some((place, row)) = self.read.pop_front() {
                if let Some(next) = self.position.next.get_mut(usize::from(place.partition)) {
                    *next = place.seq + 1;
                }
                let body =
                    serde_json::to_string(&EntryView::of(place, row, None)).unwrap_or_else(|_| "null".to_owned());
                // A line break inside would end the field early; JSON has none outside of strings that matters.
                let body = body.replace(['\r', '\n'], " ");
                return Some(Event::default().event("entry").id(self.position.to_string()).data(body));
            }
            if self.waits {
                let _ = tokio::time::timeout(LOOK_AT_TOKEN, self.stirs.changed()).await;
            }
            match self.read_more().await {
                Ok(moved) => self.waits = self.read.is_empty() && !moved,
                Err(error) => {
                    tracing::warn!(%error, "an event stream ends because the store can't be read");
                    return None;
                }
            }
        }
    }

    /// Reads what there is. Answers whether the position moved without an entry to show for it.
    async fn read_more(&mut self) -> Result<bool, ClientError> {
        let streams = self.client.streams();
        let Some(view) = streams.look(&self.name).await? else { return Ok(false) };
        let generation = self.position.generation;
        let heads = streams.heads(view.row.number).await?;
        let (mut moved, mut behind) = (false, false);
        for (_, partition, end) in heads.into_iter().filter(|(of, _, _)| *of == generation) {
            let Some(next) = self.position.next.get(usize::from(partition)).copied() else { continue };
            if next >= end {
                continue;
            }
            let span = Span { generation, partition, from: next, to: end.min(next.saturating_add(PAGE)) };
            let entries = streams.read(view.row.number, span, PAGE_BYTES_MAX).await?;
            behind = true;
            if entries.is_empty() {
                // Not kept any more: on to what is.
                let first = streams.first(view.row.number, Place { generation, partition, seq: next }).await?;
                self.position.next[usize::from(partition)] = first.map_or(end, |(place, _)| place.seq);
                moved = true;
            }
            self.read.extend(entries);
        }
        let following = view.row.generations.iter().find(|known| known.number > generation);
        if let Some(following) = following.filter(|_| !behind) {
            self.position = Position { generation: following.number, next: vec![0; usize::from(following.partitions)] };
            moved = true;
        }
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back() {
        let position = Position { generation: 3, next: vec![12, 0, u64::MAX] };
        assert_eq!(position.to_string().parse(), Ok(position));
        for bad in ["", "3", "3:", "3:1,", "x:1", "3:-1", "3:1;2"] {
            assert_eq!(bad.parse::<Position>(), Err(()), "{bad:?}");
        }
    }
}
