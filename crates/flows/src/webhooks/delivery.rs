//! One delivery: an event that is owed to a subscription, as a durable run. It tries until the endpoint takes it, the
//! subscription is no more, or its tries are used up; each try is on record, and what is given up is kept as a dead
//! letter.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{
    ClientError, Context, DocumentKey, EventRow, Failure, Guard, KeyRule, KeyStrategy, OnParentEnd, PutDocument,
    RetryRule, SpawnOptions, Worker, WorkflowDef,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::endpoint::{Entrance, Failed};
use super::history::DeadLetter;
use super::message::{self, delivery_id};
use super::subscription::Order;
use super::{ATTEMPT_EVENT, DEAD, RECOVERED_EVENT, SETTINGS_EVENT, WebhookError, Webhooks, scope_of};
use crate::attempt::{self, Made, Next, Said, next};
use crate::egress::Request;
use crate::sign;

/// The workflow: one run at a time in each lane.
pub const WORKFLOW: &str = "deliver-webhook";
/// What goes on with deliveries that failed and hold up nobody.
pub const RETRY_WORKFLOW: &str = "deliver-webhook-again";

/// Deliveries of one subscription that are tried again beside each other: more than are under way at all.
const RETRIES_MAX: u32 = 10_000;
/// How long a delivery that is held looks again by itself.
const HELD: Duration = Duration::from_secs(10 * 60);
/// How long dead letters are kept.
const DEAD_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// A delivery that is owed. The event itself stays where it is, and settings are read when they are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// To which subscription.
    pub subscription: String,
    /// The event's number.
    pub seq: u64,
    /// The event's scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Tries there were before this run.
    #[serde(default)]
    pub tried: u32,
    /// How long to wait before the first try of this run.
    #[serde(default)]
    pub wait_ms: u64,
    /// The replay that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
    /// Whether it is signed with the secret that was the present one when the event happened.
    #[serde(default)]
    pub original_secret: bool,
}

/// A try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which delivery: the id the endpoint was told.
    pub delivery_id: String,
    /// The event's number.
    pub seq: u64,
    /// The event's name.
    pub event: String,
    /// The try, counted from 1.
    pub attempt: u32,
    /// When it began.
    pub at: u64,
    /// The status, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The beginning of the answer's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// How long the status took, and the whole.
    pub answered_ms: u64,
    /// How long the whole took.
    pub took_ms: u64,
    /// Whom it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// What follows.
    pub outcome: Outcome,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<u64>,
    /// The replay that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
}

/// What follows from a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was taken.
    Delivered,
    /// It will be tried again.
    Retrying,
    /// It was given up.
    Dead,
}

/// What came of asking for a try, for the journal.
#[derive(Debug, Serialize, Deserialize)]
enum Tried {
    Made { attempt: Box<Attempt>, next: Next, in_place: bool },
    Later { wait_ms: u64, spared: bool },
    Held,
    Gone,
    Forgotten,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It was taken.
    Delivered,
    /// Another run goes on with it.
    HandedOn,
    /// Its subscription is no more.
    NoSubscription,
}

/// The definitions.
fn definitions() -> [WorkflowDef; 2] {
    // For what fails around the endpoint; its own failures are tried again below.
    let retry = RetryRule { attempts_max: 10, backoff_ms: 200, backoff_percent: 200, backoff_max_ms: 10_000 };
    let [mut first, mut again] = [WORKFLOW, RETRY_WORKFLOW].map(|name| WorkflowDef::single(name, true));
    first.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    // None of them waits for another; by their key they can be counted.
    again.key = Some(KeyRule { runs_max: RETRIES_MAX, strategy: KeyStrategy::Queue });
    (first.tasks[0].retry, again.tasks[0].retry) = (retry, retry);
    [first, again]
}

