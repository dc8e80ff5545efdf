//! Streams over HTTP: publish, take, acknowledge, give back; how they stand; and dead letters published again.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use mainspring_client::view::{GroupView, StreamView};
use mainspring_client::{
    DEAD_LETTERS, NewEntry, Place, Span, StreamEntry, StreamEntryRow, StreamSettings, Streams, TakeOptions, letter,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Path, Query, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;
use crate::stream_events::{self, Begin};

/// Bytes of a request that publishes: as much as one decision takes, and room for how it is spelt.
const PUBLISH_BYTES_MAX: usize = 12 * 1024 * 1024;
/// Bytes of any other request.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The longest a request waits for entries.
const WAIT_MS_MAX: u64 = 60_000;
/// A group that nobody took from for so long is told apart, because it may be holding entries for nobody: seven days.
const UNSEEN_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// An entry to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryIn {
    /// What it stays in order with: a session, a customer. Without one it may go to any partition.
    key: Option<String>,
    /// Your own id for it. Published again under it, it is the same entry, for as long as that is kept.
    id: Option<String>,
    /// What it says.
    #[schema(value_type = Object)]
    body: Option<Box<RawValue>>,
    /// What it says, if that is no JSON.
    body_base64: Option<String>,
}

/// One entry, or several as `entries`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Up to 1,000, published in this order, all of them or none.
    entries: Option<Vec<EntryIn>>,
    /// As in an entry.
    key: Option<String>,
    /// As in an entry.
    id: Option<String>,
    /// As in an entry.
    #[schema(value_type = Object)]
    body: Option<Box<RawValue>>,
    /// As in an entry.
    body_base64: Option<String>,
}

/// An entry published: it is durable.
#[derive(Debug, Serialize, ToSchema)]
pub struct PublishedEntry {
    /// Where it is.
    entry: String,
    /// Whether it was published before under its id.
    duplicate: bool,
}

/// Entries published, in the order they were given.
#[derive(Debug, Serialize, ToSchema)]
pub struct PublishedList {
    entries: Vec<PublishedEntry>,
}

/// Publishes entries to a stream, which is created if there is none of this name. Durable when it is answered.
#[utoipa::path(
    post, path = "/v1/streams/{name}/entries", tag = "streams", params(("name" = String, Path)), request_body = Publish,
    responses(
        (status = 201, body = PublishedList), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem),
    ),
)]
pub async fn publish(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<PublishedList>), Problem> {
    caller.must_have(Scope::Write)?;
    check_name("stream", &name)?;
    let Publish { entries, key, id, body, body_base64 } = json_body(body, PUBLISH_BYTES_MAX).await?;
    let one = EntryIn { key, id, body, body_base64 };
    let entries = entries.unwrap_or_else(|| vec![one]).into_iter().map(new_entry).collect::<Result<_, _>>()?;
    let places = streams(&state, &caller).publish(&name, entries).await?;
    let published = |(place, duplicate): (Place, bool)| PublishedEntry { entry: place.to_string(), duplicate };
    Ok((StatusCode::CREATED, Json(PublishedList { entries: places.into_iter().map(published).collect() })))
}

fn new_entry(entry: EntryIn) -> Result<NewEntry, Problem> {
    let EntryIn { key, id, body, body_base64 } = entry;
    let body = match (body, body_base64) {
        (Some(body), None) => Bytes::from(body.get().to_owned()),
        (None, Some(text)) => BASE64.decode(text).map(Bytes::from).map_err(|error| {
            let action = "send standard base64, or JSON as `body`";
            Problem::bad_request("body_malformed", format!("body_base64 is not base64: {error}"), action)
        })?,
        _ => {
            let detail = "an entry says nothing, or two things";
            return Err(Problem::bad_request("body_missing", detail, "give each entry `body` or `body_base64`"));
        }
    };
    Ok(NewEntry { key, id, body })
}

/// A name as it stands in addresses and in other systems' keys.
fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let fits = (1..=200).contains(&name.len());
    if fits && !name.chars().any(|c| c.is_whitespace() || c.is_control() || "{}/*?[]".contains(c)) {
        return Ok(());
    }
    let detail = format!("{:?} can't be the name of a {what}", name.chars().take(40).collect::<String>());
    Err(Problem::bad_request("name_malformed", detail, "use 1 to 200 bytes without spaces and without { } / * ? [ ]"))
}

fn streams(state: &AppState, caller: &Caller) -> Streams {
    state.client(caller.tenant).streams()
}

