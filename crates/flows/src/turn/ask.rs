//! Asking the agent: over HTTP, or by giving a worker a run of its own. While it works, messages are watched for; what
//! becomes of them is decided as `decision.rs` says, and the agent's right to act is taken from it before anybody else
//! gets one.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mainspring_client::{
    ClientError, EngineError, Failure, Fence, OnParentEnd, Refusal, RunId, SpawnOptions, StartOptions, TaskId,
};
use serde::{Deserialize, Serialize};

use super::{AGENT_STEP, PROCESSING, REQUEST_STEP, Turn};
use crate::agent::{AgentAnswer, AgentCall, AgentError, AgentRequest, DecideRequest, StopNotice};
use crate::calls::Grant;
use crate::decision::{self, Action, Decision, Facts};
use crate::outside::Address;
use crate::records;
use crate::settings::AgentKind;
use crate::settings::millis;
use crate::voice::Voice;

/// How long a worker may take to decide about messages that came.
const DECIDE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token lasts beyond the time its attempt may take.
const TOKEN_SLACK_MS: u64 = 60_000;

/// What came of the agent's work.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Worked {
    /// It answered. Messages that came meanwhile were decided about and are the next turn's.
    Answered {
        answer: Box<AgentAnswer>,
        /// The version of the session's state it was given.
        state_version: u64,
        decisions: Vec<Decision>,
    },
    /// It failed, and will fail again.
    Refused(String),
    /// It was stopped, and its work is begun anew.
    Interrupted(Decision),
}

/// What was decided about messages that came while the agent worked, by what the step [`AGENT_STEP`] recorded.
pub fn decisions_of(step: &[u8]) -> Vec<Decision> {
    match serde_json::from_slice(step) {
        Ok(Worked::Answered { decisions, .. }) => decisions,
        Ok(Worked::Interrupted(decision)) => vec![decision],
        Ok(Worked::Refused(_)) | Err(_) => Vec::new(),
    }
}

/// An agent at work.
type Asking<'a> = Pin<Box<dyn Future<Output = Result<AgentAnswer, Failed>> + Send + 'a>>;