pub(super) fn offer(worker: Worker, webhooks: &Webhooks) -> Worker {
    definitions().into_iter().fold(worker, |worker, def| {
        let webhooks = webhooks.clone();
        worker.function(def, move |ctx: Context, owed: Owed| {
            let webhooks = webhooks.clone();
            async move {
                let ended = deliver(&ctx, &owed, &webhooks).await;
                // Not if the process only lets go of it.
                if !matches!(ended, Err(Failure::GivenUp(_) | Failure::Retryable(_))) {
                    webhooks.ended(&owed.subscription);
                }
                ended
            }
        })
    })
}

async fn deliver(ctx: &Context, owed: &Owed, webhooks: &Webhooks) -> Result<Ended, Failure> {
    let scope = scope_of(&owed.subscription);
    if owed.wait_ms > 0 {
        ctx.sleep(Duration::from_millis(owed.wait_ms)).await?;
    }
    let mut tried = owed.tried;
    loop {
        // Nothing noted stands before it: each way back to here waits. A crash before it is on record repeats the request,
        // as a crash in its middle does, and the endpoint knows it by its id.
        let made = ctx.note("attempt", || async {
            webhooks.attempt(owed, tried + 1).await.map_err(|error| Failure::GivenUp(error.to_string()))
        });
        match made.await? {
            Tried::Gone => return Ok(Ended::NoSubscription),
            Tried::Forgotten => {
                return Err(Failure::Final(format!("event {} is not kept any more: nothing can be sent", owed.seq)));
            }
            Tried::Held => {
                ctx.wait_for::<Value>(SETTINGS_EVENT, Some(&scope), Some(HELD)).await?;
            }
            Tried::Later { wait_ms, spared } => {
                let wait = Duration::from_millis(wait_ms);
                if spared {
                    ctx.wait_for::<Value>(RECOVERED_EVENT, Some(&scope), Some(wait)).await?;
                } else {
                    ctx.sleep(wait).await?;
                }
            }
            Tried::Made { attempt, next, in_place } => {
                tried += 1;
                ctx.emit_to_with_next(ATTEMPT_EVENT, &scope, &attempt).await?;
                match next {
                    Next::Delivered => return Ok(Ended::Delivered),
                    Next::Again(wait_ms) if in_place => ctx.sleep(Duration::from_millis(wait_ms)).await?,
                    Next::Again(wait_ms) => {
                        let again = Owed { tried, wait_ms, ..owed.clone() };
                        webhooks.began(&owed.subscription);
                        let options = SpawnOptions {
                            key: Some(owed.subscription.clone()),
                            on_parent_end: OnParentEnd::Abandon,
                            ..SpawnOptions::default()
                        };
                        ctx.spawn_detached(RETRY_WORKFLOW, &again, options).await?;
                        return Ok(Ended::HandedOn);
                    }
                    Next::Dead | Next::Gone => {
                        let error = attempt.error.clone().unwrap_or_default();
                        let buried = ctx.run("bury", || async {
                            let buried = webhooks.bury(owed, &attempt, tried).await;
                            buried.map_err(|error| Failure::GivenUp(error.to_string()))
                        });
                        buried.await?;
                        return Err(Failure::Final(error));
                    }
                }
            }
        }
    }
}