/// What a consumer takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Take {
    /// Who takes: the same name each time. It holds a share of the partitions.
    consumer: String,
    /// How many entries at most. 0 takes none, and keeps what the consumer holds.
    #[serde(default = "max_default")]
    max: u32,
    /// How long to wait if there are none, a minute at most.
    #[serde(default)]
    wait_ms: u64,
    /// How long the consumer holds its partitions without being heard of.
    #[serde(default = "lease_default")]
    lease_ms: u64,
    /// A new group begins with `start`, the oldest entry that is kept, or with `now`.
    #[serde(default)]
    from: Beginning,
    /// You have nothing in hand: what was handed to you before and is not settled is handed out again. Say so when you
    /// begin anew under a name, when an answer was lost, or each time, if you settle everything before you take more.
    #[serde(default)]
    again: bool,
}

/// Where a new group begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Beginning {
    /// With the oldest entry that is kept.
    #[default]
    Start,
    /// With what is published from now on.
    Now,
}

fn max_default() -> u32 {
    100
}

fn lease_default() -> u64 {
    30_000
}

/// An entry handed out.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryView {
    /// Where it is, for acknowledging it.
    entry: String,
    /// Its ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Its publisher's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// When it was published, in milliseconds since the Unix epoch.
    at: u64,
    /// Which time it is handed out, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<u32>,
    /// What it says, if that is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    body: Option<Box<RawValue>>,
    /// What it says, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// Of a dead letter: where it comes from and why it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<DeadView>,
}

/// Where a dead letter comes from.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadView {
    /// The group that gave it up.
    group: String,
    /// Where it is in its own stream.
    entry: String,
    /// How often it was handed out.
    deliveries: u32,
    /// Why it was given up.
    reason: String,
}

impl EntryView {
    pub(crate) fn of(place: Place, row: StreamEntryRow, deliveries: Option<u32>) -> Self {
        let json = std::str::from_utf8(&row.body).ok().and_then(|text| RawValue::from_string(text.to_owned()).ok());
        let dead = row.dead.map(|dead| DeadView {
            group: dead.group,
            entry: dead.place.to_string(),
            deliveries: dead.deliveries,
            reason: dead.reason,
        });
        EntryView {
            entry: place.to_string(),
            key: row.key,
            id: row.id,
            at: row.at,
            deliveries,
            body_base64: json.is_none().then(|| BASE64.encode(&row.body)),
            body: json,
            dead,
        }
    }
}

/// Entries handed out, in order within each partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryList {
    entries: Vec<EntryView>,
}

/// Takes entries for a consumer of a group, those handed out in vain before first. Creates stream and group as needed.
#[utoipa::path(
    post, path = "/v1/streams/{name}/groups/{group}/take", tag = "streams",
    params(("name" = String, Path), ("group" = String, Path)), request_body = Take,
    responses((status = 200, body = EntryList), (status = 400, body = Problem), (status = 401, body = Problem), (status = 429, body = Problem)),
)]
pub async fn take(
    State(state): State<AppState>,
    caller: Caller,
    Path((name, group)): Path<(String, String)>,
    body: Body,
) -> Result<Json<EntryList>, Problem> {
    caller.must_have(Scope::Write)?;
    check_name("stream", &name)?;
    check_name("group", &group)?;
    let take: Take = json_body(body, BODY_BYTES_MAX).await?;
    check_name("consumer", &take.consumer)?;
    let options = TakeOptions {
        max: take.max,
        lease: Duration::from_millis(take.lease_ms.clamp(1_000, 3_600_000)),
        wait: Duration::from_millis(take.wait_ms.min(WAIT_MS_MAX)),
        from_now: take.from == Beginning::Now,
        again: take.again,
    };
    let entries = streams(&state, &caller).take(&name, &group, &take.consumer, options).await?;
    let view = |StreamEntry { place, row, deliveries }| EntryView::of(place, row, Some(deliveries));
    Ok(Json(EntryList { entries: entries.into_iter().map(view).collect() }))
}

/// What a consumer says about entries it took.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Settle {
    /// Who.
    consumer: String,
    /// Which entries, as they were handed out.
    #[serde(default)]
    entries: Vec<String>,
    /// Why they are given back or given up.
    #[serde(default)]
    reason: String,
    /// After how many milliseconds they are handed out again.
    #[serde(default)]
    after_ms: u64,
}

