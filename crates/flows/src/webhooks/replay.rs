//! Sending again what was sent or given up before, because a person asks: one dead letter, those that fit a filter, or
//! everything of a time. Under the same id each, so that who has it already knows it.
//!
//! A replay is a durable run. It starts deliveries and moves its own progress in one decision, so that it is safe to
//! repeat, and neither a crash nor a second request under the same key sends anything twice.

use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{
    ClientError, Context, DocumentKey, EngineError, Failure, PutDocument, Refusal, RunId, Start, StartOptions, Worker,
    WorkflowDef,
};
use serde::{Deserialize, Serialize};

use super::delivery::Owed;
use super::history::{DeadLetter, dead_name};
use super::matcher::{Looked, fits};
use super::subscription::State;
use super::{DEAD, REPLAY, WebhookError, Webhooks, pattern};

/// The workflow.
pub const WORKFLOW: &str = "replay-webhook";
/// Events or dead letters looked at in one step.
const STEP: usize = 100;
/// Deliveries of a subscription that are under way before a replay waits.
const LIVE_MAX: i64 = 400;
/// How long it waits then.
const WAIT: Duration = Duration::from_millis(500);
/// How long a replay's progress is kept.
const KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// What is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// Dead letters, or all events it wants as it is now.
    #[serde(default)]
    pub what: What,
    /// One event only, by its number.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// Names or patterns of events. Empty for all.
    #[serde(default)]
    pub events: Vec<String>,
    /// Events that happened at or after this time, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub from: Option<u64>,
    /// Events that happened before this time.
    #[serde(default)]
    pub to: Option<u64>,
    /// Which secret it is signed with.
    #[serde(default)]
    pub secret: Which,
    /// Only counts.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a replay looks through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// What was given up and not sent again since.
    #[default]
    DeadLetters,
    /// All events that the subscription wants, delivered or not.
    Events,
}

/// Which secret a replay is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The present one, and those that are still valid.
    #[default]
    Current,
    /// The one that was present when the event happened.
    Original,
}

/// How far a replay came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Of which subscription.
    pub subscription: String,
    /// The last event it looked at.
    pub sequence: u64,
    /// How many it looked at.
    pub looked_at: u64,
    /// How many it sent, or would have sent.
    pub matched: u64,
    /// Whether it only counts.
    pub dry_run: bool,
    /// Whether it is through.
    pub done: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    subscription: String,
    request: ReplayRequest,
}

pub(super) fn offer(worker: Worker, webhooks: &Webhooks) -> Worker {
    let webhooks = webhooks.clone();
    worker.function(WorkflowDef::single(WORKFLOW, true), move |ctx: Context, input: Input| {
        let webhooks = webhooks.clone();
        async move { replay(&ctx, &input, &webhooks).await }
    })
}

