//! One try at delivering something, a webhook's event as a reply's segment: sent, noted, and judged by what the endpoint
//! said.

pub mod schedule;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::egress::{Answer, CallLimits, Egress, Fault, Request};
use crate::settings::millis;

pub use schedule::{Next, Said, next};

/// Bytes of an answer's body that are kept with a try.
pub const ANSWER_BYTES_KEPT: usize = 1_024;

/// A try, as it is noted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The status, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The beginning of the answer's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// How long the status took, in milliseconds.
    #[serde(default)]
    pub answered_ms: u64,
    /// How long the whole took.
    #[serde(default)]
    pub took_ms: u64,
    /// Whom it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
}

/// Sends a request once: what the endpoint said, what is noted of it, and the answer, if there was one. A date by which the
/// endpoint wants the next try is counted from `now_ms`.
pub async fn make(
    egress: &dyn Egress,
    request: Request,
    limits: CallLimits,
    now_ms: u64,
) -> (Said, Made, Option<Answer>) {
    let began = Instant::now();
    let answered = egress.call(request, limits).await;
    let took_ms = millis(began.elapsed());
    match answered {
        Ok(answer) => {
            let ok = (200..300).contains(&answer.status);
            let kept = &answer.body[..answer.body.len().min(ANSWER_BYTES_KEPT)];
            let made = Made {
                status: Some(answer.status),
                error: (!ok).then(|| format!("the endpoint answered {}", answer.status)),
                answer: (!kept.is_empty()).then(|| String::from_utf8_lossy(kept).into_owned()),
                answered_ms: answer.answered_ms,
                took_ms,
                remote: answer.remote.map(|remote| remote.to_string()),
            };
            (Said::Status(answer.status, answer.retry_after_ms(now_ms)), made, Some(answer))
        }
        Err(fault) => {
            let said = if matches!(fault, Fault::Refused(_)) { Said::Refused } else { Said::Nothing };
            (said, Made { error: Some(fault.to_string()), took_ms, ..Made::default() }, None)
        }
    }
}
