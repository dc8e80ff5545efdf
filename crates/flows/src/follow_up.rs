//! The follow-up: a turn of a session that nobody's message begins, at a time or after silence.
//!
//! One run is one follow-up. It looks at its session, decides by [`when::next`], waits for what may change that, and looks
//! again. It looks rather than trusts what woke it, because between two waits, and before the first, a message can come
//! that no wait is there for. Even after its last look one can come: so what it sends into the session's inbox says since
//! when there was silence, and the turn that receives it decides in the session's own order whether it still holds.
//!
//! The run's key is the session, so its events are the session's, and the key rule bounds how many a session may have.
//! Its lifecycle events are published as `follow_up.*`, so that one which is cancelled by request says so as well.

pub mod when;

use std::time::Duration;

use mainspring_client::{
    Admission, Client, ClientError, Context, EngineError, Failure, KeyRule, KeyStrategy, MessageId, OnParentEnd,
    RetryPolicy, RetryRule, RunId, SendOptions, SpawnOptions, Worker, WorkflowDef,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::message::{MessageBody, MessageKind};
use crate::session::SessionKey;
use crate::turn;
pub use when::{Due, OnMessage, QuietHours, TimeOfDay};
use when::{Facts, Heard, Next, Plan};

/// The workflow's name.
pub const WORKFLOW: &str = "follow-up";
/// The step that records since when it counts, or why it is none.
pub const BEGIN_STEP: &str = "begin";
/// The step that records what was decided after a look at the session.
pub const LOOK_STEP: &str = "look";
/// The step that sends it.
pub const SEND_STEP: &str = "send";
/// The event of a message that was accepted.
const MESSAGE_ACCEPTED: &str = "message.accepted";

/// Follow-ups of one session that may wait at once. Each is told of every message of its session, so this bounds what one
/// message costs: 100 wakings, and at most 800 KiB.
pub const LIVE_MAX: u32 = 100;
/// How far ahead one may be scheduled: 400 days. More than a year, so that "in a year" fits.
pub const AHEAD_MS_MAX: u64 = 400 * 24 * 60 * 60 * 1_000;
/// A time further back than a day was most likely meant in other units.
const BACK_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Bytes of its text and data together: 64 KiB. It says what to do; what it is about can be referred to.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// How long it is remembered that its message was sent: 30 days, as a run is kept.
const SENT_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// Bytes of its name.
pub const NAME_BYTES_MAX: usize = 200;

/// It is woken by messages so often; after that it sleeps until it is due, and looks then. Each waking leaves three
/// entries in its journal, which holds 10,000.
const WAKINGS_MAX: u32 = 500;
/// Looks in all, for one that is put off again and again. It expires after that.
const LOOKS_MAX: u32 = 2_000;
/// Events looked at for the last message of a person. A turn has about six.
const EVENTS_LOOKED_AT_MAX: usize = 2_048;
/// How a step that reads or sends is tried again: over about a quarter of an hour.
const PATIENCE: RetryPolicy =
    RetryPolicy { attempts_max: 12, backoff: Duration::from_millis(500), backoff_max: Duration::from_secs(300) };

/// A follow-up to schedule: the input of its run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FollowUp {
    /// The session key.
    pub session: String,
    /// What it waits for.
    pub due: Due,
    /// What the agent is told when it is due.
    pub payload: Payload,
    /// What a person's message does to it while it waits.
    #[serde(default)]
    pub on_message: OnMessage,
    /// After this time it is of no use, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// Hours in which it does not fire; it fires at their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// Whose clock tells the quiet hours, by its IANA name. UTC if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// A session has at most one live follow-up of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What the agent is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    /// What to do, or what it is about.
    pub text: String,
    /// Whatever else it should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// What a follow-up's run ends with, unless it failed or was cancelled by request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It was sent.
    Fired {
        /// The message in the session's inbox.
        message_id: String,
        /// The turn it was offered to.
        turn_id: String,
    },
    /// A person's message was faster, or another follow-up has its name.
    Cancelled {
        /// Which of the two, in a sentence.
        reason: String,
        /// The person's message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<String>,
    },
    /// It would have come after its time.
    Expired {
        /// It could have come then.
        due_at_ms: u64,
    },
}

