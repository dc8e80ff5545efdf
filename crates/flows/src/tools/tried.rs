//! What came of a try, and what follows from it. Pure: who calls whom is elsewhere.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tool::Retry;
use crate::calls::EffectPolicy;
use crate::egress::{Answer, BodyEnd, Fault};

/// The longest a provider can make us wait before the next try, in milliseconds: beyond that a call is better tried early
/// than forgotten about.
const RETRY_AFTER_MS_MAX: u64 = 60 * 60 * 1_000;
/// Bytes of an error's text that are kept.
const ERROR_BYTES_MAX: usize = 2_000;

/// Why a call failed, or what is not known about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolError {
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

impl ToolError {
    /// Of a word and a sentence, cut to what is kept.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.len() > ERROR_BYTES_MAX {
            let end = (0..=ERROR_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        ToolError { code: code.to_owned(), message }
    }
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tried {
    /// It was carried out, and gave this.
    Done(Value),
    /// It was carried out, and what it gave can't be used.
    DoneWithout(ToolError),
    /// It was certainly not carried out.
    Failed {
        /// Why.
        error: ToolError,
        /// Whether another try may help.
        again: bool,
        /// When, if the provider says, in milliseconds.
        after_ms: Option<u64>,
    },
    /// It may have been carried out.
    InDoubt(ToolError),
    /// It is being carried out, and the outcome comes later.
    Accepted,
}

impl Tried {
    /// Why it did not go well.
    pub fn error(&self) -> Option<&ToolError> {
        match self {
            Tried::Failed { error, .. } | Tried::DoneWithout(error) | Tried::InDoubt(error) => Some(error),
            Tried::Done(_) | Tried::Accepted => None,
        }
    }
}

/// What follows from a try.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// The call is done.
    Done(Result<Value, ToolError>),
    /// The call failed, and nothing was done.
    Failed(ToolError),
    /// It is tried again, under the same key, after so many milliseconds.
    Again(u64),
    /// The provider is asked whether it was carried out.
    Probe(ToolError),
    /// Nobody knows. A person decides.
    Unknown(ToolError),
    /// The outcome is waited for.
    Wait,
}

/// What follows, for a tool of this policy, after so many tries. `probe`: whether the provider can be asked, and was not
/// asked about this try yet.
pub fn next(policy: EffectPolicy, tried: Tried, tries: u32, retry: Retry, probe: bool) -> Next {
    let backoff = || retry.backoff_ms.saturating_mul(1 << (tries - 1).min(30)).min(retry.backoff_max_ms);
    let more = tries < retry.tries_max;
    match tried {
        Tried::Done(result) => Next::Done(Ok(result)),
        Tried::DoneWithout(error) => match policy {
            // What only reads and gave nothing that can be used has failed.
            EffectPolicy::Pure => Next::Failed(error),
            EffectPolicy::Idempotent | EffectPolicy::Compensatable | EffectPolicy::Irreversible => {
                Next::Done(Err(error))
            }
        },
        Tried::Failed { again: true, after_ms, .. } if more => {
            Next::Again(after_ms.unwrap_or(0).min(RETRY_AFTER_MS_MAX).max(backoff()))
        }
        Tried::Failed { error, .. } => Next::Failed(error),
        Tried::InDoubt(error) => match policy {
            EffectPolicy::Pure | EffectPolicy::Idempotent if more => Next::Again(backoff()),
            EffectPolicy::Pure => Next::Failed(error),
            _ if probe => Next::Probe(error),
            EffectPolicy::Idempotent | EffectPolicy::Compensatable | EffectPolicy::Irreversible => Next::Unknown(error),
        },
        Tried::Accepted => Next::Wait,
    }
}

