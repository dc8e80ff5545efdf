//! A subscription: where a tenant wants to be told of what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pattern;
use crate::attempt::schedule::{WAIT_MAX_MS, WAITS_DEFAULT_MS};
use crate::egress::policy::header_is_free;
use crate::seal::Sealed;

/// Requests to one endpoint at once, at most.
pub const CONCURRENCY_MAX: u32 = 50;
/// Waits between tries of one delivery, at most.
pub const WAITS_MAX: usize = 20;
/// Patterns, agents or headers one subscription may have.
pub const PARTS_MAX: usize = 50;
/// Bytes of a filter.
pub const FILTER_BYTES_MAX: usize = 4_096;

/// How a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its endpoint has not shown yet that it wants to be called. Nothing is owed to it.
    Pending,
    /// Events are delivered.
    Active,
    /// A person stopped it: what it is owed waits.
    Paused,
    /// It failed for too long, or said that it is gone: what it is owed waits.
    Disabled,
    /// It is no more.
    Deleted,
}

/// What is kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Nothing: a delivery that fails holds up none.
    #[default]
    Parallel,
    /// Events of one session.
    Session,
    /// All events.
    Endpoint,
}

/// A signing secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSecret {
    /// The secret, sealed.
    pub sealed: Sealed,
    /// Since when it is valid.
    pub since: u64,
    /// Until when requests are signed with it too. `None` for the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What a person chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Choices {
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where events are sent.
    pub url: String,
    /// Which events, by name: `*`, `tool.*` or exact.
    pub events: Vec<String>,
    /// Of which agents. `None` for all, and for events that are no agent's.
    pub agents: Option<Vec<String>>,
    /// A CEL expression that must hold as well; it sees `input` (the event's data), `event_key` (its name) and
    /// `additional_metadata` (`agent`, `session`).
    pub filter: Option<String>,
    /// The form of the body.
    pub payload_version: u32,
    /// Headers sent with each request. Their values are kept sealed.
    pub headers: BTreeMap<String, String>,
    /// What is kept in order.
    pub order: Order,
    /// Requests at once.
    pub concurrency: u32,
    /// Requests in a minute. 0 is no limit.
    pub rate_per_minute: u32,
    /// How long one request may take.
    pub timeout_ms: u64,
    /// Waits between tries.
    pub waits_ms: Vec<u64>,
    /// How long it may fail before it is disabled.
    pub disable_after_ms: u64,
    /// Whether requests carry the session's key, which names the person, instead of an opaque id.
    pub show_session: bool,
}

impl Default for Choices {
    fn default() -> Self {
        Choices {
            name: String::new(),
            description: String::new(),
            url: String::new(),
            events: vec!["*".to_owned()],
            agents: None,
            filter: None,
            payload_version: 1,
            headers: BTreeMap::new(),
            order: Order::Parallel,
            concurrency: 5,
            rate_per_minute: 1_000,
            timeout_ms: 10_000,
            waits_ms: WAITS_DEFAULT_MS.to_vec(),
            disable_after_ms: 5 * 24 * 60 * 60 * 1_000,
            show_session: false,
        }
    }
}

/// A choice that can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct BadChoice {
    /// Which.
    pub field: &'static str,
    /// What is wrong with it, and what to change.
    pub what: String,
}

/// A subscription as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id.
    pub id: String,
    /// What was chosen. The values of headers are empty here: see `headers`.
    pub choices: Choices,
    /// The headers' values, sealed.
    #[serde(default)]
    pub headers: BTreeMap<String, Sealed>,
    /// How it stands.
    pub state: State,
    /// Why it is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether its endpoint, as it is now, has shown that it wants to be called.
    #[serde(default)]
    pub verified: bool,
    /// Its secrets, the present one last.
    pub secrets: Vec<KeptSecret>,
    /// When it was made.
    pub created_at: u64,
    /// When it was changed.
    pub updated_at: u64,
}

