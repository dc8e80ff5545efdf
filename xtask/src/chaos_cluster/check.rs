//! Holds what was accepted against what came out: replies at the endpoint, ends of runs, and the log itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::load::{Accepted, Started};
use crate::chaos_kill::sink::Delivered;
use crate::http::Http;

/// How long the runs that were accepted may take to end once nothing is wrong any more.
const RUNS_MAX: Duration = Duration::from_secs(120);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<String>,
    pub(super) replies: usize,
    pub(super) replies_repeated: usize,
    pub(super) executions: usize,
    pub(super) executions_repeated: usize,
}

/// Whether every message is in a reply.
pub(super) fn is_whole(accepted: &[Accepted], delivered: &[Delivered]) -> bool {
    let lines: BTreeSet<&str> = delivered.iter().flat_map(|one| one.text.lines()).collect();
    accepted.iter().all(|one| lines.contains(one.text.as_str()))
}

/// Each message is in exactly one reply, whose id has one text however often it comes; and a session's replies come in the
/// order of its messages.
pub(super) fn replies(accepted: &[Accepted], delivered: &[Delivered], f: &mut Findings) {
    let mut texts: BTreeMap<&str, &str> = BTreeMap::new();
    // By session, the lines of its replies in the order in which they came first.
    let mut said: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in delivered {
        match texts.insert(&one.reply_id, &one.text) {
            None => said.entry(&one.session).or_default().extend(one.text.lines()),
            Some(before) => {
                f.replies_repeated += 1;
                if before != one.text {
                    f.violations.push(format!("reply {} was {before:?} and then {:?}", one.reply_id, one.text));
                }
            }
        }
    }
    f.replies = texts.len();
    let mut sent: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    for one in accepted {
        sent.entry((one.tenant, one.talker)).or_default().push(&one.text);
    }
    let mut heard: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    for lines in said.values() {
        let Some(first) = lines.first() else { continue };
        let owner = accepted.iter().find(|one| one.text == *first).map(|one| (one.tenant, one.talker));
        match owner {
            Some(owner) => heard.entry(owner).or_default().extend(lines),
            None => f.violations.push(format!("a reply says {first:?}, which nobody sent")),
        }
    }
    for ((tenant, talker), sent) in sent {
        let heard = heard.remove(&(tenant, talker)).unwrap_or_default();
        if heard == sent {
            continue;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        heard.iter().for_each(|line| *counts.entry(line).or_default() += 1);
        let before = f.violations.len();
        for text in &sent {
            match counts.get(text).copied().unwrap_or_default() {
                0 => f.violations.push(format!("lost: {text:?} was accepted and is in no reply")),
                1 => {}
                times => f.violations.push(format!("{text:?} is in {times} replies")),
            }
        }
        if f.violations.len() == before {
            let at =
                sent.iter().zip(&heard).position(|(sent, heard)| sent != heard).unwrap_or(sent.len().min(heard.len()));
            f.violations.push(format!(
                "tenant {tenant}, talker {talker}: out of order at {at}: {:?} came where {:?} was due",
                heard.get(at),
                sent.get(at)
            ));
        }
    }
}

/// Every run that was accepted ends once, with the right result.
pub(super) fn runs(started: &[Started], http: &mut Http, ledger: &Path, f: &mut Findings) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Run {
        state: String,
        output: Value,
    }
    let until = Instant::now() + RUNS_MAX;
    for one in started {
        let run = loop {
            let run: Run = http.get(&format!("/v1/runs/{}", one.id)).with_context(|| format!("run {}", one.id))?;
            if ["completed", "failed", "cancelled", "parked"].contains(&run.state.as_str()) || Instant::now() > until {
                break run;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let right = run.output["twice"] == 2 * one.n || run.output["double"]["twice"] == 2 * one.n;
        if run.state != "completed" || !right {
            f.violations.push(format!("run {} of {} is {} with {}", one.id, one.n, run.state, run.output));
        }
    }
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    text.lines().for_each(|line| *lines.entry(line).or_default() += 1);
    f.executions = text.lines().count();
    f.executions_repeated = f.executions - lines.len();
    for one in started {
        if !lines.contains_key(format!("{} {}", one.id, one.n).as_str()) {
            f.violations.push(format!("run {} of {} ended, and no worker ran it", one.id, one.n));
        }
    }
    Ok(())
}

/// In the log of every partition, epochs only grow: no batch of a former owner comes after one of a later.
pub(super) fn log_is_fenced(url: &str) -> anyhow::Result<Option<String>> {
    let sql = "SELECT count(*) FROM (SELECT epoch, max(epoch) OVER (PARTITION BY partition ORDER BY position) AS latest \
               FROM mainspring.batches) o WHERE epoch < latest";
    let ran = std::process::Command::new("psql").args(["-At", "-c", sql, url]).output().context("psql")?;
    if !ran.status.success() {
        bail!("psql: {}", String::from_utf8_lossy(&ran.stderr));
    }
    let count = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    Ok((count != "0").then(|| format!("{count} batches of former owners come after one of a later owner")))
}