/// Reads the answer of an HTTP API.
pub fn of_answer(answer: &Answer, not_done: &[u16], later: bool, result_at: Option<&str>, now_ms: u64) -> Tried {
    let status = answer.status;
    let said = |code: &str| {
        let text = String::from_utf8_lossy(&answer.body);
        ToolError::new(
            code,
            format!("the provider answered {status}: {}", text.trim().chars().take(500).collect::<String>()),
        )
    };
    let after_ms = answer.retry_after_ms(now_ms);
    match status {
        202 if later => Tried::Accepted,
        200..=299 => match answer.end {
            BodyEnd::Whole if is_stream(answer) => of_stream(&answer.body),
            BodyEnd::Whole => of_body(&answer.body, result_at),
            BodyEnd::Cut => Tried::DoneWithout(ToolError::new(
                "result_too_large",
                "the provider's answer is larger than the tool's result_bytes_max",
            )),
            BodyEnd::Broken => Tried::InDoubt(ToolError::new("answer_broken", "the provider's answer broke off")),
        },
        408 | 425 | 429 => Tried::Failed { error: said("provider_busy"), again: true, after_ms },
        _ if not_done.contains(&status) => Tried::Failed { error: said("provider_busy"), again: true, after_ms },
        300..=499 => Tried::Failed { error: said("provider_refused"), again: false, after_ms: None },
        _ => Tried::InDoubt(said("provider_failed")),
    }
}

fn is_stream(answer: &Answer) -> bool {
    let kind = answer.header("content-type").unwrap_or_default();
    kind.starts_with("application/x-ndjson") || kind.starts_with("application/ndjson")
}

/// The end of a stream of lines. One without `final_result` or `error` says nothing about the outcome.
fn of_stream(body: &[u8]) -> Tried {
    let last = body.split(|byte| *byte == b'\n').rfind(|line| !line.trim_ascii().is_empty());
    let last: Value = last.and_then(|line| serde_json::from_slice(line).ok()).unwrap_or(Value::Null);
    match last.get("type").and_then(Value::as_str) {
        Some("final_result") => {
            let result = last.get("result").or_else(|| last.get("output")).cloned().unwrap_or(Value::Null);
            Tried::Done(result)
        }
        Some("error") => {
            let error = last.get("error").unwrap_or(&last);
            let said = |part: &str| error.get(part).and_then(Value::as_str).unwrap_or("failed").to_owned();
            let again = error.get("retry").and_then(Value::as_bool).unwrap_or(false);
            Tried::Failed { error: ToolError::new(&said("code"), said("message")), again, after_ms: None }
        }
        _ => Tried::InDoubt(ToolError::new("stream_cut", "the provider's stream ended without a final line")),
    }
}

fn of_body(body: &[u8], result_at: Option<&str>) -> Tried {
    let whole = if body.trim_ascii().is_empty() {
        Value::Null
    } else {
        match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(_) if result_at.is_none() => Value::String(String::from_utf8_lossy(body).into_owned()),
            Err(error) => {
                return Tried::DoneWithout(ToolError::new(
                    "result_not_json",
                    format!("the provider's answer is no JSON: {error}"),
                ));
            }
        }
    };
    match result_at {
        None => Tried::Done(whole),
        Some(path) => match super::template::look(&whole, path) {
            Some(found) => Tried::Done(found.clone()),
            None => {
                Tried::DoneWithout(ToolError::new("result_missing", format!("the provider's answer has no {path}")))
            }
        },
    }
}

/// Reads a call that got no answer.
pub fn of_fault(fault: &Fault) -> Tried {
    match fault {
        Fault::Refused(refused) => {
            let error = ToolError::new("address_refused", refused.to_string());
            Tried::Failed { error, again: false, after_ms: None }
        }
        Fault::Unreached(cause) => {
            let error = ToolError::new("provider_unreachable", cause.clone());
            Tried::Failed { error, again: true, after_ms: None }
        }
        Fault::Unanswered(cause) => Tried::InDoubt(ToolError::new("no_answer", cause.clone())),
    }
}

