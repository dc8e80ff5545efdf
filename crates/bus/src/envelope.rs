//! The envelope: what an entry of a stream says, and whose it is. Ours are written as [`SCHEMA`] has it; those of older
//! programs are read by the other names their fields go by, with each thing that is wrong said with its place.
//!
//! What this module does not know: what becomes of an envelope.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The shape as JSON Schema.
pub const SCHEMA: &str = include_str!("../schemas/envelope.json");
/// Bytes of an envelope.
pub const BYTES_MAX: usize = crate::bus::BODY_BYTES_MAX;
/// Bytes of an id or a name in it.
const PART_BYTES_MAX: usize = 200;
/// Bytes of a session key or a correlation id.
const KEY_BYTES_MAX: usize = 1_000;
/// Things that are wrong said about one envelope.
const FINDINGS_MAX: usize = 20;

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvelopeType {
    /// A person's message.
    Message,
    /// Something happened.
    Status,
    /// A person's message that should interrupt what goes on.
    Interrupt,
    /// A segment of a reply, for the channel.
    Outbound,
    /// How far a segment got.
    Receipt,
}

/// An envelope.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Envelope {
    /// The version of the shape: 1.
    pub v: u32,
    /// Its id: the same again is the same entry.
    pub id: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EnvelopeType,
    /// Whose, by name or id.
    pub tenant: String,
    /// Which agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Over which channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Who talks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interlocutor: Option<String>,
    /// The session key, and ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What it belongs to, for logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The trace it belongs to, as W3C has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// When, in milliseconds since the Unix epoch, as whoever wrote it says. Nothing is ordered by it.
    pub time: u64,
    /// What it says.
    pub payload: Map<String, Value>,
}

/// Where an entry was found: what it does not say itself follows from that, and what it says must not contradict it.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The tenant its stream belongs to, by name and by id.
    pub tenant: (&'a str, &'a str),
    /// The channel its stream belongs to, if it is one's.
    pub channel: Option<&'a str>,
    /// The entry's own id, for an envelope without one.
    pub entry: &'a str,
    /// When it was read, for one that does not say when it was written.
    pub now_ms: u64,
}

/// Something that is wrong with an envelope, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The field.
    pub path: String,
    /// What is wrong with it, and what is right.
    pub what: String,
}

/// An entry that is no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the entry is no envelope: {}", .findings.iter().map(|one| format!("{} {}", one.path, one.what)).collect::<Vec<_>>().join("; "))]
pub struct NoEnvelope {
    /// All that is wrong.
    pub findings: Vec<Finding>,
}

impl Envelope {
    /// Reads an entry's body.
    ///
    /// # Errors
    /// [`NoEnvelope`] with everything that is wrong.
    pub fn read(body: &[u8], found: Found<'_>) -> Result<Envelope, NoEnvelope> {
        let whole = |what: String| NoEnvelope { findings: vec![Finding { path: "$".to_owned(), what }] };
        if body.len() > BYTES_MAX {
            return Err(whole(format!(
                "has {} bytes, at most {BYTES_MAX}: put media elsewhere and name its address",
                body.len()
            )));
        }
        let fields = match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(whole("is JSON but no object".to_owned())),
            Err(error) => return Err(whole(format!("is no JSON: {error}"))),
        };
        let mut reading = Reading { fields, findings: Vec::new() };
        let read = reading.envelope(found);
        match read {
            Some(envelope) if reading.findings.is_empty() => Ok(envelope),
            _ => Err(NoEnvelope { findings: reading.findings }),
        }
    }

    /// Its JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain data always encodes.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A text of the payload.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.payload.get(name).and_then(Value::as_str)
    }
}

/// An envelope that is being read.
struct Reading {
    fields: Map<String, Value>,
    findings: Vec<Finding>,
}

