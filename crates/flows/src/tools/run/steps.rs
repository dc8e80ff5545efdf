//! Plans: step after step, and when one fails, back: what was done is undone, the last first. An irreversible step is the
//! point from which it only goes on.

use mainspring_client::{Call, Commit, Failure, OnParentEnd, SpawnOptions, settle_signal};
use serde_json::{Map, Value, json};

use super::{CALL_STEP, Called, ORDERED, Run, Settled, WORKFLOW};
use crate::calls::EffectPolicy;
use crate::tools::call::{Execution, Outcome, OutcomeStatus, StepOutcome};
use crate::tools::plan::{Item, Plan, PlanStep};
use crate::tools::schema;
use crate::tools::template;
use crate::tools::tool::{Provider, Related, Tool};
use crate::tools::tried::ToolError;

/// How often undoing is tried before a person is asked.
const UNDO_ROUNDS: u32 = 5;
/// What may be said about a step behind the point of no return.
const STUCK_VERBS: [&str; 2] = ["retry", "give_up"];
/// Wait before undoing is tried again; it doubles each time.
const UNDO_BACKOFF_MS: u64 = 1_000;

/// A step that was done, and is undone.
const COMPENSATED: &str = "compensated";
/// A step that was done, and stays so although the plan failed.
pub(in crate::tools) const NOT_COMPENSATED: &str = "not_compensated";

/// A step that was carried out.
struct Done {
    name: String,
    tool: Tool,
    compensation: Option<Related>,
    arguments: Value,
    result: Value,
    key: String,
}

/// A step about to be carried out.
struct Ready {
    name: String,
    tool: Tool,
    compensation: Option<Related>,
    arguments: Value,
    key: String,
}

/// Something about to be undone.
struct Undoing<'u> {
    step: &'u str,
    /// The tool whose call is undone.
    undone: &'u str,
    /// The arguments people are shown.
    shown: String,
    /// What the call gave.
    result: &'u Value,
    key: &'u str,
    /// The tool that undoes it, and its arguments.
    by: Result<(&'u Tool, &'u Value), &'u ToolError>,
}

/// A plan under way.
#[derive(Default)]
struct Progress {
    results: Map<String, Value>,
    outcomes: Vec<StepOutcome>,
    done: Vec<Done>,
    /// Steps before this many are past the point of no return.
    pivot: usize,
}

impl Progress {
    fn note(&mut self, name: &str, tool: &str, status: &str, error: Option<ToolError>) {
        let (name, tool, status) = (name.to_owned(), tool.to_owned(), status.to_owned());
        self.outcomes.push(StepOutcome { name, tool, status, error });
    }

    fn renote(&mut self, name: &str, status: &str) {
        if let Some(outcome) = self.outcomes.iter_mut().find(|outcome| outcome.name == name) {
            outcome.status = status.to_owned();
        }
    }

    /// Takes what came of a step; gives the error that stops the plan.
    fn take(&mut self, ready: Ready, called: Called) -> Option<ToolError> {
        let Ready { name, tool, compensation, arguments, key } = ready;
        match called {
            Called::Done(given) => {
                let (result, error) = match given {
                    Ok(result) => (result, None),
                    Err(error) => (Value::Null, Some(error)),
                };
                self.note(&name, &tool.name, "done", error.clone());
                self.results.insert(name.clone(), result.clone());
                if tool.policy == EffectPolicy::Irreversible {
                    self.pivot = self.done.len() + 1;
                }
                self.done.push(Done { name, tool, compensation, arguments, result, key });
                // It was carried out, but nothing can be built on a result that can't be used.
                error
            }
            Called::Failed(error) => {
                self.note(&name, &tool.name, "failed", Some(error.clone()));
                Some(error)
            }
            Called::Undone(error) => {
                self.note(&name, &tool.name, COMPENSATED, Some(error.clone()));
                Some(error)
            }
        }
    }
}

impl Ready {
    /// Whether it needs a run of its own, because it may have to wait for a person or for other calls.
    fn apart(&self) -> bool {
        self.tool.confirmation.is_some() || self.tool.concurrency_key.is_some()
    }
}