/// A follow-up that can't be scheduled, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFollowUp {
    /// The key is none of a session.
    #[error("{0:?} is not a session key: it has the form tenant:agent:interlocutor:channel")]
    Session(String),
    /// It says nothing.
    #[error("the text is empty: say what the agent is to do")]
    NoText,
    /// It says too much.
    #[error(
        "text and data have {found} bytes, the limit is {PAYLOAD_BYTES_MAX}: keep the content elsewhere and refer to it"
    )]
    TooLarge {
        /// Bytes found.
        found: usize,
    },
    /// The name can't be used.
    #[error("the name has {0} bytes: use 1 to {NAME_BYTES_MAX}, or leave it out")]
    Name(usize),
    /// Silence of no length.
    #[error("a silence of 0 ms is none: use at least 1, or send a message instead")]
    NoSilence,
    /// Too far ahead.
    #[error("it is due in {days} days, at most 400 are allowed: schedule it later, or nearer")]
    TooFarAhead {
        /// Whole days from now.
        days: u64,
    },
    /// Long past.
    #[error("it was due {days} days ago: times are milliseconds since the Unix epoch")]
    LongPast {
        /// Whole days before now.
        days: u64,
    },
    /// A fixed time has no silence that could begin anew.
    #[error(
        "a fixed time can't be rescheduled by a message: wait for silence instead, or let messages cancel or keep it"
    )]
    NothingToReschedule,
    /// Quiet hours without an end.
    #[error("quiet hours from {0} to {0} are none or never end: change one of them, or leave them out")]
    AlwaysQuiet(TimeOfDay),
    /// Nobody lives there.
    #[error("{0:?} is not a time zone: use a name of the IANA database, such as Europe/Berlin")]
    TimeZone(String),
    /// It can only come too late.
    #[error(
        "it would be due at {due_at_ms}, after it has expired at {expires_at_ms}: let it expire later, or be due earlier"
    )]
    Expired {
        /// When it would be due.
        due_at_ms: u64,
        /// When it expires.
        expires_at_ms: u64,
    },
}

impl FollowUp {
    /// Checks it at the time it is scheduled, and gives the time it is due if nothing happens meanwhile.
    ///
    /// # Errors
    /// Each variant of [`BadFollowUp`] says what to change.
    pub fn check(&self, now_ms: u64) -> Result<u64, BadFollowUp> {
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        if SessionKey::parse(&self.session).is_none() {
            return Err(BadFollowUp::Session(self.session.chars().take(80).collect()));
        }
        if self.payload.text.trim().is_empty() {
            return Err(BadFollowUp::NoText);
        }
        let data = self.payload.data.as_ref().map_or(0, |data| data.to_string().len());
        let found = self.payload.text.len() + data;
        if found > PAYLOAD_BYTES_MAX {
            return Err(BadFollowUp::TooLarge { found });
        }
        if let Some(name) = &self.name
            && !(1..=NAME_BYTES_MAX).contains(&name.len())
        {
            return Err(BadFollowUp::Name(name.len()));
        }
        let ahead_ms = match self.due {
            Due::AfterSilence { ms: 0 } => return Err(BadFollowUp::NoSilence),
            Due::AfterSilence { ms } => ms,
            Due::At { .. } if self.on_message == OnMessage::Reschedule => return Err(BadFollowUp::NothingToReschedule),
            Due::At { at_ms } if now_ms.saturating_sub(at_ms) > BACK_MS_MAX => {
                return Err(BadFollowUp::LongPast { days: (now_ms - at_ms) / DAY_MS });
            }
            Due::At { at_ms } => at_ms.saturating_sub(now_ms),
        };
        if ahead_ms > AHEAD_MS_MAX {
            return Err(BadFollowUp::TooFarAhead { days: ahead_ms / DAY_MS });
        }
        let facts = Facts { since_ms: now_ms, now_ms, heard: None };
        match (when::next(&self.plan()?, &facts), self.expires_at_ms) {
            (Next::Expire { due_at_ms }, Some(expires_at_ms)) => Err(BadFollowUp::Expired { due_at_ms, expires_at_ms }),
            (Next::Wait { due_at_ms, .. } | Next::Expire { due_at_ms }, _) => Ok(due_at_ms),
            (Next::Fire { .. } | Next::Cancel { .. }, _) => Ok(now_ms),
        }
    }

