//! Follow-ups: turns that nobody's message begins, scheduled for a session.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use mainspring_client::{Client, RunId, StartOptions, TaskId};
use mainspring_core::Command;
use mainspring_core::journal::{Completion, EntryKind};
use mainspring_core::row::{RunRow, RunState};
use mainspring_flows::SessionKey;
use mainspring_flows::follow_up::when::Next;
use mainspring_flows::follow_up::{self, BadFollowUp, Due, FollowUp, OnMessage, Outcome, Payload, QuietHours};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::messages::{idempotency_key, known_agent};
use super::{Path, body_bytes, id, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;

/// Bytes of a request: text and data, each byte of which JSON may write as six, and what is around them.
const BODY_BYTES_MAX: usize = 6 * follow_up::PAYLOAD_BYTES_MAX + 16 * 1024;
/// Follow-ups that have ended and are listed still.
const ENDED_LISTED_MAX: usize = 50;
/// Events of the session that are looked through for them.
const EVENTS_LOOKED_AT_MAX: usize = 2_000;

/// A follow-up to schedule. Exactly one of `at_ms` and `after_silence_ms` says when.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleFollowUp {
    /// What the agent is told when it is due.
    text: String,
    /// Whatever else it should know.
    #[serde(default)]
    data: Option<Value>,
    /// Due at this time, in milliseconds since the Unix epoch; 400 days ahead at most.
    #[serde(default)]
    at_ms: Option<u64>,
    /// Due after the person has said nothing for so long.
    #[serde(default)]
    after_silence_ms: Option<u64>,
    /// What a message of the person does while it waits: `cancel` (the default), `reschedule` (the silence begins anew)
    /// or `keep`.
    #[serde(default)]
    on_message: Option<String>,
    /// After this time it is of no use.
    #[serde(default)]
    expires_at_ms: Option<u64>,
    /// Hours in which the person is left alone. What is due then is sent at their end.
    #[serde(default)]
    quiet_hours: Option<QuietHoursView>,
    /// Whose clock tells the quiet hours: a name of the IANA database, `UTC` if it is not said.
    #[serde(default)]
    time_zone: Option<String>,
    /// A session has at most one live follow-up of a name: asked for again, it is the same.
    #[serde(default)]
    name: Option<String>,
}

/// Hours of the day. They may go over midnight.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHoursView {
    /// Their beginning, `HH:MM`.
    from: String,
    /// Their end, `HH:MM`.
    to: String,
}

/// A follow-up.
#[derive(Debug, Serialize, ToSchema)]
pub struct FollowUpView {
    /// Its id. It is that of its run as well.
    id: String,
    /// Its session.
    session: String,
    /// Its name, if it has one.
    name: Option<String>,
    /// `scheduled`, `fired`, `cancelled`, `expired`, `failed` or `parked`.
    state: String,
    /// When it is due if nothing happens meanwhile, or was when it ended.
    due_at: Option<u64>,
    /// What the agent is told.
    text: String,
    /// Whatever else it should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    /// `cancel`, `reschedule` or `keep`.
    on_message: String,
    /// After this time it is of no use.
    expires_at: Option<u64>,
    /// When it was scheduled.
    created_at: u64,
    /// When it ended.
    finished_at: Option<u64>,
    /// The message it became, or was cancelled by.
    message_id: Option<String>,
    /// The turn its message was offered to.
    turn_id: Option<String>,
    /// Why it was cancelled or failed.
    reason: Option<String>,
}

/// A session's follow-ups.
#[derive(Debug, Serialize, ToSchema)]
pub struct FollowUpList {
    /// All that are live, the next one first; then those that ended lately, the last one first, 50 at most.
    follow_ups: Vec<FollowUpView>,
}