impl Webhooks {
    /// Tries a delivery once, if its endpoint may be called.
    async fn attempt(&self, owed: &Owed, attempt: u32) -> Result<Tried, ClientError> {
        let mut pass = match self.enter(&owed.subscription).await? {
            Entrance::Open(pass) => pass,
            Entrance::Later { wait_ms, spared } => return Ok(Tried::Later { wait_ms, spared }),
            Entrance::Held => return Ok(Tried::Held),
            Entrance::Gone => return Ok(Tried::Gone),
        };
        let Some(event) = self.event(owed).await? else { return Ok(Tried::Forgotten) };
        let (settings, at) = (pass.settings.clone(), self.now_ms());
        let id = delivery_id(&owed.subscription, owed.seq);
        let body = message::body(self.client.tenant(), &owed.subscription, &settings.choices, owed.seq, &event);
        let secrets = if owed.original_secret {
            self.open_all(message::secret_at(&settings.secrets, event.at).into_iter(), &settings.id)
        } else {
            self.open_all(message::signing(&settings.secrets, at), &settings.id)
        };
        // An unsigned request would be worse than none.
        let (said, made) = if secrets.is_empty() {
            let error = "its signing secret is not kept any more, or can't be opened: rotate it".to_owned();
            (Said::Refused, Made { error: Some(error), ..Made::default() })
        } else {
            let mut headers = sign::headers(&secrets, &id, at, &body);
            headers.extend(self.own_headers(&settings));
            let request = Request { method: "POST", url: settings.choices.url.clone(), headers, body };
            let limits = Webhooks::limits_of(&settings.choices);
            let (said, made, _) = attempt::make(&*self.shared.egress, request, limits, at).await;
            (said, made)
        };
        let Made { status, error, answer, answered_ms, took_ms, remote } = made;
        let mut made = Attempt {
            delivery_id: id,
            seq: owed.seq,
            event: event.name.clone(),
            attempt,
            at,
            status,
            error,
            answer,
            answered_ms,
            took_ms,
            remote,
            outcome: Outcome::Delivered,
            next_at: None,
            replay: owed.replay.clone(),
        };
        let next = next(said, attempt, &settings.choices.waits_ms, owed.seq ^ settings.created_at);
        let error = made.error.clone().unwrap_or_default();
        let failed = Failed { error: &error, silent: said == Said::Nothing, refused: said == Said::Refused };
        let outcome = if next == Next::Delivered { Ok(()) } else { Err(failed) };
        self.report(&mut pass, outcome, made.took_ms).await?;
        made.outcome = match next {
            Next::Delivered => Outcome::Delivered,
            Next::Again(wait_ms) => {
                made.next_at = Some(self.now_ms() + wait_ms);
                Outcome::Retrying
            }
            Next::Dead => Outcome::Dead,
            Next::Gone => {
                match self.disable(&settings.id, "its endpoint says that it is gone (410)").await {
                    Ok(()) | Err(WebhookError::NotFound) => {}
                    Err(WebhookError::Client(error)) => return Err(error),
                    Err(error) => tracing::warn!(subscription = settings.id, %error, "it could not be disabled"),
                }
                Outcome::Dead
            }
        };
        let counts = &self.shared.counts;
        let count = match made.outcome {
            Outcome::Delivered => &counts.delivered,
            Outcome::Retrying => &counts.retrying,
            Outcome::Dead => &counts.dead,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // What need not stay in order makes room for others while it waits.
        let in_place = settings.choices.order != Order::Parallel || attempt > 1;
        Ok(Tried::Made { attempt: Box::new(made), next, in_place })
    }

    /// The event that is owed, from memory if it is recent.
    async fn event(&self, owed: &Owed) -> Result<Option<EventRow>, ClientError> {
        self.client.event(owed.scope.as_deref(), owed.seq).await
    }

    /// Keeps a dead letter. A second time it is the same one.
    async fn bury(&self, owed: &Owed, last: &Attempt, tried: u32) -> Result<(), ClientError> {
        let letter = DeadLetter {
            owed: Owed { tried: 0, wait_ms: 0, ..owed.clone() },
            last: last.clone(),
            attempts: tried,
            died_at: last.at + last.took_ms,
            replayed_at: None,
        };
        let body = Bytes::from(serde_json::to_vec(&letter).unwrap_or_default());
        let key = DocumentKey::new(DEAD, super::history::dead_name(&owed.subscription, owed.seq));
        let put = PutDocument { key, expect: None, body, ttl_ms: Some(DEAD_KEPT_MS), history: 0 };
        self.client.put_document(put, None, Guard::default(), None).await.map(drop)
    }
}