    /// By what it is decided.
    ///
    /// # Errors
    /// [`BadFollowUp::TimeZone`], [`BadFollowUp::AlwaysQuiet`].
    pub fn plan(&self) -> Result<Plan, BadFollowUp> {
        let zone = self.time_zone.as_deref().unwrap_or("UTC");
        let zone = jiff::tz::TimeZone::get(zone).map_err(|_| BadFollowUp::TimeZone(zone.chars().take(80).collect()))?;
        if let Some(hours) = self.quiet_hours.filter(|hours| hours.from == hours.to) {
            return Err(BadFollowUp::AlwaysQuiet(hours.from));
        }
        Ok(Plan {
            due: self.due,
            on_message: self.on_message,
            expires_at_ms: self.expires_at_ms,
            quiet: self.quiet_hours.map(|hours| (hours, zone)),
        })
    }

    /// Schedules it from within a durable function, exactly once, however often the function is run. It outlives the
    /// function. What is wrong with it is said by the run it gives, which then fails; one more than [`LIVE_MAX`] is
    /// cancelled at once.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn schedule(&self, ctx: &Context) -> Result<RunId, Failure> {
        let key = Some(self.session.clone());
        let options = SpawnOptions { key, on_parent_end: OnParentEnd::Abandon, priority: None };
        ctx.spawn_detached(WORKFLOW, self, options).await
    }
}

/// The definition. One follow-up more than a session may have ends cancelled at once.
pub fn definition() -> WorkflowDef {
    let mut def = WorkflowDef {
        key: Some(KeyRule { runs_max: LIVE_MAX, strategy: KeyStrategy::CancelNewest }),
        lifecycle_events: Some("follow_up".to_owned()),
        ..WorkflowDef::single(WORKFLOW, true)
    };
    def.tasks[0].retry = RetryRule { attempts_max: 3, backoff_ms: 200, backoff_percent: 300, backoff_max_ms: 5_000 };
    def
}

pub(crate) fn offer(worker: Worker) -> Worker {
    worker.function(definition(), follow_up)
}

/// What is on record of its beginning.
#[derive(Debug, Serialize, Deserialize)]
enum Begun {
    Counts { since_ms: u64 },
    Namesake { run: String },
    Refused { error: String },
}

async fn follow_up(ctx: Context, asked: FollowUp) -> Result<Outcome, Failure> {
    let begun = ctx.run_retrying(BEGIN_STEP, PATIENCE, |_| begin(&ctx, &asked)).await?;
    let mut since_ms = match begun {
        Begun::Counts { since_ms } => since_ms,
        Begun::Refused { error } => return Err(Failure::Final(error)),
        Begun::Namesake { run } => {
            return cancelled(&ctx, format!("follow-up {run} of this session has its name"), None).await;
        }
    };
    let plan = asked.plan().map_err(Failure::permanent)?;
    let asked_at_ms = since_ms;
    let (mut told, mut reached_ms) = (None, 0);
    for nth in 0..LOOKS_MAX {
        let since = Since { ms: since_ms, asked: (since_ms == asked_at_ms).then(|| ctx.run_id()) };
        let looking = |_| look(&ctx, &plan, &asked.session, since, reached_ms);
        match ctx.run_retrying(LOOK_STEP, PATIENCE, looking).await? {
            Next::Wait { due_at_ms, since_ms: since_now_ms, restarted_by } => {
                since_ms = since_now_ms;
                tell(&ctx, &asked, told, due_at_ms, restarted_by).await?;
                told = Some(due_at_ms);
                // How long a wait is may differ when the function is run again, and should: after a crash between the
                // look and this, less of it is left.
                let left = Duration::from_millis(due_at_ms.saturating_sub(now_ms(&ctx)));
                if wait(&ctx, &asked, left, nth < WAKINGS_MAX).await? {
                    // By the clock that decides, which may be ahead of this machine's if that was set back.
                    reached_ms = due_at_ms;
                }
            }
            Next::Fire { only_if_silent_since_ms } => {
                return fire(&ctx, &asked, only_if_silent_since_ms).await;
            }
            Next::Cancel { message_id } => {
                return cancelled(&ctx, "a person's message came first".to_owned(), Some(message_id)).await;
            }
            Next::Expire { due_at_ms } => return expired(&ctx, &asked, due_at_ms).await,
        }
    }
    expired(&ctx, &asked, told.unwrap_or(since_ms)).await
}