/// Schedules a follow-up of a session: at a time, or after silence, the agent is asked to speak.
///
/// Answered once it is durable. Asked again with the same `Idempotency-Key`, or with the name of one that is live, it is
/// the same follow-up.
#[utoipa::path(
    post, path = "/v1/sessions/{agent}/{interlocutor}/{channel}/follow-ups", tag = "follow-ups",
    params(
        ("agent" = String, Path), ("interlocutor" = String, Path), ("channel" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again within ten minutes gives the same answer"),
    ),
    request_body = ScheduleFollowUp,
    responses(
        (status = 202, body = FollowUpView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem),
    ),
)]
pub async fn schedule(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, interlocutor, channel)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<FollowUpView>), Problem> {
    caller.must_have(Scope::Write)?;
    let session = SessionKey::new(caller.tenant, &agent, &interlocutor, &channel)?;
    known_agent(&state, &session)?;
    let asked: ScheduleFollowUp = json_body(body, BODY_BYTES_MAX).await?;
    let asked = follow_up_of(session.to_string(), asked)?;
    asked.check(state.engine().world().now_ms())?;

    let client = state.client(caller.tenant);
    if let Some(known) = namesake(&client, &asked, None).await? {
        return shown(&client, known).await;
    }
    let idempotency_key = idempotency_key(&headers)?.map(|key| format!("follow-up:{}:{key}", asked.session));
    let options = StartOptions { key: Some(asked.session.clone()), idempotency_key, ..StartOptions::default() };
    let run = client.start_with(follow_up::WORKFLOW, &asked, options).await?;
    // Another request may have scheduled one of this name at the same time. The older one stays: the younger would find
    // that out itself when it begins, this only makes the answer name the one that is going to fire.
    match namesake(&client, &asked, Some(run)).await {
        Ok(None) => {}
        other => {
            let reason = "another follow-up of this session has its name".to_owned();
            state.engine().submit(caller.tenant, Command::CancelRun { run, reason }).await?;
            if let Some(known) = other? {
                return shown(&client, known).await;
            }
        }
    }
    shown(&client, run).await
}

/// The live follow-up that has this one's name. It must be the same follow-up.
async fn namesake(client: &Client, asked: &FollowUp, than: Option<RunId>) -> Result<Option<RunId>, Problem> {
    let Some(name) = &asked.name else { return Ok(None) };
    match follow_up::namesake(client, &asked.session, name, than).await? {
        None => Ok(None),
        Some((run, known)) if known == *asked => Ok(Some(run)),
        Some((run, _)) => {
            let detail = format!("follow-up {run} of this session is named {name:?} and says something else");
            let action = format!("DELETE /v1/follow-ups/{run} first, or use another name");
            Err(Problem::new(StatusCode::CONFLICT, "follow_up_name_taken", detail, action))
        }
    }
}

async fn shown(client: &Client, run: RunId) -> Result<(StatusCode, Json<FollowUpView>), Problem> {
    let (row, view) = view(client, run).await?.ok_or_else(|| Problem::not_found("follow-up"))?;
    if row.state == RunState::Cancelled && row.started_at.is_none() {
        let detail = format!("{} follow-ups of this session wait already", follow_up::LIVE_MAX);
        let action = "cancel some of them, then ask again, with a new Idempotency-Key";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "follow_ups_full", detail, action));
    }
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// Lists a session's follow-ups: all that are live, and those that ended lately.
#[utoipa::path(
    get, path = "/v1/sessions/{agent}/{interlocutor}/{channel}/follow-ups", tag = "follow-ups",
    params(("agent" = String, Path), ("interlocutor" = String, Path), ("channel" = String, Path)),
    responses((status = 200, body = FollowUpList), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, interlocutor, channel)): Path<(String, String, String)>,
) -> Result<Json<FollowUpList>, Problem> {
    caller.must_have(Scope::Read)?;
    let session = SessionKey::new(caller.tenant, &agent, &interlocutor, &channel)?;
    known_agent(&state, &session)?;
    let (client, key) = (state.client(caller.tenant), session.to_string());
    let (engine, tenant) = (client.engine(), caller.tenant);
    let live = client.live_runs(follow_up::WORKFLOW, &key).await?;
    engine.wait_applied(tenant, engine.durable_position(tenant), Duration::from_millis(250)).await;
    let known = live.clone();
    let ended = engine.read(tenant, move |reader| {
        let mut ended: Vec<RunId> = Vec::new();
        for (_, event) in reader.latest_events(tenant, Some(&key), EVENTS_LOOKED_AT_MAX)? {
            if let Some(run) = event.run.filter(|_| event.name.starts_with("follow_up."))
                && !ended.contains(&run)
                && !known.contains(&run)
                && ended.len() < ENDED_LISTED_MAX
            {
                ended.push(run);
            }
        }
        Ok(ended)
    });
    let ended = ended.await?;
    let views = async |runs: Vec<RunId>| {
        let mut views = Vec::with_capacity(runs.len());
        for run in runs {
            views.extend(view(&client, run).await?.map(|(_, view)| view));
        }
        Ok::<_, Problem>(views)
    };
    let mut follow_ups = views(live).await?;
    follow_ups.sort_by_key(|view| view.due_at);
    follow_ups.extend(views(ended).await?);
    Ok(Json(FollowUpList { follow_ups }))
}