/// What a probe said: `{"state": "done", "result": ...}`, `{"state": "not_done"}`; anything else is not known.
pub fn of_probe(said: &Value) -> Option<Tried> {
    match said.get("state").and_then(Value::as_str)? {
        "done" => Some(Tried::Done(said.get("result").cloned().unwrap_or(Value::Null))),
        "not_done" => {
            let error = ToolError::new("not_carried_out", "the provider says that it did not carry it out");
            Some(Tried::Failed { error, again: true, after_ms: None })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    const ALL: [EffectPolicy; 4] =
        [EffectPolicy::Pure, EffectPolicy::Idempotent, EffectPolicy::Compensatable, EffectPolicy::Irreversible];

    fn doubt() -> Tried {
        Tried::InDoubt(ToolError::new("no_answer", "gone"))
    }

    #[test]
    fn what_may_have_happened_is_only_done_again_if_that_does_no_harm() {
        let retry = Retry { tries_max: 3, backoff_ms: 100, backoff_max_ms: 150 };
        let after = |tries| ALL.map(|policy| next(policy, doubt(), tries, retry, false));
        let unknown = || Next::Unknown(ToolError::new("no_answer", "gone"));
        assert_eq!(after(1), [Next::Again(100), Next::Again(100), unknown(), unknown()]);
        assert_eq!(after(2), [Next::Again(150), Next::Again(150), unknown(), unknown()]);
        assert_eq!(after(3), [Next::Failed(ToolError::new("no_answer", "gone")), unknown(), unknown(), unknown()]);
        let asked = ALL.map(|policy| next(policy, doubt(), 3, retry, true));
        let probe = || Next::Probe(ToolError::new("no_answer", "gone"));
        assert_eq!(asked[1..], [probe(), probe(), probe()]);
    }

    #[test]
    fn what_certainly_did_not_happen_is_tried_again_by_any_policy() {
        let retry = Retry { tries_max: 2, backoff_ms: 100, backoff_max_ms: 1_000 };
        let error = ToolError::new("provider_busy", "later");
        let failed = || Tried::Failed { error: error.clone(), again: true, after_ms: Some(120) };
        for policy in ALL {
            assert_eq!(next(policy, failed(), 1, retry, true), Next::Again(120));
            assert_eq!(next(policy, failed(), 2, retry, true), Next::Failed(error.clone()));
            let never = Tried::Failed { error: error.clone(), again: false, after_ms: None };
            let patient = Tried::Failed { error: error.clone(), again: true, after_ms: Some(u64::MAX) };
            assert_eq!(next(policy, patient, 1, retry, true), Next::Again(RETRY_AFTER_MS_MAX));
            assert_eq!(next(policy, never, 1, retry, true), Next::Failed(error.clone()));
        }
    }

    fn answer(status: u16, body: &'static str, end: BodyEnd) -> Answer {
        let headers = vec![("retry-after".to_owned(), "7".to_owned())];
        Answer {
            status,
            headers,
            body: Bytes::from_static(body.as_bytes()),
            end,
            answered_ms: 1,
            took_ms: 1,
            remote: None,
        }
    }

    #[test]
    fn each_answer_of_a_provider_has_a_stated_outcome() {
        let read = |status, body, end| of_answer(&answer(status, body, end), &[503], true, None, 0);
        assert_eq!(read(200, "{}", BodyEnd::Whole), Tried::Done(json!({})));
        assert_eq!(read(204, "", BodyEnd::Whole), Tried::Done(Value::Null));
        assert_eq!(read(200, "ok", BodyEnd::Whole), Tried::Done(json!("ok")));
        assert_eq!(read(202, "", BodyEnd::Whole), Tried::Accepted);
        assert!(matches!(read(200, "{}", BodyEnd::Cut), Tried::DoneWithout(_)));
        assert!(matches!(read(200, "{", BodyEnd::Broken), Tried::InDoubt(_)));
        assert!(matches!(read(429, "", BodyEnd::Whole), Tried::Failed { again: true, after_ms: Some(7_000), .. }));
        assert!(matches!(read(503, "", BodyEnd::Whole), Tried::Failed { again: true, .. }));
        assert!(matches!(read(302, "", BodyEnd::Whole), Tried::Failed { again: false, .. }));
        assert!(matches!(read(422, "", BodyEnd::Whole), Tried::Failed { again: false, .. }));
        assert!(matches!(read(500, "", BodyEnd::Whole), Tried::InDoubt(_)));
        let at = |path| of_answer(&answer(200, "{\"data\":{\"id\":5}}", BodyEnd::Whole), &[], false, Some(path), 0);
        assert_eq!(at("data.id"), Tried::Done(json!(5)));
        assert!(matches!(at("data.no"), Tried::DoneWithout(_)));
    }
}
