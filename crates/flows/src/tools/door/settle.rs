//! What people and providers say about executions: yes and no, what became of one, undo it, leave it; and late outcomes.

use bytes::Bytes;
use mainspring_client::{
    Attention, ClientError, DocumentKey, EngineError, Guard, PutDocument, Record, Refusal, RunId, settle_signal,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, Door, ToolCallError};
use crate::calls::{EffectPolicy, EffectStatus, EffectView};
use crate::records;
use crate::tools::call::{Execution, Outcome, OutcomeStatus};
use crate::tools::run::{self, Late, callback_signal};
use crate::tools::schema;
use crate::tools::tried::ToolError;

/// The kind of documents that remember outcomes that came later.
const CALLBACK: &str = "tool_callback";
/// How long they are remembered.
const CALLBACK_TTL_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// What a person says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// One of the verbs of what is asked.
    pub verb: String,
    /// What the call gave, or what the person fills in.
    #[serde(default)]
    pub result: Value,
    /// Why, for whoever looks later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What becomes of an outcome that came later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallbackAnswer {
    /// It was taken.
    Taken,
    /// It had been taken before; nothing changes.
    Repeated,
    /// It came after the end. It is on record, and changes nothing.
    Late,
    /// Another outcome was taken before; the first counts.
    Conflict,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    late: Late,
    told: bool,
}

impl Door {
    /// Everything that waits for a person, the oldest first. May lag.
    ///
    /// # Errors
    /// [`ToolCallError`].
    pub async fn attention(&self) -> Result<Vec<Attention>, ToolCallError> {
        let rows = self.client.documents(mainspring_client::ATTENTION, "").await?;
        let mut waiting: Vec<Attention> =
            rows.iter().filter_map(|(_, row)| serde_json::from_slice(&row.body).ok()).collect();
        waiting.sort_by_key(|one| one.since);
        Ok(waiting)
    }

    /// Settles what a run asks of a person. Durable when it returns.
    ///
    /// # Errors
    /// [`ToolCallError::Unusable`] if nothing is asked there, or not this.
    pub async fn settle(&self, run: RunId, step: &str, verdict: &Verdict, by: &str) -> Result<(), ToolCallError> {
        let key = DocumentKey::new(mainspring_client::ATTENTION, format!("{run}/{step}"));
        let Some(row) = self.client.document(key).await? else {
            let text = format!("run {run} asks nothing of a person at step {step:?}: it may be settled already");
            return Err(ToolCallError::Conflict(text));
        };
        let attention: Attention = serde_json::from_slice(&row.body)
            .map_err(|error| ToolCallError::Unusable(format!("what is asked is not understood: {error}")))?;
        if !attention.verbs.contains(&verdict.verb) {
            let text = format!("{:?} is no answer here: use one of {}", verdict.verb, attention.verbs.join(", "));
            return Err(ToolCallError::Unusable(text));
        }
        if let Some(form) = attention.detail.get("form").filter(|form| !form.is_null() && verdict.verb == "done") {
            let findings = schema::findings(form, &verdict.result);
            if !findings.is_empty() {
                return Err(ToolCallError::Arguments(findings));
            }
        }
        let answer = json!({
            "verb": verdict.verb, "result": verdict.result, "note": verdict.note, "by": by, "since": attention.since,
        });
        let told = json!({
            "execution_id": run.to_string(), "step": step, "kind": attention.kind, "verb": verdict.verb,
            "note": verdict.note, "by": by, "tool": attention.detail["tool"], "agent": attention.detail["agent"],
            "session": attention.detail["session"],
        });
        let session = attention.detail.get("session").and_then(Value::as_str);
        // First who said it, then what follows from it: after a crash in between it is asked again, and nothing was done
        // that nobody is on record for.
        self.client.emit("tool.answered", session, &told).await?;
        self.client.signal(run, &settle_signal(step), &answer).await?;
        Ok(())
    }

    /// Asks an execution to end: what it has not begun it does not begin, and what it did is undone. Durable when it
    /// returns.
    ///
    /// # Errors
    /// [`ToolCallError`].
    pub async fn cancel(&self, run: RunId, reason: &str) -> Result<(), ToolCallError> {
        self.read(run).await?;
        Ok(self.client.cancel(run, reason).await?)
    }

