//! Delivery of a reply to a channel's endpoint: in order per session, at least once, always under the same id.

use std::sync::Arc;

use mainspring_client::{KeyRule, KeyStrategy, RetryRule, TaskContext, Worker, WorkflowDef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::outside::Outside;

/// The workflow's name.
pub const WORKFLOW: &str = "deliver-reply";

/// What is delivered, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Where.
    pub url: String,
    /// The id by which the endpoint recognises a repeat.
    pub reply_id: String,
    /// The turn it answers.
    pub turn_id: String,
    /// The session.
    pub session: String,
    /// The reply's text.
    pub text: String,
    /// Whatever else goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// The definition: one delivery at a time per session, tried again after 1, 5, 25 s, then every minute, 12 times.
pub fn definition() -> WorkflowDef {
    let mut def = WorkflowDef::single(WORKFLOW, false);
    def.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    def.tasks[0].retry =
        RetryRule { attempts_max: 12, backoff_ms: 1_000, backoff_percent: 500, backoff_max_ms: 60_000 };
    def.tasks[0].execution_timeout_ms = Some(30_000);
    def
}

pub(crate) fn offer(worker: Worker, outside: Arc<dyn Outside>) -> Worker {
    worker.task(definition(), move |_: TaskContext, delivery: Delivery| {
        let outside = outside.clone();
        async move { outside.deliver(&delivery).await }
    })
}
