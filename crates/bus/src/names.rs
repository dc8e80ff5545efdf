//! What streams are called. A pattern names the tenant, so that no stream has two, and the channel if it has one each.

use crate::bus::check_name;

/// The names of a tenant's streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// What comes in.
    pub inbound: Pattern,
    /// What was accepted, in the order of acceptance.
    pub routed: Pattern,
    /// What goes out to channels.
    pub outbound: Pattern,
    /// What happens.
    pub events: Pattern,
}

impl Default for Names {
    fn default() -> Self {
        let pattern = |text: &str| Pattern { text: text.to_owned() };
        Names {
            inbound: pattern("events.inbound.{tenant}.{channel}"),
            routed: pattern("events.routed.{tenant}.{channel}"),
            outbound: pattern("events.outbound.{tenant}.{channel}"),
            events: pattern("events.acf.{tenant}"),
        }
    }
}

/// A name with places for the tenant's and the channel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

/// A pattern that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern for names of streams: {why}")]
pub struct BadPattern {
    text: String,
    why: &'static str,
}

impl Pattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// [`BadPattern`] says what to change.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        let bad = |why| BadPattern { text: text.to_owned(), why };
        if !text.contains("{tenant}") {
            return Err(bad("it needs {tenant}, because no stream has entries of two"));
        }
        let filled = text.replace("{tenant}", "t").replace("{channel}", "c");
        if check_name("stream", &filled).is_err() {
            return Err(bad("only {tenant} and {channel} may stand in it, and no spaces, slashes, stars or brackets"));
        }
        Ok(Pattern { text: text.to_owned() })
    }

    /// Whether each channel has a stream of its own.
    pub fn is_by_channel(&self) -> bool {
        self.text.contains("{channel}")
    }

    /// The name of a stream. A part that would make it another stream's can't be in it.
    pub fn of(&self, tenant: &str, channel: &str) -> Option<String> {
        let fits = |part: &str| !part.is_empty() && !part.contains(['.', ':', '{', '}']);
        if !fits(tenant) || (self.is_by_channel() && !fits(channel)) {
            return None;
        }
        let name = self.text.replace("{tenant}", tenant).replace("{channel}", channel);
        check_name("stream", &name).ok().map(|()| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_patterns() {
        let names = Names::default();
        assert_eq!(names.inbound.of("acme", "web").as_deref(), Some("events.inbound.acme.web"));
        assert_eq!(names.events.of("acme", "").as_deref(), Some("events.acf.acme"));
        let old = Pattern::new("channel:inbound:{tenant}").expect("a pattern");
        assert_eq!((old.of("acme", "web").as_deref(), old.is_by_channel()), (Some("channel:inbound:acme"), false));
    }

    #[test]
    fn no_name_is_spelt_like_another_tenants() {
        let names = Names::default();
        for (tenant, channel) in [("a.b", "c"), ("a", "b.c"), ("a:b", "c"), ("", "c"), ("a", "")] {
            assert_eq!(names.inbound.of(tenant, channel), None, "{tenant} {channel}");
        }
        for bad in ["events.inbound", "events.{tenant}.{what}", "a {tenant}", "{tenant}/*"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }
}
