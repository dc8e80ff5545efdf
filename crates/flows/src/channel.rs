//! What a channel can carry, and how a reply becomes the segments that are sent over it.
//!
//! A segment is one message of the channel and is delivered on its own, so how a reply is cut must never change between
//! two tries: the same reply and capability give the same segments.
//!
//! What this module does not know: who carries a segment, and what a channel's provider calls things.

mod plain;
mod split;

use serde::{Deserialize, Serialize};

/// Segments of one reply. A person who gets a hundred messages at once has long stopped reading, and each is a delivery.
pub const SEGMENTS_MAX: usize = 100;

/// What a channel can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// The longest text of one message, in characters (Unicode scalar values). `None` is no limit.
    pub chars_max: Option<usize>,
    /// Whether markdown is passed on as it is; otherwise it becomes plain text. Whoever carries the message turns it
    /// into the channel's own dialect, or into HTML for e-mail.
    pub markdown: bool,
    /// Whether pictures and files can be sent; otherwise their addresses are.
    pub media: bool,
    /// A pause before sending, in milliseconds, without which a reply looks hasty on this channel.
    pub natural_delay_ms: u64,
}

impl Capability {
    /// What a channel carries as far as we know. A channel nobody told us about gets everything as the agent wrote it.
    pub fn of(channel: &str) -> Self {
        let unknown = Capability { chars_max: None, markdown: true, media: true, natural_delay_ms: 0 };
        match channel.to_ascii_lowercase().as_str() {
            "whatsapp" => Capability { chars_max: Some(4_096), ..unknown },
            // `sendMessage` of the Bot API: 1 to 4096 characters.
            "telegram" => Capability { chars_max: Some(4_096), ..unknown },
            "sms" => Capability { chars_max: Some(160), markdown: false, media: false, ..unknown },
            "web" | "webchat" => Capability { chars_max: Some(10_000), natural_delay_ms: 500, ..unknown },
            "voice" => Capability { chars_max: Some(500), markdown: false, media: false, natural_delay_ms: 300 },
            _ => unknown,
        }
    }

    /// This capability with what a configuration says otherwise.
    #[must_use]
    pub fn with(self, changes: &CapabilityChanges) -> Self {
        Capability {
            chars_max: match changes.chars_max {
                None => self.chars_max,
                Some(0) => None,
                limit => limit,
            },
            markdown: changes.markdown.unwrap_or(self.markdown),
            media: changes.media.unwrap_or(self.media),
            natural_delay_ms: changes.natural_delay_ms.unwrap_or(self.natural_delay_ms),
        }
    }
}

/// What a configuration says about a channel. What it leaves out stays as [`Capability::of`] has it: a longer SMS is
/// still one without markdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapabilityChanges {
    /// The longest text of one message, in characters; 0 lifts the limit.
    pub chars_max: Option<usize>,
    /// Whether markdown is passed on.
    pub markdown: Option<bool>,
    /// Whether pictures and files can be sent.
    pub media: Option<bool>,
    /// A pause before sending, in milliseconds.
    pub natural_delay_ms: Option<u64>,
}

/// A picture, a recording or a file of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// What it is in the agent's words, such as `image`. It is passed on, because providers know more kinds than we do.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it can be fetched.
    pub url: String,
    /// Its MIME type, if the agent knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// What is said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
}

/// One message of a channel: a text, or one medium with its caption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The medium.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
}

impl Segment {
    fn text(text: String) -> Self {
        Segment { text: Some(text), media: None }
    }
}

/// A reply that would be too many messages. To send the first hundred would look like all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a reply of {chars} characters and {media} media would be more than {SEGMENTS_MAX} messages{}: shorten it, send \
     fewer media, or raise the channel's chars_max",
    chars_max.map(|max| format!(" of at most {max} characters")).unwrap_or_default()
)]
pub struct TooLong {
    /// Characters of its text.
    pub chars: usize,
    /// How many media came with it.
    pub media: usize,
    /// The channel's limit for one message, in characters.
    pub chars_max: Option<usize>,
}

/// Turns a reply into messages of a channel: its text first, cut where a reader would pause, then its media.
///
/// Nothing is lost but whitespace at the cuts. A reply without text and media gives no segments.
///
/// # Errors
/// [`TooLong`] if there would be more than [`SEGMENTS_MAX`]. The reply has to be shorter; a further try gives the same.
pub fn segments(capability: &Capability, reply_text: &str, media: &[Media]) -> Result<Vec<Segment>, TooLong> {
    let too_long =
        || TooLong { chars: reply_text.chars().count(), media: media.len(), chars_max: capability.chars_max };
    let written = |text: &str| if capability.markdown { text.to_owned() } else { plain::plain(text) };
    // One more than may be is enough to know that it is too much.
    let cut = |text: &str| split::split(text, capability.chars_max.unwrap_or(usize::MAX), SEGMENTS_MAX + 1);

    let mut segments: Vec<Segment> = cut(&written(reply_text)).into_iter().map(Segment::text).collect();
    for medium in media {
        if segments.len() > SEGMENTS_MAX {
            return Err(too_long());
        }
        let caption = medium.caption.as_deref().map(written).filter(|caption| !caption.trim().is_empty());
        if capability.media {
            let media = Some(Media { caption, ..medium.clone() });
            segments.push(Segment { text: None, media });
        } else {
            let text = match caption {
                Some(caption) => format!("{}: {}", caption.trim(), medium.url),
                None => medium.url.clone(),
            };
            segments.extend(cut(&text).into_iter().map(Segment::text));
        }
    }
    if segments.len() > SEGMENTS_MAX { Err(too_long()) } else { Ok(segments) }
}

#[cfg(test)]
mod tests;
