//! How far a segment of a reply got: `queued < sent < delivered < read`, or `failed`. Receipts come late, twice and in any
//! order; a status only ever goes forward.

use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{Client, ClientError, DocumentKey, EngineError, Guard, PutDocument, Refusal};
use serde::{Deserialize, Serialize};

use crate::records;
use crate::settings::millis;

/// How long a delivery's status and a provider's id for it are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// It is being sent.
    #[default]
    Queued,
    /// The channel took it.
    Sent,
    /// It did not arrive, and will not be sent again by itself.
    Failed,
    /// It arrived.
    Delivered,
    /// It was read.
    Read,
}

impl DeliveryStatus {
    /// The event that tells of it. `reply.sent` is the turn's: that it has committed its reply.
    fn event(self) -> &'static str {
        match self {
            DeliveryStatus::Queued => "reply.queued",
            DeliveryStatus::Sent => "reply.taken",
            DeliveryStatus::Failed => "reply.failed",
            DeliveryStatus::Delivered => "reply.delivered",
            DeliveryStatus::Read => "reply.read",
        }
    }
}

/// A segment's delivery, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeliveryRecord {
    /// How far it got.
    pub status: DeliveryStatus,
    /// Its session.
    pub session: String,
    /// The turn it answers.
    pub turn_id: String,
    /// The provider's id for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is known anew of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The segment's id.
    pub reply_id: String,
    /// How far it got.
    pub status: DeliveryStatus,
    /// The provider's id for it.
    pub provider_message_id: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A delivery's record, if there is one.
///
/// # Errors
/// [`ClientError`].
pub async fn delivery(client: &Client, reply_id: &str) -> Result<Option<DeliveryRecord>, ClientError> {
    let row = client.document(delivery_key(reply_id)).await?;
    Ok(row.and_then(|row| serde_json::from_slice(&row.body).ok()))
}

/// The segment that a provider's id stands for.
///
/// # Errors
/// [`ClientError`].
pub async fn of_provider(client: &Client, channel: &str, id: &str) -> Result<Option<String>, ClientError> {
    let row = client.document(provider_key(channel, id)).await?;
    Ok(row.and_then(|row| serde_json::from_slice(&row.body).ok()))
}

/// Takes a receipt: goes forward, and tells `reply.taken`, `.delivered`, `.read` or `.failed`, if it says more than is
/// known. Answers whether it did. Durable when it returns; taking it again changes nothing.
///
/// # Errors
/// [`ClientError`].
pub async fn take(client: &Client, session: &str, turn_id: &str, receipt: &Receipt) -> Result<bool, ClientError> {
    let ttl_ms = Some(millis(KEPT));
    if let Some(id) = &receipt.provider_message_id {
        let channel = session.rsplit(':').next().unwrap_or_default();
        let body = json(&receipt.reply_id);
        let put = PutDocument { key: provider_key(channel, id), expect: None, body, ttl_ms, history: 0 };
        client.put_document(put, None, Guard::default(), None).await?;
    }
    loop {
        let row = client.document(delivery_key(&receipt.reply_id)).await?;
        let version = row.as_ref().map_or(0, |row| row.version);
        let known = row.and_then(|row| serde_json::from_slice::<DeliveryRecord>(&row.body).ok());
        if known.as_ref().is_some_and(|known| receipt.status <= known.status) {
            return Ok(false);
        }
        let record = DeliveryRecord {
            status: receipt.status,
            session: session.to_owned(),
            turn_id: turn_id.to_owned(),
            provider_message_id: receipt
                .provider_message_id
                .clone()
                .or_else(|| known.and_then(|known| known.provider_message_id)),
            error: receipt.error.clone(),
        };
        let told = serde_json::json!({
            "reply_id": receipt.reply_id, "turn_id": turn_id, "status": receipt.status, "error": receipt.error,
        });
        let event = Some((receipt.status.event().to_owned(), Some(session.to_owned()), Bytes::from(told.to_string())));
        let key = delivery_key(&receipt.reply_id);
        let put = PutDocument { key, expect: Some(version), body: json(&record), ttl_ms, history: 0 };
        match client.put_document(put, None, Guard::default(), event).await {
            Ok(_) => return Ok(true),
            Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => {}
            Err(error) => return Err(error),
        }
    }
}

fn delivery_key(reply_id: &str) -> DocumentKey {
    DocumentKey::new(records::DELIVERY, reply_id)
}

fn provider_key(channel: &str, id: &str) -> DocumentKey {
    DocumentKey::new(records::RECEIPT, format!("{}:{channel}:{id}", channel.len()))
}

fn json(value: &impl Serialize) -> Bytes {
    // Plain data always encodes.
    serde_json::to_vec(value).unwrap_or_default().into()
}