impl Choices {
    /// Checks everything that can be checked without asking anybody.
    ///
    /// # Errors
    /// [`BadChoice`] names the field.
    pub fn check(&self) -> Result<(), BadChoice> {
        let bad = |field, what: String| Err(BadChoice { field, what });
        if self.name.len() > 200 || self.description.len() > 2_000 {
            return bad("name", "at most 200 bytes, and the description 2000: shorten it".to_owned());
        }
        if self.events.is_empty() || self.events.len() > PARTS_MAX {
            return bad("events", format!("give 1 to {PARTS_MAX} patterns"));
        }
        if let Some(wrong) = self.events.iter().find(|text| !pattern::is_pattern(text)) {
            return bad(
                "events",
                format!("{wrong:?} is no pattern: use *, a name, or a beginning with .* as in tool.*"),
            );
        }
        if self.agents.as_ref().is_some_and(|agents| agents.is_empty() || agents.len() > PARTS_MAX) {
            return bad("agents", format!("give 1 to {PARTS_MAX} names, or leave it out for all"));
        }
        if self.filter.as_ref().is_some_and(|filter| filter.len() > FILTER_BYTES_MAX) {
            return bad("filter", format!("at most {FILTER_BYTES_MAX} bytes: shorten it"));
        }
        if self.payload_version != 1 {
            return bad("payload_version", "the only one is 1".to_owned());
        }
        if self.headers.len() > PARTS_MAX {
            return bad("headers", format!("at most {PARTS_MAX}"));
        }
        for (name, value) in &self.headers {
            let ours = name.to_ascii_lowercase().starts_with("webhook-") || name.eq_ignore_ascii_case("content-type");
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            let visible = |c: char| c == ' ' || c.is_ascii_graphic();
            if ours || !header_is_free(name) || name.is_empty() || name.len() > 100 || !name.chars().all(token) {
                return bad("headers", format!("{name:?} is not a header you may set"));
            }
            if value.len() > 2_000 || !value.chars().all(visible) {
                return bad("headers", format!("the value of {name:?} must be at most 2000 visible ASCII characters"));
            }
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return bad("concurrency", format!("use 1 to {CONCURRENCY_MAX}"));
        }
        if self.rate_per_minute > 1_000_000 {
            return bad("rate_per_minute", "use at most 1000000, or 0 for no limit".to_owned());
        }
        if !(1_000..=60_000).contains(&self.timeout_ms) {
            return bad("timeout_ms", "use 1000 to 60000".to_owned());
        }
        if self.waits_ms.len() > WAITS_MAX || self.waits_ms.iter().any(|wait| *wait > WAIT_MAX_MS) {
            return bad("waits_ms", format!("at most {WAITS_MAX} waits, each of at most {WAIT_MAX_MS} ms"));
        }
        if !(60_000..=30 * WAIT_MAX_MS).contains(&self.disable_after_ms) {
            return bad("disable_after_ms", "use a minute (60000) to thirty days".to_owned());
        }
        Ok(())
    }

    /// How many deliveries go on at once: one for each lane.
    pub fn lanes(&self) -> u64 {
        match self.order {
            Order::Endpoint => 1,
            Order::Parallel | Order::Session => u64::from(self.concurrency),
        }
    }

    /// The lane an event belongs to. What must stay in order has one lane.
    pub fn lane(&self, scope: Option<&str>, seq: u64) -> u64 {
        match self.order {
            Order::Endpoint => 0,
            Order::Parallel => seq % self.lanes(),
            Order::Session => {
                // FNV-1a: the same in every release, or two events of one session could meet in two lanes.
                let hash = scope.unwrap_or("").bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
                });
                hash % self.lanes()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_choice_is_named() {
        let good = Choices { url: "https://example.com/".to_owned(), ..Choices::default() };
        assert_eq!(good.check(), Ok(()));
        let header = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let bad = [
            ("events", Choices { events: vec![], ..good.clone() }),
            ("events", Choices { events: vec!["a*".to_owned()], ..good.clone() }),
            ("agents", Choices { agents: Some(vec![]), ..good.clone() }),
            ("filter", Choices { filter: Some("a".repeat(FILTER_BYTES_MAX + 1)), ..good.clone() }),
            ("payload_version", Choices { payload_version: 2, ..good.clone() }),
            ("headers", Choices { headers: header("webhook-id", "1"), ..good.clone() }),
            ("headers", Choices { headers: header("Content-Type", "1"), ..good.clone() }),
            ("headers", Choices { headers: header("host", "1"), ..good.clone() }),
            ("headers", Choices { headers: header("a b", "1"), ..good.clone() }),
            ("headers", Choices { headers: header("x-a", "1\r\nx-b: 2"), ..good.clone() }),
            ("concurrency", Choices { concurrency: 0, ..good.clone() }),
            ("timeout_ms", Choices { timeout_ms: 999, ..good.clone() }),
            ("timeout_ms", Choices { timeout_ms: 60_001, ..good.clone() }),
            ("waits_ms", Choices { waits_ms: vec![WAIT_MAX_MS + 1], ..good.clone() }),
            ("disable_after_ms", Choices { disable_after_ms: 1, ..good.clone() }),
        ];
        for (field, choices) in bad {
            assert_eq!(choices.check().expect_err(field).field, field);
        }
    }

    #[test]
    fn what_must_stay_in_order_has_one_lane() {
        let of = |order| Choices { order, concurrency: 4, ..Choices::default() };
        let endpoint = of(Order::Endpoint);
        assert!((0..100).all(|seq| endpoint.lane(Some("s"), seq) == 0));
        let session = of(Order::Session);
        for scope in [None, Some("a"), Some("b")] {
            assert!((0..100).all(|seq| session.lane(scope, seq) == session.lane(scope, 0)));
        }
        let lanes: std::collections::BTreeSet<u64> =
            (0..100).map(|nth| session.lane(Some(&format!("session {nth}")), 0)).collect();
        assert_eq!(lanes.len(), 4, "sessions are spread over all lanes");
        // Pinned: deliveries that wait were given their lanes by the release before.
        assert_eq!((session.lane(Some("a"), 0), session.lane(Some("b"), 0), session.lane(None, 0)), (0, 1, 1));
    }
}
