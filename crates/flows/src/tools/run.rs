//! The durable function that carries a tool out: asks whoever must say yes, calls, finds out, waits, undoes. Whatever ends
//! this process, its journal says how far it got.

mod steps;
mod waits;

pub(in crate::tools) use steps::NOT_COMPENSATED;
pub use waits::{Late, callback_signal};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{
    Attention, Client, Commit, Context, DocumentKey, Failure, Guard, KeyRule, KeyStrategy, PutDocument, RateUse,
    RetryRule, TaskContext, Worker, WorkflowDef, settle_signal,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Execution, Outcome, OutcomeStatus};
use super::provider::{Kit, Try};
use super::template;
use super::tool::{Provider, Tool};
use super::tried::{self, Next, ToolError, Tried};
use crate::agent::Agents;
use crate::calls::{EffectPolicy, EffectStatus, EffectView};
use crate::deliver::{self, Delivery};
use crate::records;
use crate::session::SessionKey;

/// Calls that are carried out durably.
pub const WORKFLOW: &str = "tool-call";
/// Those of them that are carried out one after another.
pub const ORDERED: &str = "tool-call-in-order";
/// Calls that are carried out as a task.
pub const TASK: &str = "tool-call-task";

/// The step that calls.
pub const CALL_STEP: &str = "call";
/// The step at which a person is asked for a yes.
pub const CONFIRM_STEP: &str = "confirm";

/// Adds what carries tools out to a worker.
#[must_use]
pub fn offer(worker: Worker, kit: Kit, agents: Agents) -> Worker {
    let durable = |name: &str| {
        let mut def = WorkflowDef::single(name, true);
        // For what fails around the provider; its own failures are decided about by policy.
        def.tasks[0].retry =
            RetryRule { attempts_max: 5, backoff_ms: 200, backoff_percent: 300, backoff_max_ms: 10_000 };
        def
    };
    let mut task_def = WorkflowDef::single(TASK, false);
    task_def.tasks[0].retry =
        RetryRule { attempts_max: 5, backoff_ms: 200, backoff_percent: 300, backoff_max_ms: 10_000 };
    let mut ordered = durable(ORDERED);
    ordered.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    let parts = Arc::new(Parts { kit, agents });
    let (one, other, task) = (parts.clone(), parts.clone(), parts);
    worker
        .function(durable(WORKFLOW), move |ctx: Context, execution: Execution| {
            let parts = one.clone();
            async move { Run::new(&ctx, &parts, &execution).carry_out().await }
        })
        .function(ordered, move |ctx: Context, execution: Execution| {
            let parts = other.clone();
            async move { Run::new(&ctx, &parts, &execution).carry_out().await }
        })
        .task(task_def, move |ctx: TaskContext, execution: Execution| {
            let parts = task.clone();
            async move { as_task(&ctx, &parts, &execution).await }
        })
}

struct Parts {
    kit: Kit,
    agents: Agents,
}

/// One execution under way.
struct Run<'a> {
    ctx: &'a Context,
    parts: &'a Parts,
    execution: &'a Execution,
    /// Why it was asked to end, if it heard so while it waited for something that had to be waited for all the same.
    asked_to_end: Mutex<Option<String>>,
}

/// What came of one call of a provider, all its tries together.
#[derive(Debug, Clone, PartialEq)]
enum Called {
    /// It was carried out; whether what it gave can be used is another matter.
    Done(Result<Value, ToolError>),
    /// It was certainly not carried out.
    Failed(ToolError),
    /// It was carried out, and undone by a person's word.
    Undone(ToolError),
}

/// What a person decided about a call nobody knows the outcome of.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Settled {
    verb: String,
    #[serde(default)]
    result: Value,
    /// Which question it answers, by the time it was asked. A provider's word answers any.
    #[serde(default)]
    since: Option<u64>,
}

impl Settled {
    /// Whether it is a word of this question. Of two people who answer one question, the second must not answer the next.
    fn answers(&self, since: u64, verbs: &[&str]) -> bool {
        verbs.contains(&self.verb.as_str()) && self.since.is_none_or(|asked| asked == since)
    }
}