/// Who is at work.
#[derive(Clone, Copy)]
enum Whom<'a> {
    Http(Address<'a>),
    Worker(&'a str),
}

/// A try that failed.
enum Failed {
    Again(String),
    Never(String),
    /// Not the agent's failure: this process is ending.
    Ending(Failure),
}

impl Turn<'_> {
    /// Has the agent answer, tried again by its settings. If `open`, messages may interrupt it.
    pub(super) async fn ask(&mut self, open: bool) -> Result<Worked, Failure> {
        match self.settings.kind.clone() {
            AgentKind::Http { url } => self.ask_http(&url, open).await,
            AgentKind::Workflow { name } => self.ask_worker(&name, open).await,
        }
    }

    async fn ask_http(&mut self, url: &str, open: bool) -> Result<Worked, Failure> {
        let policy = self.settings.retry;
        let mut wait = policy.backoff;
        for attempt in 1.. {
            self.asked += 1;
            let this = &*self;
            let worked = this.ctx.run_fenced(AGENT_STEP, |fence| this.ask_http_once(url, open, fence)).await;
            match worked {
                Err(Failure::Retryable(error)) if attempt >= policy.attempts_max => {
                    return Ok(Worked::Refused(format!("{AGENT_STEP} failed {attempt} time(s), last: {error}")));
                }
                Err(Failure::Retryable(_)) => {
                    self.ctx.sleep(wait).await?;
                    wait = (wait * 2).min(policy.backoff_max);
                }
                other => return other,
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn ask_http_once(&self, url: &str, open: bool, fence: Fence) -> Result<Worked, Failure> {
        let address = Address { url, secret: self.settings.secret.as_ref() };
        let (request, state_version) = self.request(fence).await?;
        let mut voice = Voice::new(self.ctx.client().clone(), &self.key, &self.turn_id);
        if self.settings.streaming_commits {
            voice = voice.committing(fence);
        }
        let asking: Asking<'_> = Box::pin(async {
            self.outside.ask(address, &request, &voice).await.map_err(|error| match error {
                AgentError::Retryable(error) => Failed::Again(error),
                AgentError::Final(error) => Failed::Never(error),
            })
        });
        self.watch(asking, Whom::Http(address), open, fence, state_version).await
    }

    /// Gives the request to a worker. Its run is cancelled with this one, or when its work is begun anew.
    async fn ask_worker(&mut self, name: &str, open: bool) -> Result<Worked, Failure> {
        self.asked += 1;
        // The request is recorded right before the step begins, and carries that step's fence.
        let fence = Fence { task: TaskId { run: self.ctx.run_id(), index: 0 }, position: self.ctx.position() + 1 };
        let this = &*self;
        let (request, state_version): (AgentRequest, u64) = this.ctx.note(REQUEST_STEP, || this.request(fence)).await?;
        let begun = this.ctx.begin(AGENT_STEP).await?;
        debug_assert_eq!(begun, fence);
        let options = SpawnOptions { on_parent_end: OnParentEnd::Cancel, ..SpawnOptions::default() };
        let child: RunId = this.ctx.spawn_detached(name, &AgentCall::Turn(Box::new(request)), options).await?;
        // What it gave is the child's, which is on record: a crash before the turn goes on reads it again.
        let worked: Worked = this
            .ctx
            .note(AGENT_STEP, || async {
                let asking: Asking<'_> = Box::pin(this.wait_for(name, child));
                this.watch(asking, Whom::Worker(name), open, fence, state_version).await
            })
            .await?;
        if let Worked::Interrupted(Decision { action: Action::Absorb, .. }) = worked {
            self.ctx.cancel(child, "messages were absorbed and its work begins anew").await?;
        }
        Ok(worked)
    }

    async fn wait_for(&self, name: &str, child: RunId) -> Result<AgentAnswer, Failed> {
        let timeout = self.settings.timeout;
        match tokio::time::timeout(timeout, self.ctx.client().wait(child)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ClientError::Engine(error @ (EngineError::Stopped { .. } | EngineError::ShuttingDown)))) => {
                Err(Failed::Ending(Failure::GivenUp(error.to_string())))
            }
            Ok(Err(error)) => Err(Failed::Never(format!("agent workflow {name:?}: {error}"))),
            Err(_) => {
                let waited = timeout.as_millis();
                Err(Failed::Never(format!("agent workflow {name:?} did not answer within {waited} ms")))
            }
        }
    }

    async fn decide(&self, whom: Whom<'_>, fence: Fence, waiting: u64) -> Result<Decision, String> {
        match whom {
            Whom::Http(address) => {
                let request = self.decide_request(waiting, PROCESSING);
                self.outside.decide(address, &request).await.map_err(|error| error.to_string())
            }
            Whom::Worker(name) => self.decide_by_worker(name, fence, waiting).await,
        }
    }

    /// Tells an agent that has lost its fence to stop, and lets it end in peace for a while: whatever it still does is
    /// refused. A worker is told when its run is cancelled.
    async fn stop(&self, whom: Whom<'_>, reason: &str, asking: Asking<'_>) {
        match whom {
            Whom::Http(address) if !self.settings.grace.is_zero() => {
                let (turn_id, session) = (self.turn_id.clone(), self.key.clone());
                self.outside.stop(address, &StopNotice { turn_id, session, reason: reason.to_owned() }).await;
                let _ = tokio::time::timeout(self.settings.grace, asking).await;
            }
            Whom::Http(_) | Whom::Worker(_) => {}
        }
    }

    async fn decide_by_worker(&self, name: &str, fence: Fence, waiting: u64) -> Result<Decision, String> {
        let call = AgentCall::Decide(Box::new(self.decide_request(waiting, PROCESSING)));
        let idempotency_key = Some(format!("decide:{}:{}:{waiting}", self.turn_id, fence.position));
        let deciding = async {
            let options = StartOptions { idempotency_key, ..StartOptions::default() };
            let run = self.ctx.client().start_with(name, &call, options).await?;
            self.ctx.client().wait::<Decision>(run).await
        };
        let late = || "the agent did not decide in time".to_owned();
        tokio::time::timeout(DECIDE_TIMEOUT, deciding).await.map_err(|_| late())?.map_err(|error| error.to_string())
    }

    /// Waits for the answer. Messages that come, if they may interrupt, are decided about once: then the agent is either
    /// stopped, or goes on and they are the next turn's.
    async fn watch(
        &self,
        mut asking: Asking<'_>,
        whom: Whom<'_>,
        open: bool,
        fence: Fence,
        state_version: u64,
    ) -> Result<Worked, Failure> {
        let mut decisions = Vec::new();
        let answered = |answer, decisions| match answer {
            Ok(answer) => Ok(Worked::Answered { answer: Box::new(answer), state_version, decisions }),
            Err(Failed::Again(error)) => Err(Failure::Retryable(error)),
            Err(Failed::Never(error)) => Ok(Worked::Refused(error)),
            Err(Failed::Ending(failure)) => Err(failure),
        };
        if open {
            // A worker's fence is kept over a restart, unless it was taken before that and the process ended before what
            // was decided was on record. The worker can do nothing any more, so its work begins anew.
            if matches!(whom, Whom::Worker(_)) && self.is_stale(self.ctx.client().standing(fence).await)? {
                return Ok(Worked::Interrupted(self.stopped_before()));
            }
            tokio::select! {
                biased;
                answer = &mut asking => return answered(answer, decisions),
                () = self.ctx.message_waits() => {}
            }
            let (waiting, committed) = self.ctx.client().standing(fence).await.unwrap_or((1, false));
            if committed {
                // By the agent itself, or by what was decided in a try that failed. There is nothing left to ask.
                decisions.push(decision::past_the_commit_point());
                return answered(asking.await, decisions);
            }
            let chosen = match decision::of_policy(self.policy) {
                Some(decision) => decision,
                None => tokio::select! {
                    biased;
                    answer = &mut asking => return answered(answer, decisions),
                    decision = self.decide(whom, fence, waiting) => decision.unwrap_or_else(|error| {
                        // Nothing is lost by letting it finish.
                        Decision::new(Action::Queue, &format!("the agent did not say ({error})"))
                    }),
                },
            };
            let enforced = decision::enforced(chosen, self.facts());
            match enforced.action {
                Action::Supersede | Action::Absorb => {
                    if self.ctx.interrupt().await? {
                        self.stop(whom, &enforced.reason, asking).await;
                        return Ok(Worked::Interrupted(enforced));
                    }
                    let facts = Facts { committed: true, ..self.facts() };
                    decisions.push(decision::enforced(enforced, facts));
                }
                Action::Queue | Action::ForceComplete => {
                    if self.is_stale(self.ctx.client().pass_commit_point(fence).await)? {
                        return Ok(Worked::Interrupted(self.stopped_before()));
                    }
                    decisions.push(enforced);
                }
            }
        }
        let answer = asking.await;
        answered(answer, decisions)
    }

    /// Whether a fence has fallen. Nothing else may end in silence: a refusal that gave the attempt up would leave the turn
    /// with nobody at work.
    fn is_stale(&self, asked: Result<(u64, bool), ClientError>) -> Result<bool, Failure> {
        match asked {
            Ok(_) => Ok(false),
            Err(ClientError::Engine(EngineError::Refused(Refusal::StaleFence { .. }))) => Ok(true),
            Err(error) => Err(Failure::GivenUp(error.to_string())),
        }
    }

    /// What becomes of a turn whose agent was stopped before a restart. What had been decided is not known any more; it
    /// was one of these.
    fn stopped_before(&self) -> Decision {
        let chosen = decision::of_policy(self.policy)
            .filter(|decision| matches!(decision.action, Action::Supersede | Action::Absorb))
            .unwrap_or_else(|| Decision::new(Action::Absorb, "its agent was stopped before a restart"));
        decision::enforced(chosen, self.facts())
    }

    pub(super) fn decide_request(&self, waiting: u64, interrupt_point: &str) -> DecideRequest {
        DecideRequest {
            turn_id: self.turn_id.clone(),
            session: self.key.clone(),
            agent: self.session.agent.clone(),
            interrupt_point: interrupt_point.to_owned(),
            messages: self.messages.clone(),
            waiting,
            allowed: decision::allowed(self.facts()).to_vec(),
        }
    }

    /// What the agent is told in an attempt, and the version of the session's state in it.
    async fn request(&self, fence: Fence) -> Result<(AgentRequest, u64), Failure> {
        let client = self.ctx.client();
        let group = self.group;
        // Before its first attempt nobody had the right to leave anything in this turn group.
        let untouched = group == self.ctx.run_id() && self.asked == 1 && self.ctx.is_first_execution();
        let read = records::attempt(client, &self.key, (!untouched).then_some(group)).await;
        let records::Begins { state, artifacts, effects, confirmations } =
            read.map_err(|error| Failure::GivenUp(error.to_string()))?;
        let timeout_ms = millis(self.settings.timeout);
        let deadline_at = client.engine().world().now_ms().saturating_add(timeout_ms);
        let grant = Grant {
            tenant: self.session.tenant,
            turn: self.ctx.run_id(),
            position: fence.position,
            group,
            session: self.key.clone(),
            artifact_ttl: self.settings.artifact_ttl,
            effect_ttl: self.settings.effect_ttl,
            streaming_commits: self.settings.streaming_commits,
        };
        let state_version = state.version;
        let request = AgentRequest {
            turn_id: self.turn_id.clone(),
            turn_group_id: group.to_string(),
            attempt: self.asked,
            session: self.key.clone(),
            agent: self.session.agent.clone(),
            interlocutor: self.session.interlocutor.clone(),
            channel: self.session.channel.clone(),
            correlation_id: format!("{}:{}", self.key, self.turn_id),
            messages: self.messages.clone(),
            timeout_ms,
            deadline_at,
            restart: self.restart.clone(),
            state,
            hint: self.record.hint.clone(),
            artifacts,
            effects,
            confirmations,
            config: self.config.clone(),
            calls_url: self.door.calls_url.clone(),
            token: self.door.tokens.sign(&grant, deadline_at.saturating_add(TOKEN_SLACK_MS)),
        };
        Ok((request, state_version))
    }
}
