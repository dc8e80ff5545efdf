//! What is sent: the body, the same for each try, and with which secrets it is signed. Pure.
//!
//! As Standard Webhooks has it: <https://www.standardwebhooks.com>.

use bytes::Bytes;
use mainspring_client::{EventRow, TenantId};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::subscription::{Choices, KeptSecret};
use crate::session::SessionKey;

/// Bytes of an event's data that are sent. Of more, only how much there is.
pub const DATA_BYTES_MAX: usize = 64 * 1024;

/// The id by which a receiver recognises a repeat: the same for each try, and for each replay.
pub fn delivery_id(subscription: &str, seq: u64) -> String {
    format!("msg_{subscription}_{seq:016x}")
}

/// The id of an event.
pub fn event_id(seq: u64) -> String {
    format!("evt_{seq:016x}")
}

/// A session, recognisable as the same without saying whose it is.
pub fn opaque_session(session: &str) -> String {
    let hash = Sha256::digest(session.as_bytes());
    hash[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    id: String,
    event_id: String,
    schema_version: &'static str,
    sequence: u64,
    tenant_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn_id: Option<String>,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_bytes_omitted: Option<usize>,
}

/// The body for one event. Byte for byte the same whenever it is made.
pub fn body(tenant: TenantId, subscription: &str, choices: &Choices, seq: u64, event: &EventRow) -> Bytes {
    let session = event.scope.as_deref().and_then(|scope| Some((scope, SessionKey::parse(scope)?)));
    // Data is JSON by convention; what is none is left out, as if it were too much.
    let fits = event.data.len() <= DATA_BYTES_MAX;
    let data: Option<&RawValue> = fits.then(|| serde_json::from_slice(&event.data).ok()).flatten();
    let timestamp = i64::try_from(event.at).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let body = Body {
        kind: &event.name,
        timestamp: timestamp.unwrap_or_default().to_string(),
        id: delivery_id(subscription, seq),
        event_id: event_id(seq),
        schema_version: "1.0",
        sequence: seq,
        tenant_id: tenant.to_string(),
        agent_id: session.as_ref().map(|(_, key)| key.agent.clone()),
        session_id: session.as_ref().map(|(scope, _)| opaque_session(scope)),
        session_key: session.as_ref().map(|(scope, _)| *scope).filter(|_| choices.show_session),
        turn_id: event.run.map(|run| run.to_string()),
        data: data.unwrap_or(RawValue::NULL),
        data_bytes_omitted: data.is_none().then_some(event.data.len()),
    };
    // Plain data always encodes.
    serde_json::to_vec(&body).unwrap_or_default().into()
}

/// The secrets a request is signed with at a time: the present one, and those before it that are still good.
pub fn signing(secrets: &[KeptSecret], now_ms: u64) -> impl Iterator<Item = &KeptSecret> {
    secrets.iter().rev().filter(move |secret| secret.until.is_none_or(|until| now_ms < until))
}

/// The secret that was the present one at a time.
pub fn secret_at(secrets: &[KeptSecret], at_ms: u64) -> Option<&KeptSecret> {
    secrets.iter().rev().find(|secret| secret.since <= at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Sealer;
    use crate::settings::Secret;
    use crate::sign;

    fn event(data: &str) -> EventRow {
        let scope = Some(SessionKey::new(TenantId(7), "orders", "+49123", "sms").unwrap().to_string());
        let data = Bytes::from(data.to_owned());
        EventRow { name: "turn.completed".to_owned(), scope, at: 1_700_000_000_123, run: None, data, metadata: None }
    }

    #[test]
    fn a_body_says_what_happened_and_not_to_whom() {
        let body = body(TenantId(7), "abc", &Choices::default(), 0x2a, &event(r#"{"n": 1}"#));
        let text = std::str::from_utf8(&body).unwrap();
        assert!(!text.contains("+49123"), "the session's key names a person: {text}");
        let said: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(said["type"], "turn.completed");
        assert_eq!(said["id"], "msg_abc_000000000000002a");
        assert_eq!(said["timestamp"], "2023-11-14T22:13:20.123Z");
        assert_eq!((&said["agent_id"], &said["data"]["n"]), (&"orders".into(), &1.into()));
        let shown = Choices { show_session: true, ..Choices::default() };
        let text = super::body(TenantId(7), "abc", &shown, 0x2a, &event("{}"));
        assert!(std::str::from_utf8(&text).unwrap().contains("+49123"), "it was asked for");
    }

    #[test]
    fn what_is_too_much_or_no_json_is_left_out_and_said_so() {
        for data in [format!("\"{}\"", "a".repeat(DATA_BYTES_MAX)), "not json".to_owned()] {
            let body = body(TenantId(7), "abc", &Choices::default(), 1, &event(&data));
            let said: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&said["data"], &said["data_bytes_omitted"]), (&serde_json::Value::Null, &data.len().into()));
        }
    }

    #[test]
    fn during_an_overlap_requests_are_signed_twice() {
        let sealer = Sealer::new([1; 32]);
        let kept = |text: &str, since: u64, until| KeptSecret {
            sealed: sealer.seal(&Secret(text.to_owned()), "s", [since.into(), 2]),
            since,
            until,
        };
        let secrets = [kept("a", 0, Some(50)), kept("b", 20, Some(100)), kept("c", 70, None)];
        let at = |now| -> Vec<u64> { signing(&secrets, now).map(|secret| secret.since).collect() };
        assert_eq!(at(49), [70, 20, 0]);
        assert_eq!(at(50), [70, 20]);
        assert_eq!(at(100), [70]);
        assert_eq!(secret_at(&secrets, 69).map(|secret| secret.since), Some(20));
        assert_eq!(secret_at(&secrets, 70).map(|secret| secret.since), Some(70));
        let headers = sign::headers(&[Secret("c".into()), Secret("b".into())], "msg_1", 5_000, b"{}");
        let signature = headers.iter().find(|(name, _)| name == sign::SIGNATURE_HEADER).unwrap();
        let each: Vec<&str> = signature.1.split(' ').collect();
        assert_eq!(
            each,
            [
                sign::signature(&Secret("c".into()), "msg_1", 5, b"{}"),
                sign::signature(&Secret("b".into()), "msg_1", 5, b"{}")
            ]
        );
    }
}
