//! Our own shape, for platforms that can be told what to send: one envelope, or `{"messages": [...]}`. Signed as Standard
//! Webhooks has it.

use serde::Deserialize;

use super::{Arrived, Brought, Envelope, Integration, NotTaken, TOLERANCE_S, same_text};
use crate::sign;

#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    Many { messages: Vec<Envelope> },
    One(Box<Envelope>),
}

pub(super) fn read(integration: &Integration, arrived: Arrived<'_>) -> Result<Brought, NotTaken> {
    let header = |name: &str| (arrived.header)(name).ok_or(NotTaken::Unsigned);
    let (id, signatures) = (header(sign::ID_HEADER)?, header(sign::SIGNATURE_HEADER)?);
    let signed_at: u64 = header(sign::TIMESTAMP_HEADER)?.parse().map_err(|_| NotTaken::Unsigned)?;
    let right = sign::signature(&integration.secret, &id, signed_at, arrived.body);
    if !signatures.split(' ').take(10).any(|one| same_text(one, &right)) {
        return Err(NotTaken::Unsigned);
    }
    if signed_at.abs_diff(arrived.now_s) > TOLERANCE_S {
        return Err(NotTaken::Stale);
    }
    let body: Body = serde_json::from_slice(arrived.body).map_err(|error| NotTaken::Malformed(error.to_string()))?;
    let mut messages = match body {
        Body::Many { messages } => messages,
        Body::One(one) => vec![*one],
    };
    for (nth, message) in messages.iter_mut().enumerate() {
        if message.sender.is_empty() {
            return Err(NotTaken::Malformed("a message has no sender".to_owned()));
        }
        // The request's own id tells repeats apart if the message's sender does not.
        if message.message_id.is_empty() {
            message.message_id = format!("{id}:{nth}");
        }
    }
    Ok(Brought { messages, receipts: Vec::new() })
}