/// What came of a step that has a run of its own.
async fn outcome_of(call: Result<Call, ToolError>) -> Result<Called, Failure> {
    let call = match call {
        Ok(call) => call,
        Err(error) => return Ok(Called::Failed(error)),
    };
    Ok(match call.result::<Outcome>().await {
        Ok(Outcome { status: OutcomeStatus::Done, result, error: None, .. }) => Called::Done(Ok(result)),
        Ok(Outcome { status: OutcomeStatus::Done, error: Some(error), .. }) => Called::Done(Err(error)),
        Ok(Outcome { status, error, .. }) => {
            let error = error.unwrap_or_else(|| ToolError::new("failed", "it failed"));
            if status == OutcomeStatus::Compensated { Called::Undone(error) } else { Called::Failed(error) }
        }
        // It was asked to end, and has undone what it did.
        Err(Failure::Child { error, .. }) => Called::Failed(ToolError::new("cancelled", error)),
        Err(ending) => return Err(ending),
    })
}

impl Run<'_> {
    pub(super) async fn plan(&self, plan: &Plan) -> Result<Outcome, Failure> {
        let deadline_at = match plan.deadline_ms {
            Some(ms) => Some(self.now_ms().await?.saturating_add(ms)),
            None => None,
        };
        let deadline_at = [deadline_at, self.execution.deadline_at].into_iter().flatten().min();
        let within = Execution { deadline_at, ..self.execution.clone() };
        let run = Run::new(self.ctx, self.parts, &within);
        let mut progress = Progress::default();
        let stopped = run.go(plan, &mut progress).await;
        let stopped = match (stopped, run.asked_to_end()) {
            (Ok(_), Some(reason)) => Err(Failure::Cancelled(reason)),
            (stopped, _) => stopped,
        };
        let failure = match stopped {
            Ok(None) => {
                let scope = json!({ "args": self.execution.arguments, "steps": progress.results });
                let result = match &plan.result {
                    None => Ok(Value::Object(progress.results.clone())),
                    Some(result) => template::fill(result, &scope),
                };
                let outcome = match result {
                    Ok(result) => Outcome::done(result),
                    Err(error) => {
                        let error = Some(ToolError::new("template", error.to_string()));
                        Outcome { error, ..Outcome::done(Value::Object(progress.results.clone())) }
                    }
                };
                return Ok(Outcome { steps: progress.outcomes, ..outcome });
            }
            Ok(Some(error)) => Ok(error),
            Err(Failure::Cancelled(reason)) => Err(reason),
            Err(ending) => return Err(ending),
        };
        self.unwind(&mut progress).await?;
        let has = |status: &str| progress.outcomes.iter().any(|outcome| outcome.status == status);
        let error = match failure {
            Ok(error) => error,
            // What was done and stays is said, so that whoever asks for the same again does not have it done twice.
            Err(reason) if has(NOT_COMPENSATED) => ToolError::new("cancelled", reason),
            Err(reason) => return Err(Failure::Cancelled(reason)),
        };
        let undone = has(COMPENSATED) && !has(NOT_COMPENSATED);
        let status = if undone { OutcomeStatus::Compensated } else { OutcomeStatus::Failed };
        Ok(Outcome { steps: progress.outcomes, ..Outcome::of(status, error) })
    }

    /// Goes through a plan; gives the error that stopped it.
    async fn go(&self, plan: &Plan, progress: &mut Progress) -> Result<Option<ToolError>, Failure> {
        for item in &plan.steps {
            let mut ready = Vec::new();
            for step in item.steps() {
                match self.ready(step, progress) {
                    Ok(Some(one)) => ready.push(one),
                    Ok(None) => {
                        progress.results.insert(step.name.clone(), Value::Null);
                        progress.note(&step.name, &step.tool, "skipped", None);
                    }
                    Err(error) => {
                        progress.note(&step.name, &step.tool, "failed", Some(error.clone()));
                        return Ok(Some(error));
                    }
                }
            }
            let stopped = match item {
                Item::One(_) => match ready.pop() {
                    Some(one) => self.go_on(one, progress).await?,
                    None => None,
                },
                Item::Group { .. } => self.together(ready, progress).await?,
            };
            if stopped.is_some() {
                return Ok(stopped);
            }
        }
        Ok(None)
    }

    /// A step with its arguments; `None` if its condition does not hold.
    fn ready(&self, step: &PlanStep, progress: &Progress) -> Result<Option<Ready>, ToolError> {
        let Execution { arguments, others, key, .. } = self.execution;
        let scope = json!({ "args": arguments, "steps": progress.results });
        if step.when.as_ref().is_some_and(|when| !when.holds(&scope)) {
            return Ok(None);
        }
        let Some(tool) = others.get(&step.tool) else {
            return Err(ToolError::new("tool_unknown", format!("there is no tool {:?} any more", step.tool)));
        };
        let mut tool = tool.clone();
        tool.retry = step.retry.unwrap_or(tool.retry);
        tool.timeout_ms = step.timeout_ms.unwrap_or(tool.timeout_ms);
        let arguments = match &step.arguments {
            None => arguments.clone(),
            Some(given) => {
                template::fill(given, &scope).map_err(|error| ToolError::new("template", error.to_string()))?
            }
        };
        let findings = schema::findings(&tool.parameters, &arguments);
        if !findings.is_empty() {
            let listed: Vec<String> = findings.iter().map(|one| format!("{}: {}", one.place, one.problem)).collect();
            return Err(ToolError::new("arguments_unfit", listed.join("; ")));
        }
        tool.compensation = step.compensation.clone().or(tool.compensation);
        let compensation = tool.compensation.clone();
        Ok(Some(Ready { key: format!("{key}:{}", step.name), name: step.name.clone(), tool, compensation, arguments }))
    }

    /// Carries a step out. Behind the point of no return a failure waits for a person instead of undoing what can't be.
    async fn go_on(&self, ready: Ready, progress: &mut Progress) -> Result<Option<ToolError>, Failure> {
        loop {
            let called = if ready.apart() {
                self.called_apart(&ready).await?
            } else if !self.keep_the_rate(&ready.tool, true).await? {
                Called::Failed(super::too_late())
            } else {
                self.call(&ready.name, &ready.tool, &ready.arguments, &ready.key, true).await?
            };
            match called {
                Called::Failed(error) if progress.pivot > 0 => {
                    if !self.only_forward(&ready, &error).await? {
                        return Ok(progress.take(ready, Called::Failed(error)));
                    }
                }
                called => return Ok(progress.take(ready, called)),
            }
        }
    }

    /// Asks a person whether a step behind the point of no return is tried again.
    async fn only_forward(&self, ready: &Ready, error: &ToolError) -> Result<bool, Failure> {
        let step = format!("{} stuck", ready.name);
        let since = self.now_ms().await?;
        let title = format!("{} failed after a step that can't be undone: {}", ready.name, error.message);
        let detail = json!({ "tool": ready.tool.name, "error": error, "key": ready.key });
        let attention = self.attention("stuck", &step, title, &STUCK_VERBS, since, detail);
        self.put(&attention, None, "tool.stuck").await?;
        loop {
            let said: Result<Option<Settled>, Failure> = self.ctx.wait_signal(&settle_signal(&step), None).await;
            match said {
                Ok(Some(said)) if said.answers(since, &STUCK_VERBS) => {
                    self.put(&attention, Some(0), "tool.settled").await?;
                    return Ok(said.verb == "retry");
                }
                Ok(_) => {}
                Err(ending) => {
                    // Asked to end, it is not stuck any more: it goes back as far as it can.
                    if matches!(ending, Failure::Cancelled(_)) {
                        self.put(&attention, Some(0), "tool.settled").await?;
                    }
                    return Err(ending);
                }
            }
        }
    }

    /// Carries steps out at the same time, each as a run of its own.
    async fn together(&self, steps: Vec<Ready>, progress: &mut Progress) -> Result<Option<ToolError>, Failure> {
        if steps.iter().any(|ready| ready.tool.policy != EffectPolicy::Pure) {
            self.stay_to_undo().await?;
        }
        let mut calls: Vec<(Ready, Result<Call, ToolError>)> = Vec::new();
        for ready in steps {
            let call = self.begin_apart(&ready).await?;
            calls.push((ready, call));
        }
        let mut stopped = None;
        for (ready, call) in calls {
            // The others are waited for: what they did has to be undone as well.
            let error = progress.take(ready, outcome_of(call).await?);
            stopped = stopped.or(error);
        }
        Ok(stopped)
    }

    /// Carries one step out as a run of its own, which can wait: for a person, or for its turn.
    async fn called_apart(&self, ready: &Ready) -> Result<Called, Failure> {
        if ready.tool.policy != EffectPolicy::Pure {
            self.stay_to_undo().await?;
        }
        outcome_of(self.begin_apart(ready).await?).await
    }

    /// Asked to end from here on, the plan has to be there to undo what runs of its steps did.
    async fn stay_to_undo(&self) -> Result<(), Failure> {
        self.ctx.commit(Commit { force: true, guarded: true, ..Commit::default() }).await?;
        Ok(())
    }

    async fn begin_apart(&self, ready: &Ready) -> Result<Result<Call, ToolError>, Failure> {
        let Ready { name, tool, arguments, key, .. } = ready;
        let asked =
            super::prompt(tool, arguments).and_then(|confirm| Ok((confirm, super::order_key(tool, arguments)?)));
        let (confirm, order) = match asked {
            Ok(found) => found,
            Err(error) => return Ok(Err(ToolError::new("template", error.to_string()))),
        };
        let execution = Execution {
            tool: tool.clone(),
            arguments: arguments.clone(),
            key: key.clone(),
            ledger: None,
            confirm,
            undoes: None,
            step: Some(name.clone()),
            ..self.execution.clone()
        };
        let workflow = if order.is_some() { ORDERED } else { WORKFLOW };
        let options = SpawnOptions { key: order, on_parent_end: OnParentEnd::Cancel, ..SpawnOptions::default() };
        Ok(Ok(self.ctx.spawn(workflow, &execution, options).await?))
    }

    /// Undoes what was done, the last first, and notes of each step what became of it.
    async fn unwind(&self, progress: &mut Progress) -> Result<(), Failure> {
        let pivot = progress.pivot;
        while let Some(done) = progress.done.pop() {
            let before_pivot = progress.done.len() < pivot;
            let status = match done.tool.policy {
                _ if before_pivot && done.tool.policy != EffectPolicy::Pure => NOT_COMPENSATED,
                EffectPolicy::Pure | EffectPolicy::Idempotent if done.compensation.is_none() => continue,
                EffectPolicy::Irreversible => NOT_COMPENSATED,
                EffectPolicy::Pure | EffectPolicy::Idempotent | EffectPolicy::Compensatable => {
                    let Done { name, tool, compensation, arguments, result, key } = &done;
                    let undone = self.undo(name, tool, compensation.as_ref(), arguments, result, key).await?;
                    if undone { COMPENSATED } else { NOT_COMPENSATED }
                }
            };
            progress.renote(&done.name, status);
        }
        Ok(())
    }

    /// Undoes one call, until it is undone or a person says that it is, or that it is to stay. Answers whether it is.
    pub(super) async fn undo(
        &self,
        name: &str,
        tool: &Tool,
        compensation: Option<&Related>,
        arguments: &Value,
        result: &Value,
        key: &str,
    ) -> Result<bool, Failure> {
        let undo = compensation.and_then(|related| Some((related, self.execution.others.get(&related.tool)?)));
        let by = match undo {
            None => Err(ToolError::new("tool_unknown", format!("the tool that undoes {} is not there", tool.name))),
            Some((related, undo)) => related
                .arguments(arguments, result, key)
                .map(|given| (undo, given))
                .map_err(|error| ToolError::new("template", error.to_string())),
        };
        let undoing = Undoing {
            step: &format!("undo {name}"),
            undone: &tool.name,
            shown: crate::tools::call::preview(tool, arguments),
            result,
            key: &format!("{key}:comp"),
            by: by.as_ref().map(|(undo, given)| (*undo, given)),
        };
        Ok(self.undo_by(undoing).await?.is_some())
    }

    /// Undoes a call of another execution, which is all that this one is there for.
    pub(super) async fn undo_alone(&self) -> Result<Outcome, Failure> {
        let Execution { tool, arguments, key, undoes, .. } = self.execution;
        let undone = undoes.as_ref().map_or("a call", |(_, view)| view.tool.as_str());
        let result = undoes.as_ref().and_then(|(_, view)| view.result.as_ref()).unwrap_or(&Value::Null);
        let shown = crate::tools::call::preview(tool, arguments);
        let undoing = Undoing { step: CALL_STEP, undone, shown, result, key, by: Ok((tool, arguments)) };
        Ok(match self.undo_by(undoing).await? {
            Some(given) => Outcome::done(given),
            None => {
                let text = "a person said that it is to stay as it is";
                Outcome::of(OutcomeStatus::Failed, ToolError::new(NOT_COMPENSATED, text))
            }
        })
    }

    /// Tries to undo until it is done, and gives what that gave. If it can't be, a person says that it is tried again, is
    /// undone, or is to stay: then it gives nothing.
    async fn undo_by(&self, undoing: Undoing<'_>) -> Result<Option<Value>, Failure> {
        let mut rounds = 0;
        loop {
            rounds += 1;
            if let Ok((undo, _)) = &undoing.by {
                self.keep_the_rate(undo, false).await?;
            }
            let error = match &undoing.by {
                Err(error) => (*error).clone(),
                Ok((undo, _)) if matches!(undo.provider, Provider::Steps(_) | Provider::Person(_)) => {
                    ToolError::new("plan", "neither a plan nor a person can undo: name a tool")
                }
                Ok((undo, given)) => match Box::pin(self.call(undoing.step, undo, given, undoing.key, false)).await? {
                    Called::Done(given) => return Ok(Some(given.unwrap_or(Value::Null))),
                    Called::Failed(error) | Called::Undone(error) => error,
                },
            };
            if undoing.by.is_ok() && rounds % UNDO_ROUNDS != 0 {
                let wait = UNDO_BACKOFF_MS << (rounds % UNDO_ROUNDS - 1);
                self.pause(wait, false).await?;
                continue;
            }
            match self.not_undone(&undoing, &error).await?.as_str() {
                "done" => return Ok(Some(Value::Null)),
                "leave" => return Ok(None),
                _ => {}
            }
        }
    }

    /// Has a person look after what could not be undone.
    async fn not_undone(&self, undoing: &Undoing<'_>, error: &ToolError) -> Result<String, Failure> {
        let Undoing { step, undone, shown, result, key, .. } = undoing;
        let since = self.now_ms().await?;
        let title = format!("{undone} could not be undone: {}", error.message);
        let detail = json!({
            "tool": undone, "arguments": shown, "result": result, "key": key, "error": error,
            "agent": self.execution.caller.agent, "session": self.execution.caller.session,
        });
        let verbs = ["retry", "done", "leave"];
        let attention = self.attention("compensation_failed", step, title, &verbs, since, detail);
        self.put(&attention, None, "tool.compensation_failed").await?;
        loop {
            let said: Result<Option<Settled>, Failure> = self.ctx.wait_signal(&settle_signal(step), None).await;
            match said {
                Ok(Some(settled)) if settled.answers(since, &verbs) => {
                    self.put(&attention, Some(0), "tool.settled").await?;
                    return Ok(settled.verb);
                }
                Ok(_) | Err(Failure::Cancelled(_)) => {}
                Err(ending) => return Err(ending),
            }
        }
    }
}
