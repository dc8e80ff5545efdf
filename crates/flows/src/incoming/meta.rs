//! Meta's shape, for WhatsApp: <https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/payload-examples>. Signed
//! with `X-Hub-Signature-256`, an HMAC-SHA256 of the body with the app's secret.

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Arrived, Attachment, Brought, Envelope, Integration, NotTaken, Receipt};
use crate::receipts::DeliveryStatus;

#[derive(Deserialize)]
struct Body {
    entry: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    value: Update,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Update {
    metadata: Metadata,
    contacts: Vec<Contact>,
    messages: Vec<Value>,
    statuses: Vec<Status>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    phone_number_id: Option<String>,
}

#[derive(Deserialize)]
struct Contact {
    wa_id: String,
    #[serde(default)]
    profile: Value,
}

#[derive(Deserialize)]
struct Status {
    id: String,
    status: String,
    #[serde(default)]
    errors: Vec<Value>,
}

pub(super) fn read(integration: &Integration, arrived: Arrived<'_>) -> Result<Brought, NotTaken> {
    let signature = (arrived.header)("x-hub-signature-256").ok_or(NotTaken::Unsigned)?;
    let signature = signature.strip_prefix("sha256=").and_then(from_hex).ok_or(NotTaken::Unsigned)?;
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(integration.secret.0.as_bytes()) else {
        unreachable!("an HMAC takes keys of any length")
    };
    mac.update(arrived.body);
    mac.verify_slice(&signature).map_err(|_| NotTaken::Unsigned)?;
    let body: Body = serde_json::from_slice(arrived.body).map_err(|error| NotTaken::Malformed(error.to_string()))?;
    let mut brought = Brought::default();
    for update in body.entry.into_iter().flat_map(|entry| entry.changes).map(|change| change.value) {
        let name_of = |sender: &str| {
            let contact = update.contacts.iter().find(|contact| contact.wa_id == sender)?;
            contact.profile["name"].as_str().map(str::to_owned)
        };
        for message in &update.messages {
            let mut envelope =
                envelope(message).ok_or_else(|| NotTaken::Malformed("a message has no from or id".to_owned()))?;
            envelope.sender_name = name_of(&envelope.sender);
            envelope.account.clone_from(&update.metadata.phone_number_id);
            brought.messages.push(envelope);
        }
        brought.receipts.extend(update.statuses.into_iter().filter_map(receipt));
    }
    Ok(brought)
}

fn envelope(message: &Value) -> Option<Envelope> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = message["type"].as_str().unwrap_or_default();
    let part = &message[kind];
    let mut envelope = Envelope {
        sender: text(&message["from"])?,
        message_id: text(&message["id"])?,
        reply_to: text(&message["context"]["id"]),
        sent_at: message["timestamp"].as_str().and_then(|at| at.parse::<u64>().ok()).map(|at| at.saturating_mul(1_000)),
        ..Envelope::default()
    };
    match kind {
        "text" => envelope.text = text(&part["body"]).unwrap_or_default(),
        "image" | "audio" | "video" | "document" | "sticker" => {
            envelope.text = text(&part["caption"]).unwrap_or_default();
            envelope.attachments.push(Attachment {
                kind: kind.to_owned(),
                url: text(&part["url"]),
                id: text(&part["id"]),
                mime_type: text(&part["mime_type"]),
                filename: text(&part["filename"]),
            });
        }
        "button" => {
            envelope.text = text(&part["text"]).unwrap_or_default();
            envelope.structured = Some(json!({ "type": kind, kind: part }));
        }
        "interactive" => {
            let reply = [&part["button_reply"], &part["list_reply"]].into_iter().find(|reply| reply.is_object());
            envelope.text = reply.and_then(|reply| text(&reply["title"])).unwrap_or_default();
            envelope.structured = Some(json!({ "type": kind, kind: part }));
        }
        // Places, contacts, reactions, and what there will be: the agent gets it as it came.
        other => envelope.structured = Some(json!({ "type": other, other: part })),
    }
    Some(envelope)
}

fn receipt(status: Status) -> Option<Receipt> {
    let error = status.errors.first().map(|error| {
        let said = error["message"].as_str().or(error["title"].as_str()).unwrap_or("it failed");
        said.chars().take(300).collect()
    });
    let how = match status.status.as_str() {
        "sent" => DeliveryStatus::Sent,
        "delivered" => DeliveryStatus::Delivered,
        "read" | "played" => DeliveryStatus::Read,
        "failed" => DeliveryStatus::Failed,
        _ => return None,
    };
    Some(Receipt { message_id: status.id, status: how, error })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
