//! Documents: versions go up by one; a session's state is what a completed turn's agent answered or an operator wrote,
//! each over the version it had seen; how far a delivery got never goes back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::facts::{Document, Run};
use super::tasks::Tasks;

type Session = (u128, String);

/// How far a delivery got, from least to most.
const STATUSES: [&str; 5] = ["queued", "sent", "failed", "delivered", "read"];

#[derive(Debug, Default)]
pub(crate) struct Documents {
    versions: BTreeMap<(u128, String, String), u64>,
    /// What each version of a session's state says.
    states: BTreeMap<Session, BTreeMap<u64, Value>>,
    /// The versions each turn wrote.
    written: BTreeMap<u128, Vec<u64>>,
    /// The states agents answered with in a turn; nothing for an answer without one.
    answered: BTreeMap<u128, Vec<Option<Value>>>,
    /// What operators are about to write.
    operators: BTreeMap<Session, Vec<Value>>,
    statuses: BTreeMap<(u128, String), usize>,
    /// The version of its session's state when a turn began.
    at_start: BTreeMap<u128, u64>,
}

impl Documents {
    pub(super) fn enter_run(&mut self, run: &Run) {
        if run.workflow == "turn"
            && let Some(session) = &run.key
            && !self.at_start.contains_key(&run.id)
        {
            let version = self.latest(&(run.tenant, session.clone()));
            self.at_start.insert(run.id, version);
        }
    }

    fn latest(&self, session: &Session) -> u64 {
        self.states.get(session).and_then(|versions| versions.last_key_value()).map_or(0, |(version, _)| *version)
    }

    pub(super) fn enter(
        &mut self,
        document: Document,
        violations: &mut Vec<String>,
        marks: &mut BTreeSet<&'static str>,
    ) {
        let Document { tenant, kind, name, version, body, by } = document;
        let before = self.versions.insert((tenant, kind.clone(), name.clone()), version).unwrap_or(0);
        if version != before + 1 {
            violations.push(format!("{kind} {name:?} has version {version} after version {before}"));
        }
        match kind.as_str() {
            "state" => {
                let says: Value = serde_json::from_slice(&body).unwrap_or_default();
                if says["over"].as_u64() != Some(version - 1) {
                    violations
                        .push(format!("version {version} of the state of {name} is written over another: {says}"));
                }
                let session = (tenant, name.clone());
                match by {
                    Some(turn) => {
                        let answered = self.answered.get(&turn).is_some_and(|all| all.contains(&Some(says.clone())));
                        if !answered {
                            violations
                                .push(format!("turn {turn:x} wrote a state its agent did not answer with: {says}"));
                        }
                        self.written.entry(turn).or_default().push(version);
                        marks.insert("a turn left a state");
                    }
                    None => {
                        let theirs = self.operators.entry(session.clone()).or_default();
                        match theirs.iter().position(|known| *known == says) {
                            Some(at) => drop(theirs.swap_remove(at)),
                            None => violations.push(format!("a state of {name} is nobody's: {says}")),
                        }
                        marks.insert("an operator changed a session's state");
                    }
                }
                self.states.entry(session).or_default().insert(version, says);
            }
            "delivery" => {
                let says: Value = serde_json::from_slice(&body).unwrap_or_default();
                let rank = STATUSES.iter().position(|status| says["status"] == *status);
                let Some(rank) = rank else {
                    violations.push(format!("delivery {name} has no status: {says}"));
                    return;
                };
                let before = self.statuses.insert((tenant, name.clone()), rank);
                if before.is_some_and(|before| before >= rank) {
                    violations.push(format!("delivery {name} went back to {}", STATUSES[rank]));
                }
                if rank == 4 {
                    marks.insert("a reply was read");
                }
            }
            _ => {}
        }
    }

    /// An agent is given the state of its session.
    pub(super) fn given(&self, turn: u128, session: &Session, version: u64, says: &Value) -> Result<(), String> {
        let at_start = self.at_start.get(&turn).copied().unwrap_or(0);
        if version < at_start {
            return Err(format!("turn {turn:x} was given state {version}, {at_start} was there when it began"));
        }
        let known = self.states.get(session).and_then(|versions| versions.get(&version));
        match known {
            Some(known) if known == says => Ok(()),
            None if version == 0 => Ok(()),
            other => Err(format!("turn {turn:x} was given state {version} as {says}, it is {other:?}")),
        }
    }

    /// An agent answers.
    pub(super) fn answers(&mut self, turn: u128, state: Option<Value>) {
        self.answered.entry(turn).or_default().push(state);
    }

    /// An operator is about to write.
    pub(super) fn operator_writes(&mut self, session: Session, state: Value) {
        self.operators.entry(session).or_default().push(state);
    }

    pub(super) fn settle(&self, tasks: &Tasks, violations: &mut Vec<String>) {
        for (turn, versions) in &self.written {
            let state = tasks.run(*turn).map_or("nowhere", |run| run.state);
            if state != "completed" || versions.len() > 1 {
                violations.push(format!("turn {turn:x}, which is {state}, wrote states {versions:?}"));
            }
        }
        for (turn, answers) in &self.answered {
            let completed = tasks.run(*turn).is_some_and(|run| run.state == "completed");
            if completed && answers.iter().all(Option::is_some) && !self.written.contains_key(turn) {
                violations.push(format!("turn {turn:x} completed, and the state its agent answered with is lost"));
            }
        }
    }
}