/// Finds out whether it is one, and since when it counts: since it was asked for, however late this is run.
async fn begin(ctx: &Context, asked: &FollowUp) -> Result<Begun, Failure> {
    let (client, own) = (ctx.client(), ctx.run_id());
    let tenant = client.tenant();
    let session = SessionKey::parse(&asked.session).filter(|session| session.tenant == tenant);
    if session.is_none() || ctx.key() != Some(asked.session.as_str()) {
        let error = format!("the run's key must be the session, and of this tenant: {:?}", asked.session);
        return Ok(Begun::Refused { error });
    }
    let row = client.engine().run(tenant, own).await.map_err(passing)?;
    let since_ms = row.ok_or_else(|| Failure::retryable("the run's own row is not there"))?.created_at;
    if let Err(bad) = asked.check(since_ms) {
        return Ok(Begun::Refused { error: bad.to_string() });
    }
    if let Some(name) = &asked.name {
        // Both see both, if both were there before either began. The older one stays.
        let namesake = namesake(client, &asked.session, name, Some(own)).await.map_err(failed)?;
        if let Some((run, _)) = namesake {
            return Ok(Begun::Namesake { run: run.to_string() });
        }
    }
    Ok(Begun::Counts { since_ms })
}

/// The oldest live follow-up of this name in a session, and what was asked of it; only one older than `than`, if given.
///
/// # Errors
/// [`ClientError`].
pub async fn namesake(
    client: &Client,
    session: &str,
    name: &str,
    than: Option<RunId>,
) -> Result<Option<(RunId, FollowUp)>, ClientError> {
    let (engine, tenant) = (client.engine(), client.tenant());
    for run in client.live_runs(WORKFLOW, session).await? {
        if than.is_some_and(|than| run >= than) {
            break;
        }
        let row = engine.run(tenant, run).await?;
        let Some(input) = row.and_then(|row| row.input) else { continue };
        let asked = serde_json::from_slice::<FollowUp>(&engine.payload(tenant, input).await?);
        if let Ok(asked) = asked
            && asked.name.as_deref() == Some(name)
        {
            return Ok(Some((run, asked)));
        }
    }
    Ok(None)
}

/// Says when it is due, the first time and whenever that changes.
async fn tell(
    ctx: &Context,
    asked: &FollowUp,
    told: Option<u64>,
    due_at_ms: u64,
    restarted_by: Option<String>,
) -> Result<(), Failure> {
    let name = match told {
        None => "follow_up.scheduled",
        Some(told) if told != due_at_ms => "follow_up.rescheduled",
        Some(_) => return Ok(()),
    };
    let data = serde_json::json!({ "name": asked.name, "due_at_ms": due_at_ms, "message_id": restarted_by });
    ctx.emit(name, &data).await
}

/// Waits until the time is up, which gives true, or until there may be something to look at.
async fn wait(ctx: &Context, asked: &FollowUp, left: Duration, woken_by_messages: bool) -> Result<bool, Failure> {
    if asked.on_message == OnMessage::Keep || !woken_by_messages {
        ctx.sleep(left).await?;
        return Ok(true);
    }
    let message: Option<IgnoredAny> = ctx.wait_for(MESSAGE_ACCEPTED, Some(&asked.session), Some(left)).await?;
    Ok(message.is_none())
}

/// From when on a message counts.
#[derive(Debug, Clone, Copy)]
struct Since {
    ms: u64,
    /// The follow-up, if it is counted from when that was asked for.
    asked: Option<RunId>,
}

impl Since {
    /// When a message came by this count, if it came later. One that came in the millisecond in which the follow-up was
    /// asked for, and after it, which their ids tell, counts as of the next.
    fn later(self, at_ms: u64, message: Option<MessageId>) -> Option<u64> {
        let (Some(asked), Some(message)) = (self.asked, message) else { return (at_ms > self.ms).then_some(at_ms) };
        (at_ms > self.ms || at_ms == self.ms && message.0 > asked.0).then_some(at_ms.max(self.ms + 1))
    }
}

/// Gathers the facts and decides. The decision is what is recorded, so that another release, with another time zone
/// database, goes on with what was decided.
async fn look(ctx: &Context, plan: &Plan, session: &str, since: Since, reached_ms: u64) -> Result<Next, Failure> {
    let heard = match plan.on_message {
        OnMessage::Keep => None,
        OnMessage::Cancel | OnMessage::Reschedule => last_heard(ctx.client(), session, since).await?,
    };
    let now_ms = now_ms(ctx).max(reached_ms);
    Ok(when::next(plan, &Facts { since_ms: since.ms, now_ms, heard }))
}

