//! Which events a subscription wants, by name: `*`, `tool.*`, or exact; and an index over many subscriptions, so that an
//! event is compared with few of them. Pure.

use std::collections::BTreeMap;

/// What Mainspring tells about webhooks themselves. `*` leaves them out: whoever gets everything would get news of its
/// own deliveries, and of those news again.
const OWN_PREFIX: &str = "webhook.";
/// Never delivered: they are how deliveries are recorded.
const RECORDS: [&str; 4] = [super::ATTEMPT_EVENT, super::CHANGED_EVENT, super::BEGUN_EVENT, super::SETTINGS_EVENT];

/// Whether a pattern can be used.
pub fn is_pattern(text: &str) -> bool {
    let name = text.strip_suffix(".*").unwrap_or(text);
    text == "*"
        || (!name.is_empty() && text.len() <= 200 && !name.contains(['*', ' ']) && !name.chars().any(char::is_control))
}

/// Whether a pattern fits an event's name.
pub fn fits(pattern: &str, name: &str) -> bool {
    if RECORDS.contains(&name) {
        return false;
    }
    match pattern.strip_suffix('*') {
        None => pattern == name,
        Some("") => !name.starts_with(OWN_PREFIX),
        // With the dot, so that `tool.*` is not `toolbox.opened`.
        Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
    }
}

/// Subscriptions by the patterns they have, each by its place in a list.
#[derive(Debug, Default)]
pub struct Index {
    exact: BTreeMap<String, Vec<usize>>,
    prefixes: BTreeMap<String, Vec<usize>>,
    all: Vec<usize>,
}

impl Index {
    /// Adds a subscription's patterns.
    pub fn add(&mut self, nth: usize, patterns: &[String]) {
        for pattern in patterns {
            let place = match pattern.strip_suffix('*') {
                None => self.exact.entry(pattern.clone()).or_default(),
                Some("") => &mut self.all,
                Some(prefix) => self.prefixes.entry(prefix.to_owned()).or_default(),
            };
            place.push(nth);
        }
    }

    /// The subscriptions that want an event of this name, each once, in order.
    pub fn wanting(&self, name: &str) -> Vec<usize> {
        if RECORDS.contains(&name) {
            return Vec::new();
        }
        let mut found: Vec<usize> = self.exact.get(name).into_iter().flatten().copied().collect();
        let dots = name.char_indices().filter(|(_, c)| *c == '.').map(|(at, _)| at + 1);
        for prefix in dots.filter(|at| *at < name.len()).map(|at| &name[..at]) {
            found.extend(self.prefixes.get(prefix).into_iter().flatten());
        }
        if !name.starts_with(OWN_PREFIX) {
            found.extend(&self.all);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_finds_what_the_patterns_fit() {
        let patterns = [
            "*",
            "tool.*",
            "tool.done",
            "tool.done.*",
            "turn.*",
            "turn.completed",
            "webhook.*",
            "webhook.disabled",
            "a.*",
        ];
        let names = [
            "tool.done",
            "tool.done.late",
            "tool.",
            "tool",
            "toolbox.opened",
            "turn.completed",
            "turn.failed",
            "webhook.disabled",
            "webhook.attempt",
            "webhook.changed",
            "webhook.recovered",
            "a.b.c",
            "x",
            "",
        ];
        let mut index = Index::default();
        for (nth, pattern) in patterns.iter().enumerate() {
            assert!(is_pattern(pattern), "{pattern}");
            // Twice, as careless people do.
            index.add(nth, &[(*pattern).to_owned(), (*pattern).to_owned()]);
        }
        for name in names {
            let fitting: Vec<usize> = (0..patterns.len()).filter(|nth| fits(patterns[*nth], name)).collect();
            assert_eq!(index.wanting(name), fitting, "{name}");
        }
        assert_eq!(index.wanting("tool.done"), [0, 1, 2]);
        assert_eq!(index.wanting("webhook.disabled"), [6, 7], "not by *");
        assert!(index.wanting("webhook.attempt").is_empty(), "a record of a delivery is not delivered");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", "**", "*.done", "tool.*.done", "to*", ".*", "a b", "a\n", &"a".repeat(201)] {
            assert!(!is_pattern(bad), "{bad:?}");
        }
    }
}