async fn settling(caller: &Caller, state: &AppState, body: Body) -> Result<(Settle, Vec<Place>), Problem> {
    caller.must_have(Scope::Write)?;
    let settle: Settle = json_body(body, BODY_BYTES_MAX).await?;
    let max = state.engine().limits().stream_entries_max;
    if settle.entries.len() > max {
        let detail = format!("{} entries are named, at most {max} are", settle.entries.len());
        return Err(Problem::bad_request("too_many_entries", detail, "use several calls"));
    }
    let places = settle.entries.iter().map(|text| place(text)).collect::<Result<_, _>>()?;
    Ok((settle, places))
}

fn place(text: &str) -> Result<Place, Problem> {
    text.parse().map_err(|error: mainspring_core::stream::NotAPlace| {
        Problem::bad_request("entry_malformed", format!("{text:?} is {error}"), "send entries as they were handed out")
    })
}

/// Acknowledges entries: they are not handed out to the group again. Repeating it is harmless, and so is being late.
#[utoipa::path(
    post, path = "/v1/streams/{name}/groups/{group}/ack", tag = "streams",
    params(("name" = String, Path), ("group" = String, Path)), request_body = Settle,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn ack(
    State(state): State<AppState>,
    caller: Caller,
    Path((name, group)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (settle, places) = settling(&caller, &state, body).await?;
    streams(&state, &caller).ack(&name, &group, &settle.consumer, &places).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives entries back, to be handed out again after a time. Until then their partitions wait, so that order is kept.
#[utoipa::path(
    post, path = "/v1/streams/{name}/groups/{group}/nack", tag = "streams",
    params(("name" = String, Path), ("group" = String, Path)), request_body = Settle,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn nack(
    State(state): State<AppState>,
    caller: Caller,
    Path((name, group)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (settle, places) = settling(&caller, &state, body).await?;
    let after = Duration::from_millis(settle.after_ms);
    let streams = streams(&state, &caller);
    streams.give_back(&name, &group, &settle.consumer, places, &settle.reason, after).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts entries into the stream `dlq.{name}` with the reason, and acknowledges them.
#[utoipa::path(
    post, path = "/v1/streams/{name}/groups/{group}/dead-letter", tag = "streams",
    params(("name" = String, Path), ("group" = String, Path)), request_body = Settle,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn dead_letter(
    State(state): State<AppState>,
    caller: Caller,
    Path((name, group)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (settle, places) = settling(&caller, &state, body).await?;
    let streams = streams(&state, &caller);
    let number = streams.look(&name).await?.ok_or_else(|| Problem::not_found("stream"))?.row.number;
    for at in places {
        let found = streams.read(number, Span::of(at), usize::MAX).await?.pop();
        let (at, row) = found.ok_or_else(|| Problem::not_found("entry"))?;
        let letters = vec![letter(at, row, 0, settle.reason.clone())];
        streams.give_up(&name, &group, &settle.consumer, letters).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Leaves a group: what the consumer holds goes to the others at once, with the entries it has not acknowledged.
#[utoipa::path(
    post, path = "/v1/streams/{name}/groups/{group}/leave", tag = "streams",
    params(("name" = String, Path), ("group" = String, Path)), request_body = Settle,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem)),
)]
pub async fn leave(
    State(state): State<AppState>,
    caller: Caller,
    Path((name, group)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (settle, _) = settling(&caller, &state, body).await?;
    streams(&state, &caller).leave(&name, &group, &settle.consumer).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a group. What it has not acknowledged is not kept for it any more.
#[utoipa::path(
    delete, path = "/v1/streams/{name}/groups/{group}", tag = "streams",
    params(("name" = String, Path), ("group" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn drop_group(
    State(state): State<AppState>,
    caller: Caller,
    Path((name, group)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    caller.must_have(Scope::Write)?;
    streams(&state, &caller).drop_group(&name, &group).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a stream should be. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many partitions, 256 at most. Groups read what was published before another number, and then go on with it.
    partitions: Option<u16>,
    /// Milliseconds entries are kept, and longer while a group has not acknowledged them.
    keep_ms: Option<u64>,
    /// Entries the slowest group may have left before publishing is refused.
    waiting_max: Option<u64>,
    /// About how many bytes these may have.
    waiting_bytes_max: Option<u64>,
    /// How often an entry is handed out before it becomes a dead letter.
    deliveries_max: Option<u32>,
}

/// Creates a stream, or changes it.
#[utoipa::path(
    put, path = "/v1/streams/{name}", tag = "streams", params(("name" = String, Path)), request_body = Settings,
    responses((status = 200, body = StreamShown), (status = 400, body = Problem), (status = 401, body = Problem), (status = 429, body = Problem)),
)]
pub async fn put(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<StreamShown>, Problem> {
    caller.must_have(Scope::Write)?;
    check_name("stream", &name)?;
    let Settings { partitions, keep_ms, waiting_max, waiting_bytes_max, deliveries_max } =
        json_body(body, BODY_BYTES_MAX).await?;
    let streams = streams(&state, &caller);
    streams.put(&name, StreamSettings { partitions, keep_ms, waiting_max, waiting_bytes_max, deliveries_max }).await?;
    shown(&state, &streams, &name).await.map(Json)
}

/// A stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamShown {
    name: String,
    /// Partitions it is published to.
    partitions: u16,
    /// The generation of partitions it is published to, counted from 0.
    generation: u32,
    keep_ms: u64,
    waiting_max: u64,
    waiting_bytes_max: u64,
    deliveries_max: u32,
    created_at: u64,
    /// Entries ever published.
    published: u64,
    /// Its dead letters so far.
    dead_letters: u64,
    groups: Vec<GroupShown>,
}

/// A group of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupShown {
    name: String,
    /// The generation it reads.
    generation: u32,
    /// Entries it has not acknowledged.
    waiting: u64,
    /// About how many bytes these have.
    waiting_bytes: u64,
    /// Of these, entries that are with its consumers.
    pending: u64,
    /// When the oldest of them was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at: Option<u64>,
    created_at: u64,
    /// When a consumer of it was last heard of, to within ten minutes.
    seen_at: u64,
    /// Nobody took from it for seven days: entries are kept for it, perhaps for nobody. Drop it if so.
    unseen: bool,
    /// Entries are kept for it beyond their time.
    holds_trim: bool,
    consumers: Vec<ConsumerShown>,
    /// Where something waits or somebody holds something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partitions: Vec<PartShown>,
}

/// A consumer of a group.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConsumerShown {
    name: String,
    /// How many partitions it holds.
    partitions: usize,
    /// Until when, if it is not heard of.
    until: u64,
}

/// A partition as a group reads it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartShown {
    partition: u16,
    /// Entries not acknowledged.
    waiting: u64,
    /// Of these, entries that are with its consumer.
    pending: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_by: Option<String>,
    /// Why what waits is not handed out, or acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The tenant's streams, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamList {
    streams: Vec<StreamShown>,
}

/// Shows all streams, without their partitions.
#[utoipa::path(
    get, path = "/v1/streams", tag = "streams",
    responses((status = 200, body = StreamList), (status = 401, body = Problem)),
)]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<StreamList>, Problem> {
    caller.must_have(Scope::Read)?;
    let views = streams(&state, &caller).list().await?;
    let dead: BTreeMap<String, u64> = views.iter().map(|view| (view.name.clone(), view.published)).collect();
    let now = state.engine().world().now_ms();
    let shown = views.into_iter().map(|view| {
        let dead = dead.get(&format!("{DEAD_LETTERS}{}", view.name)).copied().unwrap_or(0);
        stream_shown(view, dead, now)
    });
    Ok(Json(StreamList { streams: shown.collect() }))
}

/// Shows a stream: how far each group is behind, who holds what, and why what waits does.
#[utoipa::path(
    get, path = "/v1/streams/{name}", tag = "streams", params(("name" = String, Path)),
    responses((status = 200, body = StreamShown), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<StreamShown>, Problem> {
    caller.must_have(Scope::Read)?;
    shown(&state, &streams(&state, &caller), &name).await.map(Json)
}

async fn shown(state: &AppState, streams: &Streams, name: &str) -> Result<StreamShown, Problem> {
    let view = streams.look(name).await?.ok_or_else(|| Problem::not_found("stream"))?;
    let dead = streams.look(&format!("{DEAD_LETTERS}{name}")).await?.map_or(0, |dead| dead.published);
    let mut oldest = Vec::with_capacity(view.groups.len());
    for group in &view.groups {
        oldest.push(streams.oldest_at(&view, group).await?.into_iter().collect::<BTreeMap<_, _>>());
    }
    let now = state.engine().world().now_ms();
    let keep_ms = view.row.keep_ms;
    let mut shown = stream_shown(view, dead, now);
    for (group, oldest) in shown.groups.iter_mut().zip(oldest) {
        group.oldest_at = oldest.values().min().copied();
        group.holds_trim = group.oldest_at.is_some_and(|at| at.saturating_add(keep_ms) < now);
        for part in &mut group.partitions {
            part.oldest_at = oldest.get(&part.partition).copied();
        }
    }
    Ok(shown)
}

fn stream_shown(view: StreamView, dead_letters: u64, now: u64) -> StreamShown {
    let StreamView { name, row, published, groups } = view;
    let newest = row.generations.last();
    StreamShown {
        name,
        partitions: newest.map_or(0, |newest| newest.partitions),
        generation: newest.map_or(0, |newest| newest.number),
        keep_ms: row.keep_ms,
        waiting_max: row.waiting_max,
        waiting_bytes_max: row.waiting_bytes_max,
        deliveries_max: row.deliveries_max,
        created_at: row.created_at,
        published,
        dead_letters,
        groups: groups.into_iter().map(|group| group_shown(group, now)).collect(),
    }
}

fn group_shown(group: GroupView, now: u64) -> GroupShown {
    let parts = group.parts.into_iter().filter(|part| part.waiting > 0 || part.holder.is_some());
    let part = |part: mainspring_client::view::PartView| PartShown {
        partition: part.partition,
        waiting: part.waiting,
        pending: part.in_hand,
        oldest_at: None,
        held_by: part.holder,
        why: part.why,
    };
    let consumer = |(name, until, partitions)| ConsumerShown { name, partitions, until };
    GroupShown {
        name: group.name,
        generation: group.generation,
        waiting: group.waiting,
        waiting_bytes: group.waiting_bytes,
        pending: group.in_hand,
        oldest_at: None,
        created_at: group.created_at,
        seen_at: group.seen_at,
        unseen: group.consumers.is_empty() && now.saturating_sub(group.seen_at) > UNSEEN_MS,
        holds_trim: false,
        consumers: group.consumers.into_iter().map(consumer).collect(),
        partitions: parts.map(part).collect(),
    }
}

/// How many dead letters to publish again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// At most 1,000.
    #[serde(default = "replay_default")]
    max: u32,
}

fn replay_default() -> u32 {
    1_000
}

/// What was published again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// How many entries.
    replayed: usize,
}