async fn fire(ctx: &Context, asked: &FollowUp, only_if_silent_since_ms: Option<u64>) -> Result<Outcome, Failure> {
    let mark = format!("follow-up:{}", ctx.run_id());
    let body = MessageBody {
        text: asked.payload.text.clone(),
        data: asked.payload.data.clone(),
        message_id: Some(mark.clone()),
        kind: MessageKind::FollowUp,
        only_if_silent_since_ms,
        ..MessageBody::default()
    };
    let sent: (String, String) = ctx
        .run_retrying(SEND_STEP, PATIENCE, |_| async {
            // Whoever died in between may come back much later.
            let once = Some((mark.clone(), SENT_KEPT_MS));
            let admission = Admission { once, ..Admission::default() };
            let options = SendOptions { admission, ..SendOptions::default() };
            let accepted = ctx.client().send(turn::WORKFLOW, &asked.session, &body, options).await.map_err(failed)?;
            Ok((accepted.message.to_string(), accepted.run.to_string()))
        })
        .await?;
    let (message_id, turn_id) = sent;
    let data = serde_json::json!({ "name": asked.name, "message_id": message_id, "turn_id": turn_id });
    ctx.emit("follow_up.fired", &data).await?;
    Ok(Outcome::Fired { message_id, turn_id })
}

async fn cancelled(ctx: &Context, reason: String, message_id: Option<String>) -> Result<Outcome, Failure> {
    ctx.emit("follow_up.cancelled", &serde_json::json!({ "reason": reason, "message_id": message_id })).await?;
    Ok(Outcome::Cancelled { reason, message_id })
}

async fn expired(ctx: &Context, asked: &FollowUp, due_at_ms: u64) -> Result<Outcome, Failure> {
    let data = serde_json::json!({ "name": asked.name, "due_at_ms": due_at_ms, "expires_at_ms": asked.expires_at_ms });
    ctx.emit("follow_up.expired", &data).await?;
    Ok(Outcome::Expired { due_at_ms })
}

fn now_ms(ctx: &Context) -> u64 {
    ctx.client().engine().world().now_ms()
}

/// The data of an accepted message's event.
#[derive(Debug, Deserialize)]
struct Accepted {
    message_id: String,
    /// Not with large ones.
    message: Option<MessageBody>,
}

/// The last message of a person that was accepted after `since`, among the session's latest events. What can't be
/// understood is taken for a person's.
async fn last_heard(client: &Client, session: &str, since: Since) -> Result<Option<Heard>, Failure> {
    /// Tables lag by some hundred milliseconds; this is how often it is looked whether they have caught up.
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    let (engine, tenant) = (client.engine(), client.tenant());
    let position = engine.durable_position(tenant);
    while engine.reader(tenant).applied() < position {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let mut limit = 32;
    loop {
        let scope = session.to_owned();
        let read = engine.read(tenant, move |reader| {
            let events = reader.latest_events(tenant, Some(&scope), limit)?;
            let all = events.len() < limit || events.last().is_some_and(|(_, event)| event.at < since.ms);
            for (_, event) in events {
                if event.name != MESSAGE_ACCEPTED || event.at < since.ms {
                    continue;
                }
                let Ok(accepted) = serde_json::from_slice::<Accepted>(&event.data) else { continue };
                let Some(at_ms) = since.later(event.at, accepted.message_id.parse().ok()) else { continue };
                let body: Option<MessageBody> = match accepted.message {
                    Some(body) => Some(body),
                    None => match accepted.message_id.parse::<MessageId>() {
                        Ok(id) => {
                            let row = reader.message(tenant, id)?;
                            let bytes = row.map(|row| reader.payload(tenant, row.payload.id)).transpose()?.flatten();
                            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())
                        }
                        Err(_) => None,
                    },
                };
                if body.is_none_or(|body| body.kind == MessageKind::Person) {
                    return Ok((Some(Heard { message_id: accepted.message_id, at_ms }), true));
                }
            }
            Ok((None, all))
        });
        let (seen, all) = read.await.map_err(passing)?;
        if all || limit >= EVENTS_LOOKED_AT_MAX {
            return Ok(seen);
        }
        limit *= 8;
    }
}

/// What an error of the engine means for a step: a process that ends gives the attempt up, all else is tried again.
fn passing(error: EngineError) -> Failure {
    match error {
        EngineError::Stopped { .. } | EngineError::ShuttingDown => Failure::GivenUp(error.to_string()),
        EngineError::Refused(_)
        | EngineError::Busy { .. }
        | EngineError::Unreadable { .. }
        | EngineError::Missing { .. } => Failure::Retryable(error.to_string()),
    }
}