impl Reading {
    fn envelope(&mut self, found: Found<'_>) -> Option<Envelope> {
        let v = self.version();
        let kind = self.kind();
        let tenant = self.text(&["tenant", "tenant_id"], PART_BYTES_MAX);
        if let Some(named) = &tenant
            && named != found.tenant.0
            && named != found.tenant.1
        {
            self.find(
                "tenant",
                format!("is {named:?}, but the stream is {:?}'s: publish it in its own", found.tenant.0),
            );
        }
        let session = self.text(&["session", "session_key"], KEY_BYTES_MAX);
        let agent = self.text(&["agent", "agent_id"], PART_BYTES_MAX);
        let interlocutor = self.text(
            &["interlocutor", "channel_user_id", "interlocutor_id", "customer_id", "user_id", "sender"],
            PART_BYTES_MAX,
        );
        let channel = self.text(&["channel"], PART_BYTES_MAX);
        if let (Some(named), Some(of_stream)) = (&channel, found.channel)
            && named != of_stream
        {
            self.find("channel", format!("is {named:?}, but the stream is of {of_stream:?}"));
        }
        let id = self.text(&["id", "envelope_id", "idempotency_key"], PART_BYTES_MAX);
        let correlation_id = self.text(&["correlation_id"], KEY_BYTES_MAX);
        let traceparent = self.text(&["traceparent", "trace_id"], PART_BYTES_MAX);
        let time = self.time(found.now_ms);
        let payload = self.payload();
        Some(Envelope {
            v: v?,
            id: id.unwrap_or_else(|| found.entry.to_owned()),
            kind: kind?,
            tenant: tenant.unwrap_or_else(|| found.tenant.0.to_owned()),
            agent,
            channel: channel.or_else(|| found.channel.map(str::to_owned)),
            interlocutor,
            session,
            correlation_id,
            traceparent,
            time,
            payload: payload?,
        })
    }

    fn find(&mut self, path: &str, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { path: path.to_owned(), what });
        }
    }

    /// The first of these fields that is there and not null. Flat entries have empty texts for what is not said.
    fn first(&mut self, names: &[&str]) -> Option<(String, Value)> {
        let said = |value: &Value| !value.is_null() && value.as_str() != Some("");
        let name = names.iter().find(|name| self.fields.get(**name).is_some_and(said))?;
        self.fields.remove(*name).map(|value| ((*name).to_owned(), value))
    }

    fn text(&mut self, names: &[&str], bytes_max: usize) -> Option<String> {
        let (name, value) = self.first(names)?;
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => {
                self.find(&name, "is no text".to_owned());
                return None;
            }
        };
        if text.len() > bytes_max {
            self.find(&name, format!("has {} bytes, at most {bytes_max}", text.len()));
            return None;
        }
        Some(text)
    }

    fn version(&mut self) -> Option<u32> {
        let Some((name, value)) = self.first(&["v", "version"]) else { return Some(1) };
        // "1" of flat fields and "1.0" of older programs are the same.
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if matches!(text.as_str(), "1" | "1.0") {
            return Some(1);
        }
        self.find(&name, format!("is {text}, and only version 1 is understood"));
        None
    }

    fn kind(&mut self) -> Option<EnvelopeType> {
        if let Some((_, value)) = self.first(&["is_status_update"])
            && (value == Value::Bool(true) || value.as_str() == Some("true"))
        {
            return Some(EnvelopeType::Receipt);
        }
        let Some((name, value)) = self.first(&["type", "kind"]) else { return Some(EnvelopeType::Message) };
        let kind = serde_json::from_value(value.clone()).ok();
        if kind.is_none() {
            self.find(&name, format!("is {value}: use message, status, interrupt, outbound or receipt"));
        }
        kind
    }

    fn time(&mut self, now_ms: u64) -> u64 {
        let Some((name, value)) = self.first(&["time", "received_at", "timestamp", "gateway_received_at"]) else {
            return now_ms;
        };
        let read = match &value {
            Value::Number(number) => number.as_f64().map(in_ms),
            Value::String(text) => match text.parse::<f64>() {
                Ok(number) => Some(in_ms(number)),
                Err(_) => {
                    text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok())
                }
            },
            _ => None,
        };
        if read.is_none() {
            self.find(
                &name,
                "is neither milliseconds since the Unix epoch nor a time as 2026-01-31T12:00:00Z".to_owned(),
            );
        }
        read.unwrap_or(now_ms)
    }

    /// The payload; of an envelope without one, everything that has no other meaning.
    fn payload(&mut self) -> Option<Map<String, Value>> {
        let (name, value) = match self.first(&["payload", "body"]) {
            Some((name, Value::String(text))) => match serde_json::from_str(&text) {
                Ok(value @ Value::Object(_)) => (name, value),
                // A flat entry whose body is what was said.
                _ => {
                    let mut rest = std::mem::take(&mut self.fields);
                    rest.insert("text".to_owned(), Value::String(text));
                    (name, Value::Object(rest))
                }
            },
            Some(found) => found,
            None => ("$".to_owned(), Value::Object(std::mem::take(&mut self.fields))),
        };
        let Value::Object(mut payload) = value else {
            self.find(&name, "is no object".to_owned());
            return None;
        };
        // {"content": {"text": ..}} and {"content": ".."} of older programs.
        match payload.remove("content") {
            None => {}
            Some(Value::Object(content)) => {
                for (name, value) in content {
                    payload.entry(name).or_insert(value);
                }
            }
            Some(Value::String(text)) => {
                let inner = serde_json::from_str(&text).ok().and_then(|value| match value {
                    Value::Object(content) => Some(content),
                    _ => None,
                });
                match inner {
                    Some(content) => payload.extend(content),
                    None => {
                        payload.entry("text").or_insert(Value::String(text));
                    }
                }
            }
            Some(other) => {
                payload.insert("content".to_owned(), other);
            }
        }
        payload.retain(|_, value| !value.is_null());
        Some(payload)
    }
}