/// Shows a follow-up.
#[utoipa::path(
    get, path = "/v1/follow-ups/{id}", tag = "follow-ups", params(("id" = String, Path)),
    responses((status = 200, body = FollowUpView), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(follow_up): Path<String>,
) -> Result<Json<FollowUpView>, Problem> {
    caller.must_have(Scope::Read)?;
    let found = view(&state.client(caller.tenant), id("follow-up", &follow_up)?).await?;
    found.map(|(_, view)| Json(view)).ok_or_else(|| Problem::not_found("follow-up"))
}

/// Cancels a follow-up. Repeating it changes nothing; the answer says whether it had fired before.
#[utoipa::path(
    delete, path = "/v1/follow-ups/{id}", tag = "follow-ups", params(("id" = String, Path)),
    responses((status = 202, body = FollowUpView), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Path(follow_up): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<FollowUpView>), Problem> {
    caller.must_have(Scope::Write)?;
    body_bytes(body, BODY_BYTES_MAX).await?;
    let client = state.client(caller.tenant);
    let run = id("follow-up", &follow_up)?;
    // Also a run of something else is none.
    view(&client, run).await?.ok_or_else(|| Problem::not_found("follow-up"))?;
    client.cancel(run, "cancelled by request").await?;
    let (_, after) = view(&client, run).await?.ok_or_else(|| Problem::not_found("follow-up"))?;
    Ok((StatusCode::ACCEPTED, Json(after)))
}

fn follow_up_of(session: String, asked: ScheduleFollowUp) -> Result<FollowUp, Problem> {
    let due = match (asked.at_ms, asked.after_silence_ms) {
        (Some(at_ms), None) => Due::At { at_ms },
        (None, Some(ms)) => Due::AfterSilence { ms },
        (None, None) | (Some(_), Some(_)) => {
            let detail = "a follow-up is due at a time or after silence";
            return Err(malformed(detail, "send exactly one of at_ms and after_silence_ms"));
        }
    };
    let on_message = match asked.on_message.as_deref() {
        None | Some("cancel") => OnMessage::Cancel,
        Some("reschedule") => OnMessage::Reschedule,
        Some("keep") => OnMessage::Keep,
        Some(other) => {
            let detail = format!("{other:?} is nothing a message can do to a follow-up");
            return Err(malformed(detail, "use cancel, reschedule or keep"));
        }
    };
    let time = |text: &str| {
        let time = text.parse::<follow_up::TimeOfDay>();
        time.map_err(|error| malformed(error.to_string(), "change quiet_hours as the detail says"))
    };
    let quiet_hours = match asked.quiet_hours {
        Some(QuietHoursView { from, to }) => Some(QuietHours { from: time(&from)?, to: time(&to)? }),
        None => None,
    };
    Ok(FollowUp {
        session,
        due,
        payload: Payload { text: asked.text, data: asked.data },
        on_message,
        expires_at_ms: asked.expires_at_ms,
        quiet_hours,
        time_zone: asked.time_zone,
        name: asked.name,
    })
}

fn malformed(detail: impl Into<String>, action: &str) -> Problem {
    Problem::bad_request("follow_up_malformed", detail, action)
}