impl<'a> Run<'a> {
    fn new(ctx: &'a Context, parts: &'a Parts, execution: &'a Execution) -> Self {
        Run { ctx, parts, execution, asked_to_end: Mutex::default() }
    }
}

impl Run<'_> {
    fn hear_the_end(&self, reason: String) {
        self.asked_to_end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    fn asked_to_end(&self) -> Option<String> {
        self.asked_to_end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn carry_out(&self) -> Result<Outcome, Failure> {
        let outcome = match self.confirmed().await {
            Ok(None) => self.act_in_time().await,
            Ok(Some(declined)) => Ok(declined),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(outcome) => self.conclude(outcome).await,
            Err(Failure::Cancelled(reason)) => {
                // Whatever there was to undo is undone by now.
                let error = ToolError::new("cancelled", reason.clone());
                self.finish(&Outcome::of(OutcomeStatus::Failed, error), false).await?;
                Err(Failure::Cancelled(reason))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Records the outcome, unless the run was asked to end while that came about: then what can be undone is undone.
    async fn conclude(&self, outcome: Outcome) -> Result<Outcome, Failure> {
        let Execution { tool, arguments, key, undoes, .. } = self.execution;
        let undoable = outcome.status == OutcomeStatus::Done && undoes.is_none();
        let undone_by = tool.compensation.as_ref().filter(|_| undoable && tool.policy == EffectPolicy::Compensatable);
        match self.finish(&outcome, undone_by.is_some()).await {
            Err(Failure::Cancelled(reason)) => {
                let error = ToolError::new("cancelled", reason);
                let undone = self.undo(CALL_STEP, tool, undone_by, arguments, &outcome.result, key).await?;
                let outcome = if undone { Outcome::of(OutcomeStatus::Compensated, error) } else { outcome };
                self.finish(&outcome, false).await?;
                Ok(outcome)
            }
            finished => finished.map(|()| outcome),
        }
    }

    /// Acts, for a step of a plan within its tool's rate. Of a call by itself that was seen to when it was taken.
    async fn act_in_time(&self) -> Result<Outcome, Failure> {
        if self.execution.step.is_some() && !self.keep_the_rate(&self.execution.tool, true).await? {
            return Ok(Outcome::of(OutcomeStatus::Failed, too_late()));
        }
        self.act().await
    }

    /// Takes what a call takes from its tool's rate limit, waiting until it may; false if that is too late. What undoes
    /// waits as long as it takes, and whether or not it is asked to end.
    async fn keep_the_rate(&self, tool: &Tool, forward: bool) -> Result<bool, Failure> {
        let Some(from) = rate_use(tool) else { return Ok(true) };
        let until = self.execution.deadline_at.filter(|_| forward);
        loop {
            match self.ctx.take(from.clone(), until).await {
                Err(Failure::Cancelled(_)) if !forward => {}
                other => return other,
            }
        }
    }

    async fn act(&self) -> Result<Outcome, Failure> {
        let Execution { tool, arguments, key, .. } = self.execution;
        if self.execution.undoes.is_some() {
            return self.undo_alone().await;
        }
        if let Provider::Steps(plan) = &tool.provider {
            return self.plan(plan).await;
        }
        let called = self.call(CALL_STEP, tool, arguments, key, true).await?;
        if let (Some(reason), Called::Done(given), Some(related)) = (self.asked_to_end(), &called, &tool.compensation) {
            // It was asked to end before it was known that there is something to undo.
            let result = given.as_ref().ok().cloned().unwrap_or(Value::Null);
            self.undo(CALL_STEP, tool, Some(related), arguments, &result, key).await?;
            return Err(Failure::Cancelled(reason));
        }
        Ok(match called {
            Called::Done(Ok(result)) => Outcome::done(result),
            Called::Done(Err(error)) => Outcome { error: Some(error), ..Outcome::done(Value::Null) },
            Called::Failed(error) if error.code == "expired" || error.code == "declined" => {
                Outcome::of(OutcomeStatus::Declined, error)
            }
            Called::Failed(error) => Outcome::of(OutcomeStatus::Failed, error),
            Called::Undone(error) => Outcome::of(OutcomeStatus::Compensated, error),
        })
    }

    /// Calls a tool until it is known what came of it. `forward`: not to undo something.
    async fn call(
        &self,
        step: &str,
        tool: &Tool,
        arguments: &Value,
        key: &str,
        forward: bool,
    ) -> Result<Called, Failure> {
        if let Provider::Person(person) = &tool.provider {
            return self.ask_whoever(step, tool, person, arguments).await;
        }
        // What undoes is begun whether or not the run was asked to end, unless that is all it is there for.
        let guarded = tool.policy != EffectPolicy::Pure && (forward || self.execution.undoes.is_some());
        let mut tries = 0;
        'tries: loop {
            tries += 1;
            let tried = self
                .ctx
                .act(step, guarded, |intent| self.try_once(step, tool, arguments, key, intent, forward))
                .await?;
            let doubt = match &tried {
                Tried::InDoubt(error) => Some(error.clone()),
                _ => None,
            };
            let mut next = tried::next(tool.policy, tried, tries, tool.retry, tool.probe.is_some());
            loop {
                next = match next {
                    Next::Done(result) => return Ok(Called::Done(result)),
                    Next::Failed(error) => return Ok(Called::Failed(error)),
                    Next::Again(wait_ms) if forward && self.is_too_late(wait_ms).await? => match &doubt {
                        Some(doubt) if tool.policy != EffectPolicy::Pure => Next::Unknown(doubt.clone()),
                        _ => Next::Failed(too_late()),
                    },
                    Next::Again(wait_ms) => {
                        self.pause(wait_ms, forward).await?;
                        continue 'tries;
                    }
                    Next::Probe(doubt) => match self.probe(step, tool, arguments, key).await? {
                        Some(found) => tried::next(tool.policy, found, tries, tool.retry, false),
                        None => Next::Unknown(doubt),
                    },
                    Next::Wait => {
                        let outcome = self.wait_for_outcome(step, tool, arguments, key).await?;
                        tried::next(tool.policy, outcome, tries, tool.retry, tool.probe.is_some())
                    }
                    Next::Unknown(error) => {
                        let settled = self.ask_about(step, tool, arguments, key, &error).await?;
                        match settled.verb.as_str() {
                            "done" => return Ok(Called::Done(Ok(settled.result))),
                            "retry" => continue 'tries,
                            "compensate" if tool.compensation.is_some() => {
                                let by = tool.compensation.as_ref();
                                if self.undo(step, tool, by, arguments, &Value::Null, key).await? {
                                    let text = "a person had it undone, because nobody knew whether it was carried out";
                                    return Ok(Called::Undone(ToolError::new("compensated", text)));
                                }
                                // So that whoever asks for it again does not have it done twice.
                                let text = "nobody knew whether it was carried out, and a person let it be";
                                return Ok(Called::Done(Err(ToolError::new(NOT_COMPENSATED, text))));
                            }
                            _ => {
                                let text = "a person said that it was not carried out";
                                return Ok(Called::Failed(ToolError::new("not_carried_out", text)));
                            }
                        }
                    }
                };
            }
        }
    }

    async fn try_once(
        &self,
        step: &str,
        tool: &Tool,
        arguments: &Value,
        key: &str,
        intent: mainspring_client::Intent,
        forward: bool,
    ) -> Result<Tried, Failure> {
        let client = self.ctx.client();
        let mut timeout = Duration::from_millis(tool.timeout_ms);
        // What undoes may take its time.
        if let Some(deadline) = self.execution.deadline_at.filter(|_| forward) {
            let left = deadline.saturating_sub(client.engine().world().now_ms());
            if left == 0 && !intent.again {
                return Ok(Tried::Failed { error: too_late(), again: false, after_ms: None });
            }
            timeout = timeout.min(Duration::from_millis(left.max(1)));
        }
        let execution_id = self.ctx.run_id().to_string();
        let asking = Some((intent.fence.task, intent.fence.position));
        let caller = &self.execution.caller;
        let again = intent.again;
        let call =
            Try { client, execution_id: &execution_id, step, tool, arguments, key, caller, timeout, asking, again };
        self.parts.kit.try_once(&call).await
    }

    /// Whether its time is over before it can be tried again.
    async fn is_too_late(&self, wait_ms: u64) -> Result<bool, Failure> {
        let Some(deadline) = self.execution.deadline_at else { return Ok(false) };
        Ok(self.now_ms().await?.saturating_add(wait_ms) >= deadline)
    }

    /// Waits. What undoes is not hurried by being asked to end.
    async fn pause(&self, wait_ms: u64, forward: bool) -> Result<(), Failure> {
        match self.ctx.sleep(Duration::from_millis(wait_ms)).await {
            Err(Failure::Cancelled(_)) if !forward => Ok(()),
            other => other,
        }
    }

    /// What a list of what waits for people says about a step of this execution.
    fn attention(&self, kind: &str, step: &str, title: String, verbs: &[&str], since: u64, detail: Value) -> Attention {
        Attention {
            kind: kind.to_owned(),
            run_id: self.ctx.run_id().to_string(),
            step: step.to_owned(),
            title,
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
            since,
            detail,
        }
    }

    /// What time it is, as recorded.
    async fn now_ms(&self) -> Result<u64, Failure> {
        let world = self.ctx.client().engine().world();
        self.ctx.run("time", || async { Ok(world.now_ms()) }).await
    }

    /// Asks for a yes, if one is needed: `None` if it may go on. No answer in time is a no.
    async fn confirmed(&self) -> Result<Option<Outcome>, Failure> {
        let Some(prompt) = &self.execution.confirm else { return Ok(None) };
        let Execution { tool, arguments, caller, .. } = self.execution;
        let since = self.now_ms().await?;
        let left_ms = self.execution.deadline_at.map_or(u64::MAX, |at| at.saturating_sub(since));
        let expires_ms = tool.confirmation.as_ref().map_or(0, |confirmation| confirmation.expires_ms).min(left_ms);
        let detail = json!({
            "tool": tool.name, "arguments": super::call::preview(tool, arguments), "expires_at": since + expires_ms,
            "digest": super::call::digest(arguments), "agent": caller.agent, "session": caller.session,
            "turn_id": caller.turn_id, "turn_group_id": caller.turn_group_id,
        });
        let attention = self.attention("confirmation", CONFIRM_STEP, prompt.clone(), &["yes", "no"], since, detail);
        // Asked to end while it waits, it takes its question back itself.
        self.ask(&attention, "tool.confirmation_needed", self.question(prompt)).await?;
        let timeout = Some(Duration::from_millis(expires_ms));
        let answer: Result<Option<Settled>, _> = self.ctx.wait_signal(&settle_signal(CONFIRM_STEP), timeout).await;
        let told = match &answer {
            Ok(Some(Settled { verb, .. })) if verb == "yes" => "tool.confirmed",
            Ok(Some(_)) => "tool.declined",
            Ok(None) => "tool.confirmation_expired",
            Err(_) => "tool.confirmation_withdrawn",
        };
        self.put(&attention, Some(0), told).await?;
        match (told, answer?) {
            ("tool.confirmed", _) => Ok(None),
            (_, Some(_)) => {
                Ok(Some(Outcome::of(OutcomeStatus::Declined, ToolError::new("declined", "a person said no"))))
            }
            (_, None) => {
                let text = "nobody said yes in time, which is a no";
                Ok(Some(Outcome::of(OutcomeStatus::Declined, ToolError::new("expired", text))))
            }
        }
    }

    /// The question for the person of the session, if its channel can be reached.
    fn question(&self, prompt: &str) -> Vec<(String, Option<String>, Bytes)> {
        let session = self.execution.caller.session.as_deref();
        let Some(session) = session.and_then(SessionKey::parse) else { return Vec::new() };
        let Some(settings) = self.parts.agents.get(session.tenant, &session.agent) else { return Vec::new() };
        let Some(url) = settings.deliver_url.clone() else { return Vec::new() };
        let id = self.ctx.run_id().to_string();
        let delivery = Delivery {
            url,
            reply_id: format!("{id}:{CONFIRM_STEP}"),
            turn_id: self.execution.caller.turn_id.clone().unwrap_or_default(),
            session: session.to_string(),
            segment: 0,
            segments: 1,
            text: prompt.to_owned(),
            media: None,
            data: Some(json!({ "confirmation": id })),
            delay_ms: 0,
            attempts_more: settings.deliver_attempts_more,
        };
        let Ok(body) = serde_json::to_vec(&delivery) else { return Vec::new() };
        vec![(deliver::WORKFLOW.to_owned(), Some(session.to_string()), Bytes::from(body))]
    }

    /// Puts something on the list of what waits for people, unless the run was asked to end, and tells it.
    async fn ask(
        &self,
        attention: &Attention,
        told: &str,
        runs: Vec<(String, Option<String>, Bytes)>,
    ) -> Result<(), Failure> {
        let commit = self.attending(attention, None, told)?;
        self.ctx.commit(Commit { guarded: true, runs, ..commit }).await?;
        Ok(())
    }

    /// Puts something on the list of what waits for people, or takes it off, and tells it.
    async fn put(&self, attention: &Attention, ttl_ms: Option<u64>, told: &str) -> Result<(), Failure> {
        self.ctx.commit(self.attending(attention, ttl_ms, told)?).await?;
        Ok(())
    }

    fn attending(&self, attention: &Attention, ttl_ms: Option<u64>, told: &str) -> Result<Commit, Failure> {
        let body = json_of(attention)?;
        let name = format!("{}/{}", attention.run_id, attention.step);
        let key = DocumentKey::new(mainspring_client::ATTENTION, name);
        let mut documents = vec![PutDocument { key, expect: None, body: body.clone(), ttl_ms, history: 0 }];
        if let Some(session) = self.execution.caller.session.as_ref().filter(|_| attention.kind == "confirmation") {
            // Where the session's next turn finds it.
            let key = DocumentKey::new(records::CONFIRMATION, format!("{session}/{}", attention.run_id));
            documents.push(PutDocument { key, expect: None, body, ttl_ms, history: 0 });
        }
        let data = json!({ "step": attention.step, "title": attention.title, "detail": attention.detail });
        let events = vec![(told.to_owned(), self.told(data))];
        let scope = self.execution.caller.session.clone();
        Ok(Commit { force: true, documents, events, scope, ..Commit::default() })
    }

    /// Data of an event about this execution.
    fn told(&self, more: Value) -> Bytes {
        let mut data = about(self.execution, &self.ctx.run_id().to_string());
        if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        Bytes::from(data.to_string())
    }

    /// Records how it ended: in the ledger, and as an event. If `guarded`, only if the run was not asked to end.
    async fn finish(&self, outcome: &Outcome, guarded: bool) -> Result<(), Failure> {
        let (documents, (name, data)) = ending(self.execution, &self.ctx.run_id().to_string(), outcome)?;
        let scope = self.execution.caller.session.clone();
        let events = vec![(name, data)];
        let commit = Commit { force: true, guarded, documents, events, scope, ..Commit::default() };
        self.ctx.commit(commit).await?;
        Ok(())
    }

    /// Says in the ledger that nobody knows.
    fn unknown(&self, error: &ToolError) -> Result<Vec<PutDocument>, Failure> {
        let Some(name) = &self.execution.ledger else { return Ok(Vec::new()) };
        let id = self.ctx.run_id().to_string();
        let view = entry(self.execution, &id, EffectStatus::Unknown, None, Some(error.clone()));
        Ok(vec![put_entry(name, &view, None)?])
    }
}

/// What every event about an execution says.
pub(super) fn about(execution: &Execution, execution_id: &str) -> Value {
    let Execution { tool, arguments, caller, key, .. } = execution;
    json!({
        "execution_id": execution_id, "tool": tool.name, "version": execution.version, "policy": tool.policy,
        "key": key, "digest": super::call::digest(arguments), "arguments": super::call::preview(tool, arguments),
        "agent": caller.agent, "session": caller.session, "turn_id": caller.turn_id,
        "turn_group_id": caller.turn_group_id, "by": caller.by,
    })
}

/// An execution's entry in the ledger.
pub(super) fn entry(
    execution: &Execution,
    execution_id: &str,
    status: EffectStatus,
    result: Option<Value>,
    error: Option<ToolError>,
) -> EffectView {
    EffectView {
        tool: execution.tool.name.clone(),
        key: execution.key.clone(),
        policy: execution.tool.policy,
        status,
        result,
        turn_id: execution.caller.turn_id.clone().unwrap_or_default(),
        position: 0,
        tries: 1,
        execution_id: Some(execution_id.to_owned()),
        digest: Some(super::call::digest(&execution.arguments)),
        error,
    }
}

pub(super) fn put_entry(name: &str, view: &EffectView, ttl_ms: Option<u64>) -> Result<PutDocument, Failure> {
    let key = DocumentKey::new(records::EFFECT, name);
    Ok(PutDocument { key, expect: None, body: json_of(view)?, ttl_ms, history: 0 })
}

/// What is recorded at the end of an execution: documents, and an event.
fn ending(
    execution: &Execution,
    execution_id: &str,
    outcome: &Outcome,
) -> Result<(Vec<PutDocument>, (String, Bytes)), Failure> {
    let (status, told) = match outcome.status {
        OutcomeStatus::Done => (EffectStatus::Done, "tool.done"),
        OutcomeStatus::Failed if outcome.in_doubt => (EffectStatus::Unknown, "tool.failed"),
        OutcomeStatus::Failed => (EffectStatus::Failed, "tool.failed"),
        OutcomeStatus::Declined => (EffectStatus::Failed, "tool.failed"),
        OutcomeStatus::Compensated => (EffectStatus::Compensated, "tool.compensated"),
    };
    let mut documents = Vec::new();
    if let Some(name) = &execution.ledger {
        let result = (status == EffectStatus::Done).then(|| outcome.result.clone());
        let view = entry(execution, execution_id, status, result, outcome.error.clone());
        documents.push(put_entry(name, &view, Some(execution.remember_ms))?);
    }
    if let Some((name, undone)) = &execution.undoes
        && outcome.status == OutcomeStatus::Done
    {
        let view = EffectView { status: EffectStatus::Compensated, ..undone.clone() };
        documents.push(put_entry(name, &view, Some(execution.remember_ms))?);
    }
    let mut data = about(execution, execution_id);
    if let Some(data) = data.as_object_mut() {
        data.insert("status".to_owned(), json!(outcome.status));
        data.insert("error".to_owned(), json!(outcome.error));
        if outcome.in_doubt {
            data.insert("in_doubt".to_owned(), json!(true));
        }
        if !outcome.steps.is_empty() {
            data.insert("steps".to_owned(), json!(outcome.steps));
        }
        if let Some((_, undone)) = &execution.undoes {
            data.insert("undoes".to_owned(), json!(undone.execution_id));
        }
    }
    Ok((documents, (told.to_owned(), Bytes::from(data.to_string()))))
}

pub(super) fn json_of(value: &impl serde::Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Failure::Json { what: "a record of a tool".to_owned(), cause: error.to_string() })
}

/// A call that may happen twice, as a task: the next attempt of a task that was lost does the same again, under the same
/// key.
async fn as_task(ctx: &TaskContext, parts: &Parts, execution: &Execution) -> Result<Outcome, Failure> {
    let client = &ctx.client;
    let execution_id = ctx.run.to_string();
    let outcome = call_plainly(client, &parts.kit, execution, &execution_id, u64::MAX).await?;
    record_end(client, execution, &execution_id, &outcome).await?;
    Ok(outcome)
}

/// Calls, and calls again, without a journal: for what may happen twice. It fails rather than waiting longer than
/// `wait_ms_max` for the next try.
pub(super) async fn call_plainly(
    client: &Client,
    kit: &Kit,
    execution: &Execution,
    execution_id: &str,
    wait_ms_max: u64,
) -> Result<Outcome, Failure> {
    let Execution { tool, arguments, key, caller, deadline_at, .. } = execution;
    let failed = |error, in_doubt| {
        // What only reads was not carried out, whatever became of it.
        let in_doubt = in_doubt && tool.policy != EffectPolicy::Pure;
        Ok(Outcome { in_doubt, ..Outcome::of(OutcomeStatus::Failed, error) })
    };
    let (mut tries, mut in_doubt) = (0, false);
    loop {
        tries += 1;
        let left = deadline_at.map(|at| at.saturating_sub(client.engine().world().now_ms()));
        if left == Some(0) {
            return failed(too_late(), in_doubt);
        }
        let timeout = Duration::from_millis(tool.timeout_ms.min(left.unwrap_or(u64::MAX)));
        let (step, asking, again) = (CALL_STEP, None, false);
        let call = Try { client, execution_id, step, tool, arguments, key, caller, timeout, asking, again };
        let tried = kit.try_once(&call).await?;
        // One try that may have been carried out is enough, whatever the later ones say.
        in_doubt |= matches!(tried, Tried::InDoubt(_));
        let why = tried.error().cloned();
        match tried::next(tool.policy, tried, tries, tool.retry, false) {
            Next::Done(Ok(result)) => return Ok(Outcome::done(result)),
            Next::Done(Err(error)) => return Ok(Outcome { error: Some(error), ..Outcome::done(Value::Null) }),
            // There will be no next try.
            Next::Again(wait_ms) if left.is_some_and(|left| wait_ms >= left) => return failed(too_late(), in_doubt),
            Next::Again(wait_ms) => match why {
                Some(error) if wait_ms > wait_ms_max => return failed(error, in_doubt),
                _ => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
            },
            Next::Failed(error) | Next::Probe(error) | Next::Unknown(error) => return failed(error, in_doubt),
            Next::Wait => unreachable!("what answers later is carried out durably"),
        }
    }
}

fn too_late() -> ToolError {
    ToolError::new("deadline_exceeded", "its time was over before it could be tried")
}

/// Records how a call ended that has no journal.
pub(super) async fn record_end(
    client: &Client,
    execution: &Execution,
    execution_id: &str,
    outcome: &Outcome,
) -> Result<(), Failure> {
    let (documents, (name, data)) = ending(execution, execution_id, outcome)?;
    let scope = execution.caller.session.clone();
    let again = |error: mainspring_client::ClientError| Failure::Retryable(error.to_string());
    // A call without a journal undoes nothing, so its own entry is all there is.
    if let Some(put) = documents.into_iter().next() {
        client.put_document(put, None, Guard::default(), Some((name, scope, data))).await.map_err(again)?;
        return Ok(());
    }
    let data: Value = serde_json::from_slice(&data).unwrap_or_default();
    client.emit(&name, scope.as_deref(), &data).await.map_err(again)?;
    Ok(())
}

/// What one call takes from its tool's rate limit.
pub(super) fn rate_use(tool: &Tool) -> Option<RateUse> {
    let rate = tool.rate?;
    Some(RateUse { name: format!("tool:{}", tool.name), units: 1, sets: Some((rate.limit, rate.window_ms)) })
}

/// What serialises a call, if its tool says that calls go one after another.
pub(super) fn order_key(tool: &Tool, arguments: &Value) -> Result<Option<String>, template::BadTemplate> {
    let Some(template) = &tool.concurrency_key else { return Ok(None) };
    let key = template::fill_text(template, &json!({ "args": arguments }), template::Encoding::Plain)?;
    Ok(Some(format!("{}:{}:{key}", tool.name.len(), tool.name)))
}

/// The question a confirmation asks, filled in.
pub(super) fn prompt(tool: &Tool, arguments: &Value) -> Result<Option<String>, template::BadTemplate> {
    let scope = json!({ "args": arguments });
    match &tool.confirmation {
        Some(confirmation) if confirmation.when.as_ref().is_none_or(|when| when.holds(&scope)) => {
            template::fill_text(&confirmation.prompt, &scope, template::Encoding::Plain).map(Some)
        }
        Some(_) | None => Ok(None),
    }
}