/// Seconds or milliseconds, as milliseconds: nobody's message is from before 1973.
fn in_ms(number: f64) -> u64 {
    const SECONDS_MAX: f64 = 1e11;
    if number < SECONDS_MAX { (number * 1_000.0).max(0.0) as u64 } else { number as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FOUND: Found<'static> =
        Found { tenant: ("acme", "000a"), channel: Some("web"), entry: "17-0", now_ms: 1_790_000_000_000 };

    fn read(value: Value) -> Result<Envelope, NoEnvelope> {
        Envelope::read(value.to_string().as_bytes(), FOUND)
    }

    #[test]
    fn what_is_written_is_read_and_fits_the_schema() {
        let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
        let schema = jsonschema::validator_for(&schema).expect("the schema is one");
        let envelope = read(json!({
            "v": 1, "id": "m1", "type": "message", "tenant": "acme", "agent": "orders", "interlocutor": "anna",
            "channel": "web", "session": "000a:orders:anna:web", "time": 1_790_000_000_123_u64,
            "payload": { "text": "hello", "end": true },
        }));
        let envelope = envelope.expect("an envelope");
        let written: Value = serde_json::from_slice(&envelope.to_bytes()).expect("JSON");
        assert!(
            schema.is_valid(&written),
            "{:?}",
            schema.iter_errors(&written).map(|e| e.to_string()).collect::<Vec<_>>()
        );
        assert_eq!(Envelope::read(&envelope.to_bytes(), FOUND).expect("read again"), envelope);
        assert!(
            !schema
                .is_valid(&json!({ "v": 1, "id": "x", "type": "receipt", "tenant": "acme", "time": 1, "payload": {} }))
        );
    }

    #[test]
    fn flat_entries_and_older_names_are_read() {
        let flat = read(json!({
            "tenant_id": "acme", "agent_id": "orders", "channel_user_id": "anna", "channel": "web",
            "content": "{\"text\": \"hello\", \"media\": []}", "provider_message_id": "p1",
            "timestamp": "2026-09-21T14:13:20Z", "v": "1", "session_key": "",
        }));
        let flat = flat.expect("an envelope");
        assert_eq!((flat.id.as_str(), flat.kind, flat.time), ("17-0", EnvelopeType::Message, 1_790_000_000_000));
        assert_eq!(flat.payload["text"], "hello");
        assert_eq!(flat.payload["provider_message_id"], "p1");
        assert_eq!((flat.session, flat.interlocutor.as_deref()), (None, Some("anna")));
        let word = read(json!({ "agent": "orders", "user_id": "anna", "body": "hello", "timestamp": 1_790_000_000 }));
        assert_eq!(word.expect("an envelope").payload["text"], "hello");
        let status = read(json!({ "is_status_update": true, "payload": { "status": "read", "reply_id": "a:0" } }));
        assert_eq!(status.expect("an envelope").kind, EnvelopeType::Receipt);
    }

    #[test]
    fn everything_that_is_wrong_is_said() {
        let wrong = read(json!({
            "v": 2, "type": "letter", "tenant": "other", "channel": "sms", "id": "x".repeat(201), "time": "yesterday",
            "payload": [1],
        }));
        let paths: Vec<String> =
            wrong.expect_err("nothing is right").findings.into_iter().map(|one| one.path).collect();
        assert_eq!(paths, ["v", "type", "tenant", "channel", "id", "time", "payload"]);
        for (body, said) in [("", "is no JSON"), ("[]", "no object"), ("{\"a\":", "is no JSON")] {
            let wrong = Envelope::read(body.as_bytes(), FOUND).expect_err("no envelope").to_string();
            assert!(wrong.contains(said), "{wrong}");
        }
        let long = vec![b' '; BYTES_MAX + 1];
        assert!(Envelope::read(&long, FOUND).expect_err("too long").to_string().contains("at most"));
    }

    #[test]
    fn a_tenant_is_known_by_name_and_by_id() {
        for tenant in ["acme", "000a"] {
            assert!(read(json!({ "tenant": tenant, "payload": {} })).is_ok());
        }
    }
}
