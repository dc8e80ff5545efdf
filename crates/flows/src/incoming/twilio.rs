//! Twilio's shape, for SMS and for WhatsApp through it: a form. Signed with `X-Twilio-Signature`, an HMAC-SHA1 of the
//! address and the form's fields in the order of their names, with the account's auth token:
//! <https://www.twilio.com/docs/usage/security>.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use serde_json::json;
use sha1::Sha1;

use super::{Arrived, Attachment, Brought, Envelope, Integration, NotTaken, Receipt};
use crate::receipts::DeliveryStatus;

/// Media one message may have; Twilio sends ten.
const MEDIA_MAX: usize = 10;

pub(super) fn read(integration: &Integration, arrived: Arrived<'_>) -> Result<Brought, NotTaken> {
    let signature = (arrived.header)("x-twilio-signature").and_then(|text| STANDARD.decode(text).ok());
    let signature = signature.ok_or(NotTaken::Unsigned)?;
    let fields = fields(arrived.body).ok_or(NotTaken::Unsigned)?;
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(integration.secret.0.as_bytes()) else {
        unreachable!("an HMAC takes keys of any length")
    };
    mac.update(integration.url.as_bytes());
    for (name, value) in &fields {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    mac.verify_slice(&signature).map_err(|_| NotTaken::Unsigned)?;

    let field = |name: &str| fields.get(name).filter(|value| !value.is_empty()).cloned();
    let missing = |name: &str| NotTaken::Malformed(format!("the field {name} is missing"));
    let message_id = field("MessageSid").or_else(|| field("SmsSid")).ok_or_else(|| missing("MessageSid"))?;
    if let Some(status) = field("MessageStatus").or_else(|| field("SmsStatus")).filter(|status| status != "received") {
        return Ok(Brought {
            messages: Vec::new(),
            receipts: receipt(message_id, &status, field("ErrorCode")).into_iter().collect(),
        });
    }
    let count = field("NumMedia").and_then(|count| count.parse().ok()).unwrap_or(0).min(MEDIA_MAX);
    let attachment = |nth: usize| {
        let mime_type = field(&format!("MediaContentType{nth}"));
        let kind = mime_type.as_deref().and_then(|mime| mime.split('/').next()).filter(|kind| *kind != "application");
        Some(Attachment {
            kind: kind.unwrap_or("document").to_owned(),
            url: Some(field(&format!("MediaUrl{nth}"))?),
            mime_type,
            ..Attachment::default()
        })
    };
    let place = field("Latitude").zip(field("Longitude"));
    let from = field("From").ok_or_else(|| missing("From"))?;
    let envelope = Envelope {
        // A session's key has no colon in its parts.
        sender: from.strip_prefix("whatsapp:").unwrap_or(&from).to_owned(),
        sender_name: field("ProfileName"),
        account: field("To"),
        text: field("Body").unwrap_or_default(),
        attachments: (0..count).filter_map(attachment).collect(),
        message_id,
        reply_to: field("OriginalRepliedMessageSid"),
        sent_at: None,
        structured: place.map(|(latitude, longitude)| {
            json!({ "type": "location", "location": { "latitude": latitude, "longitude": longitude } })
        }),
    };
    Ok(Brought { messages: vec![envelope], receipts: Vec::new() })
}

/// The form's fields by their names. `None` if it is no text.
fn fields(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = std::str::from_utf8(body).ok()?;
    // A form is written like a query; the parser takes care of both.
    let mut url = Url::parse("http://form/").ok()?;
    url.set_query(Some(text));
    Some(url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
}

fn receipt(message_id: String, status: &str, code: Option<String>) -> Option<Receipt> {
    let status = match status {
        "sent" => DeliveryStatus::Sent,
        "delivered" => DeliveryStatus::Delivered,
        "read" => DeliveryStatus::Read,
        "failed" | "undelivered" | "canceled" => DeliveryStatus::Failed,
        _ => return None,
    };
    let error = code.filter(|_| status == DeliveryStatus::Failed).map(|code| format!("Twilio's error {code}"));
    Some(Receipt { message_id, status, error })
}
