//! What an execution waits for: an outcome that comes later, a person who knows, a person who does it.

use std::time::Duration;

use mainspring_client::{Commit, DocumentKey, Failure, PutDocument, settle_signal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Called, Run, Settled, json_of};
use crate::tools::template::{self, Encoding};
use crate::tools::tool::{Person, Related, Tool};
use crate::tools::tried::{self, ToolError, Tried};

/// The longest wait between two questions for an outcome.
const POLL_MS_MAX: u64 = 5 * 60 * 1_000;

/// The name of the signal that brings the outcome of a step.
pub fn callback_signal(step: &str) -> String {
    format!("callback:{step}")
}

/// An outcome that came later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Late {
    /// What it gave, if it was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ToolError>,
}

impl Run<'_> {
    /// Asks the provider whether a call was carried out. `None` if it does not know either.
    pub(super) async fn probe(
        &self,
        step: &str,
        tool: &Tool,
        arguments: &Value,
        key: &str,
    ) -> Result<Option<Tried>, Failure> {
        let Some(related) = &tool.probe else { return Ok(None) };
        self.find_out(&format!("{step} probe"), related, arguments, key).await
    }

    async fn find_out(
        &self,
        step: &str,
        related: &Related,
        arguments: &Value,
        key: &str,
    ) -> Result<Option<Tried>, Failure> {
        let Some(probe) = self.execution.others.get(&related.tool) else { return Ok(None) };
        let Ok(asked) = related.arguments(arguments, &Value::Null, key) else { return Ok(None) };
        let mut tries = 0;
        loop {
            tries += 1;
            // What was promised is found out, however late it is.
            let said: Tried =
                self.ctx.act(step, false, |intent| self.try_once(step, probe, &asked, key, intent, false)).await?;
            match said {
                Tried::Done(said) => return Ok(tried::of_probe(&said)),
                Tried::Failed { again: true, .. } | Tried::InDoubt(_) if tries < probe.retry.tries_max => {
                    self.pause(probe.retry.backoff_ms.max(100) * u64::from(tries), false).await?;
                }
                Tried::Failed { .. } | Tried::InDoubt(_) | Tried::DoneWithout(_) | Tried::Accepted => return Ok(None),
            }
        }
    }

    /// Waits for an outcome that was promised: for a callback, and by asking meanwhile.
    pub(super) async fn wait_for_outcome(
        &self,
        step: &str,
        tool: &Tool,
        arguments: &Value,
        key: &str,
    ) -> Result<Tried, Failure> {
        let expires_ms = tool.later.as_ref().map_or(0, |later| later.expires_ms);
        let poll = tool.later.as_ref().and_then(|later| later.poll.as_ref());
        let (mut waited_ms, mut wait_ms) = (0, poll.map_or(expires_ms, |poll| poll.every_ms));
        while waited_ms < expires_ms {
            let wait = wait_ms.min(expires_ms - waited_ms);
            let came: Result<Option<Late>, Failure> =
                self.ctx.wait_signal(&callback_signal(step), Some(Duration::from_millis(wait))).await;
            match came {
                Ok(Some(Late { error: Some(error), .. })) => {
                    return Ok(Tried::Failed { error, again: false, after_ms: None });
                }
                Ok(Some(Late { result, .. })) => return Ok(Tried::Done(result.unwrap_or(Value::Null))),
                // It still wants to know what there is to undo.
                Err(Failure::Cancelled(reason)) => {
                    self.hear_the_end(reason);
                    continue;
                }
                Err(ending) => return Err(ending),
                Ok(None) => waited_ms += wait,
            }
            if let Some(poll) = poll {
                if let Some(found) = self.find_out(&format!("{step} poll"), &poll.by, arguments, key).await? {
                    return Ok(found);
                }
                wait_ms = (wait_ms + wait_ms / 2).min(POLL_MS_MAX);
            }
        }
        let text = format!("it was accepted, and no outcome came within {expires_ms} ms");
        Ok(Tried::InDoubt(ToolError::new("no_outcome", text)))
    }

    /// Has a person say what became of a call. Nothing goes on as if it knew.
    pub(super) async fn ask_about(
        &self,
        step: &str,
        tool: &Tool,
        arguments: &Value,
        key: &str,
        error: &ToolError,
    ) -> Result<Settled, Failure> {
        let since = self.now_ms().await?;
        let caller = &self.execution.caller;
        let detail = json!({
            "tool": tool.name, "arguments": crate::tools::call::preview(tool, arguments), "key": key, "error": error,
            "agent": caller.agent, "session": caller.session, "turn_id": caller.turn_id,
        });
        let mut verbs = vec!["done", "not_done", "retry"];
        if tool.compensation.is_some() {
            verbs.push("compensate");
        }
        let title = format!("nobody knows whether {} was carried out: {}", tool.name, error.message);
        let attention = self.attention("unknown", step, title, &verbs, since, detail);
        let name = format!("{}/{step}", attention.run_id);
        let attend = DocumentKey::new(mainspring_client::ATTENTION, name);
        let mut documents =
            vec![PutDocument { key: attend, expect: None, body: json_of(&attention)?, ttl_ms: None, history: 0 }];
        documents.extend(self.unknown(error)?);
        let events = vec![("tool.unknown".to_owned(), self.told(json!({ "step": step, "error": error })))];
        let scope = self.execution.caller.session.clone();
        self.ctx.commit(Commit { force: true, documents, events, scope, ..Commit::default() }).await?;
        loop {
            let said: Result<Option<Settled>, Failure> = self.ctx.wait_signal(&settle_signal(step), None).await;
            match said {
                Ok(Some(settled)) if settled.answers(since, &verbs) => {
                    self.put(&attention, Some(0), "tool.settled").await?;
                    return Ok(settled);
                }
                // What there is to undo is known only when this is settled.
                Err(Failure::Cancelled(reason)) => self.hear_the_end(reason),
                Ok(_) => {}
                Err(ending) => return Err(ending),
            }
        }
    }

    /// Has a person do it: asks, reminds, asks somebody else, and gives up in the end.
    pub(super) async fn ask_whoever(
        &self,
        step: &str,
        tool: &Tool,
        person: &Person,
        arguments: &Value,
    ) -> Result<Called, Failure> {
        let scope = json!({ "args": arguments });
        let prompt = match template::fill_text(&person.prompt, &scope, Encoding::Plain) {
            Ok(prompt) => prompt,
            Err(error) => return Ok(Called::Failed(ToolError::new("template", error.to_string()))),
        };
        let since = self.now_ms().await?;
        let mut assignee = person.assignee.clone();
        let (mut waited_ms, mut reminders) = (0, 0_u32);
        while waited_ms < person.expires_ms {
            let detail = json!({
                "assignee": assignee, "form": person.form, "arguments": crate::tools::call::shown(tool, arguments),
                "reminders": reminders, "expires_at": since + person.expires_ms, "tool": tool.name,
                "agent": self.execution.caller.agent, "session": self.execution.caller.session,
            });
            let attention = self.attention("task", step, prompt.clone(), &["done", "decline"], since, detail);
            let told = if reminders == 0 { "tool.task_assigned" } else { "tool.task_reminded" };
            if let Err(ending) = self.ask(&attention, told, Vec::new()).await {
                if reminders > 0 {
                    self.put(&attention, Some(0), "tool.task_withdrawn").await?;
                }
                return Err(ending);
            }
            let left = person.expires_ms - waited_ms;
            // Forty reminders, then silence until it expires.
            let wait = person.remind_after_ms.filter(|_| reminders < 40).unwrap_or(left).min(left);
            let said: Result<Option<Settled>, Failure> =
                self.ctx.wait_signal(&settle_signal(step), Some(Duration::from_millis(wait))).await;
            let over = match &said {
                Ok(Some(settled)) if settled.verb == "done" => Some("tool.task_done"),
                Ok(Some(_)) => Some("tool.task_declined"),
                Err(_) => Some("tool.task_withdrawn"),
                Ok(None) => None,
            };
            if let Some(told) = over {
                self.put(&attention, Some(0), told).await?;
            }
            match said? {
                Some(Settled { verb, result, .. }) if verb == "done" => return Ok(Called::Done(Ok(result))),
                Some(Settled { .. }) => {
                    return Ok(Called::Failed(ToolError::new("declined", "the person who was asked declined")));
                }
                None => {}
            }
            waited_ms += wait;
            reminders += 1;
            if let Some(other) = &person.escalate_to {
                assignee = Some(other.clone());
            }
            if waited_ms >= person.expires_ms {
                self.put(&attention, Some(0), "tool.task_expired").await?;
            }
        }
        Ok(Called::Failed(ToolError::new("expired", "nobody did it in time")))
    }
}
