//! Webhooks of platforms, coming in: each reads one platform's shape into the same envelope, after its signature was
//! verified over the bytes as they came. Pure: what becomes of an envelope is for whoever asked.

mod generic;
mod meta;
mod twilio;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::message::MessageBody;
use crate::receipts::DeliveryStatus;
use crate::settings::Secret;

/// Messages and receipts one request may bring.
pub const ITEMS_MAX: usize = 1_000;
/// How old or early a signed request may be.
const TOLERANCE_S: u64 = 300;

/// Which platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// Our own shape, signed as Standard Webhooks has it.
    Generic,
    /// Meta's: WhatsApp.
    Meta,
    /// Twilio's: SMS, and WhatsApp through it.
    Twilio,
}

/// One account of a tenant at a platform.
#[derive(Debug, Clone)]
pub struct Integration {
    /// Which platform.
    pub platform: Platform,
    /// The secret requests are signed with: Meta's app secret, Twilio's auth token.
    pub secret: Secret,
    /// What Meta must say when it asks whether we are we.
    pub verify_token: Option<Secret>,
    /// The address as Twilio knows it: it signs it too.
    pub url: String,
    /// Ids or numbers at the platform whose messages are taken. Empty takes all.
    pub accounts: Vec<String>,
}

/// A request as it came.
#[derive(Clone, Copy)]
pub struct Arrived<'a> {
    /// A header by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<String>,
    /// The body, byte for byte.
    pub body: &'a [u8],
    /// When, in seconds since the Unix epoch.
    pub now_s: u64,
}

/// Something a person sent, whatever the platform.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Envelope {
    /// Who, as the platform names them.
    pub sender: String,
    /// What they call themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_name: Option<String>,
    /// Which of the tenant's accounts they wrote to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The text.
    #[serde(default)]
    pub text: String,
    /// What comes with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// The platform's id for it.
    #[serde(default)]
    pub message_id: String,
    /// What it answers, by the platform's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// When it was sent, in milliseconds since the Unix epoch, as the platform says. Nothing is ordered by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<u64>,
    /// Whatever else the platform says that has a meaning of its own: a place, a button.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured: Option<Value>,
}

/// A picture, a file, a sound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attachment {
    /// `image` and the like.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The platform's id for it, where it has to be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its MIME type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

/// How far something we sent got, as the platform says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The platform's id for what we sent.
    pub message_id: String,
    /// How far.
    pub status: DeliveryStatus,
    /// Why not further.
    pub error: Option<String>,
}

/// What a request brought.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Brought {
    /// Messages, in the platform's order.
    pub messages: Vec<Envelope>,
    /// Receipts.
    pub receipts: Vec<Receipt>,
}

/// A request that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Its signature is missing or wrong. It is not said which.
    #[error("the request is not signed with this integration's secret")]
    Unsigned,
    /// It was signed too long ago, or ahead of time.
    #[error("the request was signed more than {TOLERANCE_S} s ago or ahead: send it anew, and set the clock right")]
    Stale,
    /// It is not what the platform sends.
    #[error("the body is not what this platform sends: {0}")]
    Malformed(String),
}

impl Integration {
    /// Verifies a request and reads it.
    ///
    /// # Errors
    /// [`NotTaken`] says why.
    pub fn read(&self, arrived: Arrived<'_>) -> Result<Brought, NotTaken> {
        let mut brought = match self.platform {
            Platform::Generic => generic::read(self, arrived),
            Platform::Meta => meta::read(self, arrived),
            Platform::Twilio => twilio::read(self, arrived),
        }?;
        if brought.messages.len() + brought.receipts.len() > ITEMS_MAX {
            return Err(NotTaken::Malformed(format!(
                "more than {ITEMS_MAX} messages and receipts: send fewer at once"
            )));
        }
        brought.messages.retain(|one| {
            self.accounts.is_empty() || one.account.as_ref().is_some_and(|account| self.accounts.contains(account))
        });
        Ok(brought)
    }

    /// The answer to Meta's question whether we are we: its challenge, if it knows the token.
    pub fn challenge(&self, mode: &str, token: &str, challenge: &str) -> Option<String> {
        let expected = self.verify_token.as_ref()?;
        let same = mode == "subscribe" && same_text(&expected.0, token);
        (same && challenge.len() <= 200).then(|| challenge.to_owned())
    }
}

impl Envelope {
    /// What lies in the session's inbox for it.
    pub fn into_message(self) -> MessageBody {
        let more = json!({
            "sender_name": self.sender_name, "account": self.account, "attachments": self.attachments,
            "reply_to": self.reply_to, "sent_at": self.sent_at, "structured": self.structured,
        });
        let more = match more {
            Value::Object(fields) => {
                let said = |value: &Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
                fields.into_iter().filter(|(_, value)| said(value)).collect()
            }
            other => other,
        };
        let data = Some(more).filter(|more: &Value| more.as_object().is_some_and(|fields| !fields.is_empty()));
        MessageBody { text: self.text, data, message_id: Some(self.message_id), ..MessageBody::default() }
    }
}

/// Compares without telling by the time it takes where the difference is.
fn same_text(a: &str, b: &str) -> bool {
    use hmac::{Hmac, KeyInit, Mac};
    let mac = |text: &str| {
        let Ok(mut mac) = Hmac::<sha2::Sha256>::new_from_slice(b"compare") else {
            unreachable!("an HMAC takes keys of any length")
        };
        mac.update(text.as_bytes());
        mac.finalize().into_bytes()
    };
    mac(a) == mac(b)
}

#[cfg(test)]
mod tests;
