//! The endpoint's ledger against what was accepted and what the server says it gave up.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::receiver::Taken;
use crate::http::Http;

/// An event the server said it had accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub(super) seq: u64,
    pub(super) n: u64,
    pub(super) session: u64,
}

#[derive(Deserialize)]
struct Letters {
    dead_letters: Vec<Letter>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Letter {
    delivery_id: String,
}

/// The ids of all deliveries that were given up.
pub(super) fn dead_letters<'a>(
    http: &mut Http,
    hooks: impl Iterator<Item = &'a str>,
) -> anyhow::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for hook in hooks {
        let mut from = String::new();
        loop {
            let page: Letters = http.get(&format!("/v1/webhooks/{hook}/dead-letters?limit=200{from}"))?;
            all.extend(page.dead_letters.into_iter().map(|letter| letter.delivery_id));
            match page.next {
                Some(next) => from = format!("&from={next}"),
                None => break,
            }
        }
    }
    Ok(all)
}

/// Events that were accepted and neither arrived nor were given up, for each subscription that wants them.
pub(super) fn missing(
    hooks: &[(&'static str, String)],
    owed: &[Owed],
    taken: &[Taken],
    dead: &BTreeSet<String>,
) -> Vec<String> {
    let arrived: BTreeSet<&str> = taken.iter().filter(|one| one.ok).map(|one| one.id.as_str()).collect();
    let mut missing = Vec::new();
    for (kind, hook) in hooks {
        for event in owed.iter().filter(|event| *kind != "filtered" || event.n % 3 == 0) {
            let id = format!("msg_{hook}_{:016x}", event.seq);
            if !arrived.contains(id.as_str()) && !dead.contains(&id) {
                missing.push(format!(
                    "{kind}: event {} (n {}, session {}) did not arrive",
                    event.seq, event.n, event.session
                ));
            }
        }
    }
    missing
}

/// Requests of one id that differ in their bodies.
pub(super) fn repeats(taken: &[Taken]) -> Vec<String> {
    let mut bodies: BTreeMap<&str, &str> = BTreeMap::new();
    let mut violations = Vec::new();
    for one in taken {
        if *bodies.entry(&one.id).or_insert(&one.body) != one.body {
            violations.push(format!("{} came with another body", one.id));
        }
    }
    violations
}

/// Events that came before one that was told earlier, where order was asked for.
pub(super) fn order(hooks: &[(&'static str, String)], taken: &[Taken]) -> Vec<String> {
    let mut violations = Vec::new();
    for (kind, hook) in hooks.iter().filter(|(kind, _)| ["session", "endpoint"].contains(kind)) {
        let mut latest: BTreeMap<u64, u64> = BTreeMap::new();
        for one in taken.iter().filter(|one| one.id.contains(hook.as_str())) {
            let said: serde_json::Value = serde_json::from_str(&one.body).unwrap_or_default();
            let (seq, session) =
                (said["sequence"].as_u64().unwrap_or(0), said["data"]["session"].as_u64().unwrap_or(0));
            let group = if *kind == "session" { session } else { 0 };
            let latest = latest.entry(group).or_default();
            if seq < *latest {
                violations.push(format!("{kind}: event {seq} came after {latest}"));
            }
            *latest = (*latest).max(seq);
        }
    }
    violations
}
