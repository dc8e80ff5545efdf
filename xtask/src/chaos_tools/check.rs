//! Holds the provider's ledger and ours against each other. Every violation is a sentence with ids.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::provider::Ledger;
use super::proxy::Seen;
use super::tools::{Accepted, Promise, TRIP_STEPS};
use crate::http::Http;

/// A server that was killed within this time after an answer may not have written it down.
const WRITTEN_DOWN_WITHIN: Duration = Duration::from_secs(5);
/// How long what was settled may take to end.
const SETTLED_MAX: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<String>,
    /// How executions stood, by tool and status.
    pub(super) standing: BTreeMap<(&'static str, String), u32>,
    pub(super) settled: usize,
}

/// What was seen from outside.
pub(super) struct Outside<'o> {
    pub(super) ledger: &'o Ledger,
    pub(super) seen: &'o BTreeMap<String, Seen>,
    pub(super) kills: &'o [Instant],
}

impl Outside<'_> {
    fn times(&self, key: &str) -> u32 {
        self.ledger.get(key).copied().unwrap_or(0)
    }

    /// Whether it can't be known what became of a call: its connection ended early, or the server did.
    fn in_doubt(&self, key: &str) -> bool {
        // Killed between its intent and its leaving, nothing is seen of it at all.
        self.cut(key)
            || self.seen.get(key).is_none_or(|seen| {
                seen.requests.iter().any(|(begun, ended)| {
                    let until =
                        ended.map_or_else(|| Instant::now() + WRITTEN_DOWN_WITHIN, |at| at + WRITTEN_DOWN_WITHIN);
                    self.kills.iter().any(|kill| *kill >= *begun && *kill <= until)
                })
            })
    }

    fn cut(&self, key: &str) -> bool {
        self.seen.get(key).is_some_and(|seen| !seen.faults.is_empty())
    }
}

/// Checks every call that was accepted, settles what is unknown by the provider's ledger, and checks that as well.
pub(super) fn check(http: &mut Http, accepted: &[Accepted], outside: &Outside<'_>) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut unknown = BTreeSet::new();
    for call in accepted {
        let shown: Value = http.get(&format!("/v1/tool-executions/{}", call.execution))?;
        let status = shown["status"].as_str().unwrap_or("nothing").to_owned();
        if let Some(violation) = violation(call, &status, outside) {
            let (key, times, seen) = (&call.key, outside.times(&call.key), outside.seen.get(&call.key));
            findings.violations.push(format!(
                "{violation}: {key}, execution {}, done {times} time(s), {seen:?}, {shown}",
                call.execution
            ));
        }
        if status == "unknown" {
            unknown.insert(call.execution.as_str());
        }
        *findings.standing.entry((call.tool, status)).or_default() += 1;
    }
    // A caller that had no answer, and asks again for what was undone meanwhile, has it done anew under a key of its own.
    let first = |key: &'_ str| key.split(":again:").next().unwrap_or_default().to_owned();
    let keys: BTreeSet<String> = accepted.iter().map(|call| first(&call.key)).collect();
    for key in outside.ledger.keys() {
        // A step has the key of its plan, and its name; what undoes it has one more.
        let of = keys.contains(key) || key.match_indices(':').any(|(at, _)| keys.contains(&key[..at]));
        if !of {
            findings.violations.push(format!("{key} was done, and nobody asked for it"));
        }
    }
    let waiting: Value = http.get("/v1/attention")?;
    let waiting: BTreeSet<&str> =
        waiting["attention"].as_array().into_iter().flatten().filter_map(|one| one["run_id"].as_str()).collect();
    if waiting != unknown {
        findings.violations.push(format!(
            "{} executions are unknown, and {} wait for a person: {:?}",
            unknown.len(),
            waiting.len(),
            waiting.symmetric_difference(&unknown).take(5).collect::<Vec<_>>()
        ));
    }
    settle(http, accepted, &unknown, outside, &mut findings)?;
    Ok(findings)
}

/// What is wrong with a call, if anything is.
fn violation(call: &Accepted, status: &str, outside: &Outside<'_>) -> Option<&'static str> {
    let times = outside.times(&call.key);
    match call.promise {
        Promise::Read => (status != "done").then_some("what only reads was not answered"),
        Promise::Done if status != "done" => Some("what may happen twice was dropped"),
        Promise::Done => (times != 1).then_some("what is said to be done is not"),
        Promise::Once if status != "done" => Some("what can be asked about is not known"),
        Promise::Once => (times != 1).then_some("what may happen once did not happen once"),
        Promise::OnceOrUnknown if times > 1 => Some("what may not happen twice did"),
        Promise::OnceOrUnknown => match status {
            "done" if times != 1 => Some("what is said to be done is not"),
            "done" if outside.cut(&call.key) => Some("what nobody can know is said to be done"),
            "unknown" if !outside.in_doubt(&call.key) => Some("what was answered is said to be unknown"),
            "done" | "unknown" => None,
            _ => Some("it ended in no way it can"),
        },
        Promise::Undone if status != "compensated" => Some("what failed was not undone"),
        Promise::Undone => {
            let step = |name: &str| {
                let key = format!("{}:{name}", call.key);
                (outside.times(&key), outside.times(&format!("{key}:comp")))
            };
            TRIP_STEPS.iter().any(|name| step(name) != (1, 1)).then_some("a step was not done and undone once")
        }
    }
}

/// Settles what is unknown, as a person does who has asked the provider.
fn settle(
    http: &mut Http,
    accepted: &[Accepted],
    unknown: &BTreeSet<&str>,
    outside: &Outside<'_>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    for call in accepted.iter().filter(|call| unknown.contains(call.execution.as_str())) {
        let done = outside.times(&call.key) > 0;
        let verdict = if done { json!({ "verb": "done", "result": 1 }) } else { json!({ "verb": "not_done" }) };
        let path = format!("/v1/attention/{}/call/settle", call.execution);
        let answer = http.ask("POST", &path, &[], &serde_json::to_vec(&verdict)?)?;
        if answer.status != 202 {
            findings.violations.push(format!("{} could not be settled: {}", call.execution, answer.status));
            continue;
        }
        let (begun, wanted) = (Instant::now(), if done { "done" } else { "failed" });
        loop {
            let shown: Value = http.get(&format!("/v1/tool-executions/{}", call.execution))?;
            if shown["status"] == wanted {
                findings.settled += 1;
                break;
            }
            if begun.elapsed() > SETTLED_MAX {
                findings.violations.push(format!("{} was settled, and is not {wanted}: {shown}", call.execution));
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let waiting: Value = http.get("/v1/attention")?;
    if waiting["attention"] != json!([]) {
        findings.violations.push(format!("everything is settled, and still there waits {}", waiting["attention"]));
    }
    Ok(())
}