async fn replay(ctx: &Context, input: &Input, webhooks: &Webhooks) -> Result<Progress, Failure> {
    let id = ctx.run_id().to_string();
    loop {
        let step = ctx.run("step", || async {
            webhooks.replay_step(&id, input).await.map_err(|error| match error {
                WebhookError::Client(error) => Failure::GivenUp(error.to_string()),
                other => Failure::Final(other.to_string()),
            })
        });
        match step.await? {
            Stepped::Through(progress) => return Ok(progress),
            Stepped::On => {}
            Stepped::Full => ctx.sleep(WAIT).await?,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Stepped {
    On,
    /// As much is under way as may be.
    Full,
    Through(Progress),
}

impl Webhooks {
    /// Begins a replay, and answers its id. The same key again within ten minutes is the same replay.
    ///
    /// # Errors
    /// [`WebhookError`] says what to change.
    pub async fn replay(&self, id: &str, request: ReplayRequest, key: Option<String>) -> Result<RunId, WebhookError> {
        let (_, subscription) = self.find(id).await?;
        if subscription.state != State::Active && !request.dry_run {
            return Err(WebhookError::State(
                "a replay needs an active subscription: verify or resume it first".to_owned(),
            ));
        }
        if let Some(wrong) = request.events.iter().find(|text| !pattern::is_pattern(text)) {
            return Err(WebhookError::State(format!("{wrong:?} is no pattern: use a name, or a beginning with .*")));
        }
        let options =
            StartOptions { idempotency_key: key.map(|key| format!("replay:{id}:{key}")), ..StartOptions::default() };
        let input = Input { subscription: id.to_owned(), request };
        Ok(self.client.start_with(WORKFLOW, &input, options).await?)
    }

    /// How far a replay came. `None` if it has not begun or is not kept.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn replay_progress(&self, replay: &str) -> Result<Option<Progress>, ClientError> {
        let row = self.client.document(DocumentKey::new(REPLAY, replay)).await?;
        Ok(row.and_then(|row| serde_json::from_slice(&row.body).ok()))
    }

    async fn replay_step(&self, replay: &str, input: &Input) -> Result<Stepped, WebhookError> {
        let row = self.client.document(DocumentKey::new(REPLAY, replay)).await?;
        let version = row.as_ref().map_or(0, |row| row.version);
        let begun = row.and_then(|row| serde_json::from_slice::<Progress>(&row.body).ok());
        let mut progress = begun.unwrap_or_else(|| Progress {
            subscription: input.subscription.clone(),
            sequence: input.request.sequence.map_or(0, |one| one.saturating_sub(1)),
            dry_run: input.request.dry_run,
            ..Progress::default()
        });
        if progress.done {
            return Ok(Stepped::Through(progress));
        }
        if !input.request.dry_run
            && let Some(endpoint) = self.endpoint(&input.subscription).await?
            && endpoint.live.load(std::sync::atomic::Ordering::Relaxed) > LIVE_MAX
        {
            return Ok(Stepped::Full);
        }
        let (mut puts, starts) = match input.request.what {
            What::DeadLetters => self.dead_again(replay, input, &mut progress).await?,
            What::Events => self.events_again(replay, input, &mut progress).await?,
        };
        progress.matched += starts.len() as u64;
        let starts = if input.request.dry_run { Vec::new() } else { starts };
        if input.request.dry_run {
            puts.clear();
        }
        puts.push(PutDocument {
            key: DocumentKey::new(REPLAY, replay),
            expect: Some(version),
            body: Bytes::from(serde_json::to_vec(&progress).unwrap_or_default()),
            ttl_ms: Some(KEPT_MS),
            history: 0,
        });
        let started = starts.len();
        match self.client.advance(puts, starts).await {
            Ok(_) => {}
            // This step was taken before its result was on record, or another replay took one of the letters: look again.
            Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => return Ok(Stepped::On),
            Err(error) => return Err(error.into()),
        }
        for _ in 0..started {
            self.began(&input.subscription);
        }
        Ok(if progress.done { Stepped::Through(progress) } else { Stepped::On })
    }

    async fn dead_again(
        &self,
        replay: &str,
        input: &Input,
        progress: &mut Progress,
    ) -> Result<(Vec<PutDocument>, Vec<Start>), WebhookError> {
        let (_, subscription) = self.find(&input.subscription).await?;
        let after = Some(progress.sequence).filter(|seq| *seq > 0);
        let (letters, next) = self.dead_letters(&input.subscription, after, STEP).await?;
        let (mut puts, mut starts) = (Vec::new(), Vec::new());
        let request = &input.request;
        for (listed, _) in letters.iter().map(|(version, letter)| (letter, version)) {
            let seq = listed.owed.seq;
            progress.sequence = seq;
            progress.looked_at += 1;
            // As it is now: the listing may lag, and another replay may have taken it.
            let Some((version, letter)) = self.dead_letter(&input.subscription, seq).await? else { continue };
            let wanted = letter.replayed_at.is_none() && request.takes(seq, &letter.last.event, letter_time(&letter));
            if !wanted {
                continue;
            }
            let owed = Owed { tried: 0, wait_ms: 0, ..request.owed(replay, letter.owed.clone()) };
            starts.push(Webhooks::start_of(owed, &subscription));
            let taken = DeadLetter { replayed_at: Some(self.now_ms()), ..letter };
            puts.push(PutDocument {
                key: DocumentKey::new(DEAD, dead_name(&input.subscription, seq)),
                expect: Some(version),
                body: Bytes::from(serde_json::to_vec(&taken).unwrap_or_default()),
                ttl_ms: Some(KEPT_MS),
                history: 0,
            });
        }
        progress.done = next.is_none() || request.sequence.is_some_and(|one| progress.sequence >= one);
        Ok((puts, starts))
    }

    async fn events_again(
        &self,
        replay: &str,
        input: &Input,
        progress: &mut Progress,
    ) -> Result<(Vec<PutDocument>, Vec<Start>), WebhookError> {
        let (_, subscription) = self.find(&input.subscription).await?;
        let filter = self.filter_of(&subscription);
        let events = self.client.feed(progress.sequence, STEP).await?;
        let request = &input.request;
        let mut starts = Vec::new();
        progress.done = events.is_empty();
        for (seq, event) in events {
            // What comes later is for the matcher: without an end, a replay would run after itself.
            let over = request.sequence.is_some_and(|one| seq > one) || event.at >= request.to.unwrap_or(self.now_ms());
            if over {
                progress.done = true;
                break;
            }
            progress.sequence = seq;
            progress.looked_at += 1;
            let wanted = request.takes(seq, &event.name, event.at)
                && fits(&subscription, &event)
                && Looked::default().wants(&subscription, filter.as_ref(), &event);
            if wanted {
                let owed = Owed {
                    subscription: input.subscription.clone(),
                    seq,
                    scope: event.scope.clone(),
                    tried: 0,
                    wait_ms: 0,
                    replay: None,
                    original_secret: false,
                };
                starts.push(Webhooks::start_of(request.owed(replay, owed), &subscription));
            }
        }
        Ok((Vec::new(), starts))
    }
}

/// When the event of a dead letter was first tried is not kept; when it was given up is.
fn letter_time(letter: &DeadLetter) -> u64 {
    letter.died_at
}

impl ReplayRequest {
    fn takes(&self, seq: u64, event: &str, at: u64) -> bool {
        self.sequence.is_none_or(|one| one == seq)
            && (self.events.is_empty() || self.events.iter().any(|pattern| pattern::fits(pattern, event)))
            && self.from.is_none_or(|from| at >= from)
            && self.to.is_none_or(|to| at < to)
    }

    fn owed(&self, replay: &str, owed: Owed) -> Owed {
        Owed { replay: Some(replay.to_owned()), original_secret: self.secret == Which::Original, ..owed }
    }
}