fn failed(error: ClientError) -> Failure {
    match error {
        ClientError::Engine(error) => passing(error),
        other => Failure::retryable(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

    fn asked(due: Due) -> FollowUp {
        FollowUp {
            session: SessionKey::new(mainspring_client::TenantId(5), "orders", "anna", "web")
                .expect("valid")
                .to_string(),
            due,
            payload: Payload { text: "ask whether it came".to_owned(), data: None },
            on_message: OnMessage::Cancel,
            expires_at_ms: None,
            quiet_hours: None,
            time_zone: None,
            name: None,
        }
    }

    fn refused(asked: &FollowUp) -> String {
        asked.check(NOW_MS).expect_err("refused").to_string()
    }

    #[test]
    fn each_refusal_says_what_to_change() {
        let fine = asked(Due::AfterSilence { ms: 1_000 });
        assert_eq!(fine.check(NOW_MS), Ok(NOW_MS + 1_000));
        let with = |change: fn(&mut FollowUp)| {
            let mut asked = fine.clone();
            change(&mut asked);
            refused(&asked)
        };
        for (refusal, says) in [
            (with(|asked| asked.session = "anna".to_owned()), "session key"),
            (with(|asked| asked.payload.text = " ".to_owned()), "empty"),
            (with(|asked| asked.payload.text = "x".repeat(PAYLOAD_BYTES_MAX + 1)), "65537 bytes"),
            (with(|asked| asked.payload.data = Some(Value::from("x".repeat(PAYLOAD_BYTES_MAX)))), "elsewhere"),
            (with(|asked| asked.name = Some(String::new())), "1 to 200"),
            (with(|asked| asked.due = Due::AfterSilence { ms: 0 }), "at least 1"),
            (with(|asked| asked.due = Due::AfterSilence { ms: AHEAD_MS_MAX + 1 }), "at most 400"),
            (with(|asked| asked.due = Due::At { at_ms: NOW_MS + 401 * DAY_MS }), "401 days"),
            (with(|asked| asked.due = Due::At { at_ms: NOW_MS / 1_000 }), "milliseconds"),
            (with(|asked| asked.time_zone = Some("Europe/Atlantis".to_owned())), "IANA"),
            (with(|asked| asked.expires_at_ms = Some(NOW_MS + 999)), "later"),
        ] {
            assert!(refusal.contains(says), "{refusal:?} does not say {says:?}");
        }
        let at = FollowUp { on_message: OnMessage::Reschedule, ..asked(Due::At { at_ms: NOW_MS + 1 }) };
        assert!(refused(&at).contains("silence"));
        let eight: TimeOfDay = "08:00".parse().expect("a time");
        let always = FollowUp { quiet_hours: Some(QuietHours { from: eight, to: eight }), ..fine.clone() };
        assert!(refused(&always).contains("08:00"));
    }

    #[test]
    fn what_is_just_past_is_due_at_once() {
        assert_eq!(asked(Due::At { at_ms: NOW_MS - 5_000 }).check(NOW_MS), Ok(NOW_MS));
    }

    #[test]
    fn a_stored_follow_up_is_read_as_it_was_written() {
        // Written by the first release that had them, and waiting for up to 400 days.
        let stored = r#"{"session":"s","due":{"after_silence":{"ms":5}},"payload":{"text":"t","data":1},
            "on_message":"reschedule","expires_at_ms":9,"quiet_hours":{"from":"22:00","to":"08:00"},
            "time_zone":"Europe/Berlin","name":"n"}"#;
        let read: FollowUp = serde_json::from_str(stored).expect("readable");
        assert_eq!(read.due, Due::AfterSilence { ms: 5 });
        assert_eq!(read.quiet_hours.map(|hours| hours.to.to_string()).as_deref(), Some("08:00"));
        let again = serde_json::to_value(&read).expect("writable");
        assert_eq!(again, serde_json::from_str::<Value>(stored).expect("JSON"));
        let decided = serde_json::to_string(&Next::Wait { due_at_ms: 7, since_ms: 5, restarted_by: None });
        assert_eq!(decided.expect("writable"), r#"{"next":"wait","due_at_ms":7,"since_ms":5,"restarted_by":null}"#);
    }
}