impl From<BadFollowUp> for Problem {
    fn from(bad: BadFollowUp) -> Self {
        let (status, code) = match &bad {
            BadFollowUp::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            BadFollowUp::Session(_)
            | BadFollowUp::NoText
            | BadFollowUp::Name(_)
            | BadFollowUp::NoSilence
            | BadFollowUp::TooFarAhead { .. }
            | BadFollowUp::LongPast { .. }
            | BadFollowUp::NothingToReschedule
            | BadFollowUp::AlwaysQuiet(_)
            | BadFollowUp::TimeZone(_)
            | BadFollowUp::Expired { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "follow_up_unusable"),
        };
        Problem::new(status, code, bad.to_string(), "change the request as the detail says")
    }
}

/// A follow-up and its run, or `None` if the tenant has none of this id.
async fn view(client: &Client, id: RunId) -> Result<Option<(RunRow, FollowUpView)>, Problem> {
    let (engine, tenant) = (client.engine(), client.tenant());
    let Some(row) = engine.run(tenant, id).await? else { return Ok(None) };
    if row.workflow != follow_up::WORKFLOW {
        return Ok(None);
    }
    let Some(input) = row.input else { return Ok(None) };
    // Anybody may start a run of the workflow with any input; one that is not a follow-up's fails, and is a run only.
    let Ok(asked) = serde_json::from_slice::<FollowUp>(&engine.payload(tenant, input).await?) else { return Ok(None) };
    let outcome = match row.output {
        Some(output) => serde_json::from_slice::<Outcome>(&engine.payload(tenant, output).await?).ok(),
        None => None,
    };
    let due_at = match &outcome {
        Some(Outcome::Expired { due_at_ms }) => Some(*due_at_ms),
        Some(Outcome::Fired { .. } | Outcome::Cancelled { .. }) | None => {
            let decided = last_due(client, id).await?;
            decided.or_else(|| asked.plan().ok().map(|plan| plan.due_at(row.created_at)))
        }
    };
    let (mut message_id, mut turn_id, mut reason) = (None, None, row.error.clone());
    let state = match (row.state, outcome) {
        (RunState::Completed, Some(Outcome::Fired { message_id: message, turn_id: turn })) => {
            (message_id, turn_id) = (Some(message), Some(turn));
            "fired"
        }
        (RunState::Completed, Some(Outcome::Cancelled { reason: why, message_id: by })) => {
            (message_id, reason) = (by, Some(why));
            "cancelled"
        }
        (RunState::Completed, Some(Outcome::Expired { .. })) => "expired",
        (RunState::Queued | RunState::Running, _) => "scheduled",
        (RunState::Cancelled | RunState::Superseded, _) => "cancelled",
        (RunState::Parked, _) => "parked",
        (RunState::Failed, _) | (RunState::Completed, None) => "failed",
    };
    let on_message = match asked.on_message {
        OnMessage::Cancel => "cancel",
        OnMessage::Reschedule => "reschedule",
        OnMessage::Keep => "keep",
    };
    let view = FollowUpView {
        id: id.to_string(),
        session: asked.session,
        name: asked.name,
        state: state.to_owned(),
        due_at,
        text: asked.payload.text,
        data: asked.payload.data,
        on_message: on_message.to_owned(),
        expires_at: asked.expires_at_ms,
        created_at: row.created_at,
        finished_at: row.finished_at,
        message_id,
        turn_id,
        reason,
    };
    Ok(Some((row, view)))
}

/// When it was last decided to be due: only its journal knows, because messages and quiet hours have their say.
async fn last_due(client: &Client, id: RunId) -> Result<Option<u64>, Problem> {
    let (engine, tenant) = (client.engine(), client.tenant());
    let task = TaskId { run: id, index: 0 };
    let journal = engine.read(tenant, move |reader| reader.journal(tenant, task)).await?;
    for (_, entry) in journal.iter().rev() {
        if let (EntryKind::Run, follow_up::LOOK_STEP, Some((_, Completion::Value(decided)))) =
            (entry.kind, entry.label.as_str(), &entry.done)
        {
            let decided = serde_json::from_slice::<Next>(&engine.payload(tenant, *decided).await?);
            if let Ok(Next::Wait { due_at_ms, .. } | Next::Expire { due_at_ms }) = decided {
                return Ok(Some(due_at_ms));
            }
        }
    }
    Ok(None)
}
