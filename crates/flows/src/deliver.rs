//! Delivery of a reply to a channel's endpoint: in order per session, at least once, always under the same id.

use std::time::Duration;

use mainspring_client::{Failure, KeyRule, KeyStrategy, RetryRule, TaskContext, Worker, WorkflowDef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The workflow's name.
pub const WORKFLOW: &str = "deliver-reply";
/// How long the endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(10);

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

pub(crate) fn offer(worker: Worker, http: reqwest::Client) -> Worker {
    worker.task(definition(), move |_: TaskContext, delivery: Delivery| {
        let http = http.clone();
        async move { deliver(&http, &delivery).await }
    })
}

async fn deliver(http: &reqwest::Client, delivery: &Delivery) -> Result<u16, Failure> {
    let Delivery { url, reply_id, turn_id, session, text, data } = delivery;
    let body = serde_json::json!({
        "reply_id": reply_id, "turn_id": turn_id, "session": session, "text": text, "data": data,
    });
    let response = http
        .post(url)
        .timeout(TIMEOUT)
        .header("Mainspring-Reply-Id", reply_id)
        .header("Idempotency-Key", reply_id)
        .json(&body)
        .send()
        .await
        .map_err(|error| Failure::Retryable(format!("{url} can't be reached: {error}")))?;
    let status = response.status();
    if status.is_success() {
        return Ok(status.as_u16());
    }
    let error = format!("{url} answered {status}");
    let hopeless = status.is_client_error() && status.as_u16() != 408 && status.as_u16() != 429;
    Err(if hopeless { Failure::Final(error) } else { Failure::Retryable(error) })
}