/// Publishes dead letters of `dlq.{stream}` to their stream again, those that were not yet, oldest first. From the first
/// replay on, dead letters are kept until they were published again, or the group `replay` is dropped.
#[utoipa::path(
    post, path = "/v1/streams/{name}/replay", tag = "streams", params(("name" = String, Path)), request_body = Replay,
    responses((status = 200, body = Replayed), (status = 400, body = Problem), (status = 401, body = Problem), (status = 429, body = Problem)),
)]
pub async fn replay(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Replayed>, Problem> {
    caller.must_have(Scope::Write)?;
    if !name.starts_with(DEAD_LETTERS) {
        let action = format!("replay \"{DEAD_LETTERS}{name}\"");
        return Err(Problem::bad_request("not_dead_letters", format!("{name:?} holds no dead letters"), action));
    }
    let Replay { max } = json_body(body, BODY_BYTES_MAX).await?;
    Ok(Json(Replayed { replayed: streams(&state, &caller).replay(&name, max).await? }))
}

/// Where to begin.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Follow {
    from: Option<Beginning>,
    after: Option<String>,
}

/// Streams entries as they are published, without a group: nothing is acknowledged, and nothing is kept for it.
///
/// Each event's `id` says how far all partitions were read; send the last one as `Last-Event-ID` (or `?after=`) to
/// resume. Without one it begins with what is published from now on, or with `?from=start` at the oldest that is kept.
#[utoipa::path(
    get, path = "/v1/streams/{name}/events", tag = "streams",
    params(
        ("name" = String, Path), ("Last-Event-ID" = Option<String>, Header), ("after" = Option<String>, Query),
        ("from" = Option<String>, Query),
    ),
    responses((status = 200, content_type = "text/event-stream"), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn events(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    Query(follow): Query<Follow>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    caller.must_have(Scope::Read)?;
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let begin = match (header.or(follow.after), follow.from) {
        (Some(text), _) => Begin::After(text),
        (None, Some(Beginning::Start)) => Begin::Start,
        (None, Some(Beginning::Now) | None) => Begin::Now,
    };
    stream_events::follow(state.client(caller.tenant), caller, name, begin).await
}