    /// Has a call that was carried out undone, by the tool it names for that. Asked for again it is the same undoing.
    /// Answers the execution that undoes it.
    ///
    /// # Errors
    /// [`ToolCallError::Unusable`] if there is nothing to undo, or no way.
    pub async fn compensate(&self, run: RunId, by: &str) -> Result<RunId, ToolCallError> {
        let (execution, row) = self.read(run).await?;
        let unusable = |text: &str| ToolCallError::Unusable(text.to_owned());
        let ledger = execution.ledger.clone().ok_or_else(|| unusable("a step of a plan is undone by its plan"))?;
        let Some(output) = row.output else {
            return Err(unusable("it is not over: cancel it, and it undoes what it did"));
        };
        let bytes = self.client.payload(output).await.map_err(ClientError::from)?;
        let outcome: Outcome =
            serde_json::from_slice(&bytes).map_err(|_| unusable("what came of it is not understood"))?;
        if outcome.status != OutcomeStatus::Done {
            return Err(unusable("it was not carried out, or is undone already: there is nothing to undo"));
        }
        let related = execution.tool.compensation.clone();
        let related = related.ok_or_else(|| unusable("its tool names none that undoes it"))?;
        let undo = self.catalogue().tool(&related.tool).await?;
        let undo = undo.ok_or_else(|| unusable("the tool that undoes it is not in the catalogue any more"))?;
        let arguments = related.arguments(&execution.arguments, &outcome.result, &execution.key);
        let arguments = arguments.map_err(|error| ToolCallError::Unusable(error.to_string()))?;
        let view = run::entry(&execution, &run.to_string(), EffectStatus::Done, Some(outcome.result), outcome.error);
        let name = format!("{ledger}:comp:{run}");
        let others = self.catalogue().others(&undo.tool).await?;
        let undoing = Execution {
            version: undo.version,
            others,
            arguments,
            key: format!("{}:comp", execution.key),
            ledger: Some(name.clone()),
            caller: crate::tools::OnBehalf { by: Some(by.to_owned()), ..execution.caller.clone() },
            deadline_at: None,
            confirm: None,
            undoes: Some((ledger, view)),
            remember_ms: execution.remember_ms,
            step: None,
            tool: undo.tool,
        };
        let known = self.client.document(DocumentKey::new(records::EFFECT, name.as_str())).await?;
        let expect = match known {
            None => 0,
            Some(row) => match (serde_json::from_slice::<EffectView>(&row.body).ok().map(|view| view.status), row.by) {
                // It came to nothing, or a person let it be: now it is wanted again.
                (Some(EffectStatus::Failed), _) | (_, None) => row.version,
                (_, Some(run)) => return Ok(run),
            },
        };
        let entry = run::entry(&undoing, "", EffectStatus::Started, None, None);
        let body = run::json_of(&EffectView { execution_id: None, ..entry })?;
        let key = DocumentKey::new(records::EFFECT, name);
        let put = PutDocument { key: key.clone(), expect: Some(expect), body, ttl_ms: None, history: 0 };
        let data = run::about(&undoing, "").to_string();
        let event = Some(("tool.compensating".to_owned(), undoing.caller.session.clone(), Bytes::from(data)));
        let record = Record { put, fence: None, guard: Guard::default(), event, rates: Vec::new() };
        match self.client.start_recorded(run::WORKFLOW, None, &undoing, record).await {
            Ok(run) => Ok(run),
            Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => {
                let row = self.client.document(key).await?;
                row.and_then(|row| row.by).ok_or_else(|| unusable("it is being undone"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes an outcome that comes later, from whoever is entitled to it. The first one counts. Durable when it returns.
    ///
    /// # Errors
    /// [`ToolCallError::NoExecution`] if there is none.
    pub async fn callback(&self, run: RunId, step: &str, late: Late) -> Result<CallbackAnswer, ToolCallError> {
        let (execution, row) = self.read(run).await?;
        let key = DocumentKey::new(CALLBACK, format!("{run}/{step}"));
        let remember = |told, expect| -> Result<PutDocument, ToolCallError> {
            let body = run::json_of(&Remembered { late: late.clone(), told })?;
            Ok(PutDocument { key: key.clone(), expect: Some(expect), body, ttl_ms: Some(CALLBACK_TTL_MS), history: 0 })
        };
        let event = |name: &str, answer| {
            let mut data = run::about(&execution, &run.to_string());
            data["step"] = json!(step);
            data["answer"] = json!(answer);
            Some((name.to_owned(), execution.caller.session.clone(), Bytes::from(data.to_string())))
        };
        let over = row.state.ended();
        let answer = if over { CallbackAnswer::Late } else { CallbackAnswer::Taken };
        let told = event("tool.callback", answer);
        let first = self.client.put_document(remember(false, 0)?, None, Guard::default(), told).await;
        let version = match first {
            Ok(version) => version,
            Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => {
                let Some(row) = self.client.document(key.clone()).await? else { return Ok(CallbackAnswer::Conflict) };
                let before: Remembered = serde_json::from_slice(&row.body)
                    .map_err(|error| ToolCallError::Unusable(format!("what came before is not understood: {error}")))?;
                if before.late != late {
                    let told = event("tool.callback_conflict", CallbackAnswer::Conflict);
                    if let Some((name, scope, data)) = told {
                        let data: Value = serde_json::from_slice(&data).unwrap_or_default();
                        self.client.emit(&name, scope.as_deref(), &data).await?;
                    }
                    return Ok(CallbackAnswer::Conflict);
                }
                if before.told || over {
                    return Ok(CallbackAnswer::Repeated);
                }
                row.version
            }
            Err(error) => return Err(error.into()),
        };
        if over {
            return Ok(CallbackAnswer::Late);
        }
        // Whether it waits for the outcome, or for a person because none came in time: this is what both wait for.
        self.client.signal(run, &callback_signal(step), &late).await?;
        // The question may be asked only after this, if the provider's own answer is lost.
        let verdict = match &late.error {
            None => json!({ "verb": "done", "result": late.result, "by": "callback" }),
            Some(_) => json!({ "verb": "not_done", "by": "callback" }),
        };
        if let Err(error) = self.client.signal(run, &settle_signal(step), &verdict).await {
            tracing::debug!(%run, %error, "it has ended on account of the outcome already");
        }
        let _ = self.client.put_document(remember(true, version)?, None, Guard::default(), None).await;
        Ok(CallbackAnswer::Taken)
    }

    /// Undoes what earlier attempts of a turn group did, where their tools say so: the last first. What is under way is
    /// asked to end, which undoes it. Each is waited for at most so long; it goes on all the same.
    ///
    /// # Errors
    /// [`ToolCallError`].
    pub async fn undo_group(
        &self,
        group: RunId,
        wait: std::time::Duration,
    ) -> Result<Vec<(String, String)>, ToolCallError> {
        let rows = self.client.documents(records::EFFECT, &records::of_group(group, "")).await?;
        let mut effects: Vec<(EffectView, RunId)> = rows
            .iter()
            .filter_map(|(_, row)| {
                let view: EffectView = serde_json::from_slice(&row.body).ok()?;
                let run = view.execution_id.as_ref().and_then(|id| id.parse().ok()).or(row.by)?;
                let open = matches!(view.status, EffectStatus::Started | EffectStatus::Done);
                (view.policy == EffectPolicy::Compensatable && open).then_some((view, run))
            })
            .collect();
        // Runs' ids are in the order of their beginning.
        effects.sort_by_key(|(_, run)| std::cmp::Reverse(*run));
        let mut undone = Vec::new();
        for (view, run) in effects {
            let Ok((execution, row)) = self.read(run).await else { continue };
            if execution.tool.on_supersede() == crate::tools::tool::OnSupersede::Keep || execution.undoes.is_some() {
                continue;
            }
            if !row.state.ended() {
                self.client.cancel(run, "the turn it was done in is begun anew").await?;
                let _ = tokio::time::timeout(wait, self.client.wait::<Value>(run)).await;
            }
            let answer = match self.compensate(run, "superseded turn").await {
                Ok(undoing) => self.follow(undoing, false, wait).await?,
                // It was cancelled before it was done.
                Err(ToolCallError::Unusable(_)) => self.execution(run).await?,
                Err(error) => return Err(error),
            };
            undone.push((view.tool, answer.status));
        }
        Ok(undone)
    }
}

/// A status that ends a call, as a callback brings it.
///
/// # Errors
/// What to send instead.
pub fn late_of(status: &str, result: Option<Value>, error: Option<ToolError>) -> Result<Late, String> {
    match (status, error) {
        ("success" | "done", None) => Ok(Late { result: Some(result.unwrap_or(Value::Null)), error: None }),
        ("error" | "failed", Some(error)) => Ok(Late { result: None, error: Some(error) }),
        ("error" | "failed", None) => Ok(Late { result: None, error: Some(ToolError::new("failed", "it failed")) }),
        ("success" | "done", Some(_)) => Err("a success has no error".to_owned()),
        (other, _) => Err(format!("status {other:?} ends nothing: send `success` or `error`")),
    }
}

impl Answer {
    /// Whether it is over.
    pub fn over(&self) -> bool {
        matches!(self.status.as_str(), "done" | "failed" | "declined" | "compensated")
    }
}
