//! Events as a server-sent stream: first what was missed, then what happens.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use mainspring_client::{Client, TenantId};
use mainspring_core::row::EventRow;
use mainspring_engine::EventNotice;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::auth::Caller;

/// Events read at once while catching up.
const PAGE: usize = 500;
/// A comment is sent this often when nothing happens, so that both ends notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often a silent stream looks whether its token still holds.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(2);

/// What is sent for each event.
#[derive(Debug, Serialize)]
struct Sent<'a> {
    seq: Option<u64>,
    name: &'a str,
    at: u64,
    turn_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    follow_up_id: Option<String>,
    session: Option<&'a str>,
    data: &'a RawValue,
}

struct Following {
    client: Client,
    caller: Caller,
    scope: String,
    live: Receiver<EventNotice>,
    /// The last sequence number sent.
    seq: u64,
    /// Read from the tables and not sent yet, newest first.
    missed: Vec<(u64, EventRow)>,
    /// The log position up to which the tables must be read before live events are.
    catch_up_to: Option<u64>,
    /// Which events are sent.
    keep: Keep,
}

/// Which events are sent.
type Keep = Box<dyn Fn(&EventRow) -> bool + Send>;

/// Follows a scope. `after` is the last sequence number the caller has; without one it hears only what is new.
///
/// # Errors
/// Those of reading the store.
pub async fn follow(
    client: Client,
    caller: Caller,
    scope: String,
    after: Option<u64>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, crate::problem::Problem> {
    follow_some(client, caller, scope, after, |_| true).await
}

/// Follows those events of a scope that are to be kept, as [`follow`] does.
///
/// # Errors
/// Those of reading the store.
pub async fn follow_some(
    client: Client,
    caller: Caller,
    scope: String,
    after: Option<u64>,
    keep: impl Fn(&EventRow) -> bool + Send + 'static,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, crate::problem::Problem> {
    // Listening comes first: what happens between this and the read below is then seen twice, and told apart by its
    // sequence number; the other way around it would be missed.
    let tenant = client.tenant();
    let live = client.engine().hub().listen(tenant, Some(&scope));
    let position = client.engine().durable_position(tenant);
    let seq = match after {
        Some(seq) => seq,
        None => latest(&client, tenant, &scope, position).await?,
    };
    let (missed, catch_up_to, keep) = (Vec::new(), Some(position), Box::new(keep));
    let following = Following { client, caller, scope, live, seq, missed, catch_up_to, keep };
    let events = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok(event), following))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

async fn latest(client: &Client, tenant: TenantId, scope: &str, position: u64) -> Result<u64, crate::problem::Problem> {
    client.engine().wait_applied(tenant, position, Duration::from_secs(5)).await;
    let scope = scope.to_owned();
    let latest = client.engine().read(tenant, move |reader| reader.latest_events(tenant, Some(&scope), 1)).await?;
    Ok(latest.first().map_or(0, |(seq, _)| *seq))
}

impl Following {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.token_ended() {
                return None;
            }
            if let Some((seq, event)) = self.missed.pop() {
                self.seq = self.seq.max(seq);
                if (self.keep)(&event) {
                    return Some(sent(Some(seq), &event));
                }
                continue;
            }
            if let Some(position) = self.catch_up_to {
                self.read_missed(position).await?;
                continue;
            }
            // A stream on which nothing happens still ends when its token does.
            let Ok(heard) = tokio::time::timeout(LOOK_AT_TOKEN, self.live.recv()).await else { continue };
            match heard {
                // It may have ended while this was waited for.
                Ok(_) if self.token_ended() => return None,
                Ok(EventNotice { seq: Some(seq), .. }) if seq <= self.seq => {}
                Ok(EventNotice { seq, event }) => {
                    self.seq = self.seq.max(seq.unwrap_or(0));
                    if (self.keep)(&event) {
                        return Some(sent(seq, &event));
                    }
                }
                // Too slow for what was kept: read what was missed, then go on.
                Err(RecvError::Lagged(_)) => {
                    self.catch_up_to = Some(self.client.engine().durable_position(self.client.tenant()));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn token_ended(&self) -> bool {
        self.caller.expired() || self.client.engine().hub().is_revoked(self.caller.token)
    }

    /// Reads a page of what was missed; `None` ends the stream, and the caller resumes it later.
    async fn read_missed(&mut self, position: u64) -> Option<()> {
        let tenant = self.client.tenant();
        let engine = self.client.engine().clone();
        while !engine.wait_applied(tenant, position, Duration::from_secs(5)).await {
            tracing::debug!(position, "a follower waits for the tables to catch up");
        }
        let (scope, seq) = (self.scope.clone(), self.seq);
        let read = engine.read(tenant, move |reader| reader.events(tenant, Some(&scope), seq, PAGE)).await;
        let mut page = match read {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "an event stream ends because the store can't be read");
                return None;
            }
        };
        if page.len() < PAGE {
            self.catch_up_to = None;
        }
        page.reverse();
        self.missed = page;
        Some(())
    }
}

fn sent(seq: Option<u64>, event: &EventRow) -> Event {
    let fallback = || RawValue::from_string("null".to_owned()).unwrap_or_else(|_| unreachable!("null is JSON"));
    let data: Box<RawValue> = raw(&event.data).unwrap_or_else(fallback);
    // What happens to a follow-up is told by its run, which is no turn.
    let run = event.run.map(|run| run.to_string());
    let of_config = event.scope.as_deref() == Some(mainspring_flows::publish::SCOPE);
    let (turn_id, follow_up_id) = match event.name.as_str() {
        name if name.starts_with("follow_up.") => (None, run),
        // Told by a publish, which is neither; its data says which.
        _ if of_config => (None, None),
        _ => (run, None),
    };
    let body = Sent {
        seq,
        name: &event.name,
        at: event.at,
        turn_id,
        follow_up_id,
        session: event.scope.as_deref().filter(|_| !of_config),
        data: &data,
    };
    let text = serde_json::to_string(&body).unwrap_or_else(|_| "null".to_owned());
    let sent = Event::default().event(event.name.replace(['\r', '\n'], " ")).data(text);
    match seq {
        Some(seq) => sent.id(seq.to_string()),
        None => sent,
    }
}

fn raw(data: &Bytes) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(data).ok()?;
    // A line break inside would end the field early; JSON has none outside of strings that matters.
    RawValue::from_string(text.replace(['\r', '\n'], " ")).ok()
}
