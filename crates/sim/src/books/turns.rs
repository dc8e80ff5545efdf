//! Turns and those who act on their behalf: one at a time, never again once its right is gone, nothing done twice that
//! can't be undone, and nothing begun anew after it.
//!
//! The chain of superseded turns is followed here by who took over from whom; what an agent did, the agent itself says.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Document, Message, Run, Task};

type Session = (u128, String);
/// Tenant, group, tool, key.
type Effect = (u128, u128, String, String);

/// The workflow whose runs are turns.
const TURN: &str = "turn";

#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// How often a chain of an agent may be begun anew, by the agent's name.
    restarts_max: BTreeMap<String, u32>,
    /// Each turn's session.
    sessions: BTreeMap<u128, Session>,
    /// Whose messages a turn took over.
    before: BTreeMap<u128, u128>,
    superseded: BTreeSet<u128>,
    /// The fence of each turn that has one.
    fences: BTreeMap<u128, u32>,
    /// Turns with a fence, by session.
    holders: BTreeMap<Session, BTreeSet<u128>>,
    fallen: BTreeSet<(u128, u32)>,
    /// Turns past their commit point, by what brought them there.
    committed: BTreeMap<u128, &'static str>,
    /// The messages of each turn that were ever with it.
    had: BTreeMap<u128, BTreeSet<u128>>,
    /// Of each group: how many messages its agent was asked to answer, each number once.
    sizes: BTreeMap<u128, BTreeSet<usize>>,
    effects: BTreeMap<Effect, Done>,
    /// Results of phases that were kept: group, phase, what it says.
    artifacts: BTreeSet<(u128, String, String)>,
}

/// What agents did about one effect.
#[derive(Debug, Default)]
struct Done {
    /// It may have happened, and nobody said that it did not.
    out: bool,
    /// What agents said came of it.
    results: BTreeSet<String>,
}

impl Turns {
    pub(super) fn set_restarts_max(&mut self, agent: &str, max: u32) {
        self.restarts_max.insert(agent.to_owned(), max);
    }

    /// The turn with which the chain of a turn began, and how long the chain is.
    pub(super) fn chain(&self, turn: u128) -> (u128, u32) {
        let (mut first, mut length) = (turn, 0);
        while let Some(before) = self.before.get(&first) {
            (first, length) = (*before, length + 1);
        }
        (first, length)
    }

    fn allowed(&self, turn: u128) -> u32 {
        let agent = self.sessions.get(&turn).and_then(|(_, key)| key.split(':').nth(1)).unwrap_or_default();
        self.restarts_max.get(agent).copied().unwrap_or(u32::MAX)
    }

    pub(super) fn enter_run(&mut self, run: &Run, violations: &mut Vec<String>, marks: &mut BTreeSet<&'static str>) {
        if run.workflow != TURN {
            return;
        }
        self.sessions.entry(run.id).or_insert_with(|| (run.tenant, run.key.clone().unwrap_or_default()));
        if run.state != "superseded" || !self.superseded.insert(run.id) {
            return;
        }
        if let Some(how) = self.committed.get(&run.id) {
            violations.push(format!("turn {:x} was superseded after {how}", run.id));
        }
        let Some(by) = run.superseded_by else {
            violations.push(format!("turn {:x} was superseded by nobody", run.id));
            return;
        };
        if self.before.insert(by, run.id).is_some() {
            violations.push(format!("turn {by:x} took over from two"));
        }
        let (length, max) = (self.chain(by).1, self.allowed(run.id));
        if length > max {
            violations.push(format!("turn {by:x} is the {length}th after one that was superseded, {max} are allowed"));
        }
        if length == max {
            marks.insert("a chain of turns was begun anew as often as it may");
        }
    }

    pub(super) fn enter_task(&mut self, task: &Task, violations: &mut Vec<String>) {
        if task.index != 0 || !self.sessions.contains_key(&task.run) {
            return;
        }
        let (now, before) = (task.fence.filter(|_| !task.ended), self.fences.get(&task.run).copied());
        if now == before {
            return;
        }
        let session = self.sessions[&task.run].clone();
        let holders = self.holders.entry(session.clone()).or_default();
        if let Some(before) = before {
            self.fallen.insert((task.run, before));
        }
        match now {
            Some(fence) => {
                if self.fallen.contains(&(task.run, fence)) {
                    violations.push(format!("fence {fence} of turn {:x} fell and stands again", task.run));
                }
                self.fences.insert(task.run, fence);
                holders.insert(task.run);
                if holders.len() > 1 {
                    violations.push(format!("two agents may act for {session:?}: {holders:x?}"));
                }
            }
            None => {
                self.fences.remove(&task.run);
                holders.remove(&task.run);
            }
        }
    }

    pub(super) fn enter_message(
        &mut self,
        message: &Message,
        violations: &mut Vec<String>,
        marks: &mut BTreeSet<&'static str>,
    ) {
        let Some(turn) = message.run else { return };
        let fresh = self.had.entry(turn).or_default().insert(message.id);
        if message.state == "received" && fresh {
            if let Some(how) = self.committed.get(&turn) {
                violations.push(format!("message {:x} became part of turn {turn:x} after {how}", message.id));
            }
            if self.sizes.contains_key(&turn) {
                marks.insert("messages were absorbed");
            }
        }
    }

    pub(super) fn enter_document(
        &mut self,
        document: &Document,
        violations: &mut Vec<String>,
        marks: &mut BTreeSet<&'static str>,
    ) {
        let Some(turn) = document.by.filter(|_| matches!(document.kind.as_str(), "effect" | "artifact")) else {
            return;
        };
        let said: serde_json::Value = serde_json::from_slice(&document.body).unwrap_or_default();
        let stands = self.fences.get(&turn).copied();
        let shown = said["position"].as_u64().and_then(|position| u32::try_from(position).ok()).or(stands);
        // An outcome may be another's that holds a fence now.
        if stands.is_none() || (said["status"] == "started" && shown != stands) {
            let (kind, name) = (&document.kind, &document.name);
            violations
                .push(format!("{kind} {name:?} was written for turn {turn:x} at {shown:?}, its fence is {stands:?}"));
        }
        let group = self.chain(turn).0;
        if document.name.split('/').next().and_then(id_of) != Some(group) {
            violations.push(format!("{:?} was written by turn {turn:x} of group {group:032x}", document.name));
        }
        if said["status"] == "started" && said["policy"] == "irreversible" {
            self.commits(turn, "an irreversible effect", violations);
            marks.insert("an irreversible effect was begun");
        }
    }

    /// A turn is past its commit point.
    pub(super) fn commits(&mut self, turn: u128, how: &'static str, violations: &mut Vec<String>) {
        if self.superseded.contains(&turn) {
            violations.push(format!("turn {turn:x} was superseded, and then {how}"));
        }
        self.committed.entry(turn).or_insert(how);
    }

    pub(super) fn fence_fell(&self, turn: u128, position: u32) -> bool {
        self.fallen.contains(&(turn, position))
    }

    pub(super) fn asked(
        &mut self,
        turn: u128,
        told: (&str, usize),
        violations: &mut Vec<String>,
        marks: &mut BTreeSet<&'static str>,
    ) {
        let (group, length) = self.chain(turn);
        let (told_group, messages) = told;
        if id_of(told_group) != Some(group) {
            violations.push(format!("turn {turn:x} of group {group:x} was told that its group is {told_group}"));
        }
        self.sizes.entry(turn).or_default().insert(messages);
        let max = self.allowed(turn);
        let sizes = self.sizes.entry(group).or_default();
        sizes.insert(messages);
        let anew = sizes.len().saturating_sub(1) as u64;
        if anew > u64::from(max) {
            violations.push(format!("the agent of group {group:x} began anew {anew} times, {max} are allowed"));
        }
        if anew > u64::from(length) && anew == u64::from(max) {
            marks.insert("a chain of turns was begun anew as often as it may");
        }
    }

    /// An agent was told to carry an effect out.
    pub(super) fn effect_go(
        &mut self,
        turn: u128,
        effect: (&str, &str),
        policy: &str,
        key: &str,
    ) -> Result<(), String> {
        let (place, (tool, name)) = (self.effect_of(turn, effect), effect);
        let (group, expected) = (place.1, format!("{tool}:{name}:turn_group"));
        let done = self.effects.entry(place).or_default();
        let was_out = std::mem::replace(&mut done.out, true);
        let named = key.rsplit_once(':').is_some_and(|(name, of)| name == expected && id_of(of) == Some(group));
        if !named {
            return Err(format!("the effect {expected:?} is to be carried out under {key:?}"));
        }
        if was_out && matches!(policy, "irreversible" | "compensatable") {
            return Err(format!("{policy} effect {expected:?} is carried out again, in turn {turn:x}"));
        }
        Ok(())
    }

    /// An agent is about to report what came of an effect.
    pub(super) fn effect_ends(&mut self, turn: u128, effect: (&str, &str), result: Option<&str>) {
        let place = self.effect_of(turn, effect);
        let done = self.effects.entry(place).or_default();
        match result {
            Some(result) => {
                done.results.insert(result.to_owned());
            }
            None => done.out = false,
        }
    }

    /// An agent was told what had come of an effect.
    pub(super) fn effect_done(&self, turn: u128, effect: (&str, &str), result: &str) -> Result<(), String> {
        let known = self.effects.get(&self.effect_of(turn, effect));
        if known.is_some_and(|known| known.results.contains(result)) {
            return Ok(());
        }
        Err(format!("effect {effect:?} is said to have ended with {result:?} in turn {turn:x}: nobody said so"))
    }

    fn effect_of(&self, turn: u128, (tool, key): (&str, &str)) -> Effect {
        let tenant = self.sessions.get(&turn).map_or(0, |(tenant, _)| *tenant);
        (tenant, self.chain(turn).0, tool.to_owned(), key.to_owned())
    }

    /// An agent is about to keep a phase's result.
    pub(super) fn artifact_kept(&mut self, turn: u128, phase: &str, says: &str) {
        let group = self.chain(turn).0;
        self.artifacts.insert((group, phase.to_owned(), says.to_owned()));
    }

    /// An agent was given a phase's result.
    pub(super) fn artifact_given(&self, turn: u128, phase: &str, says: &str) -> Result<(), String> {
        let group = self.chain(turn).0;
        if self.artifacts.contains(&(group, phase.to_owned(), says.to_owned())) {
            return Ok(());
        }
        Err(format!("turn {turn:x} was given a result of {phase:?} that nobody of its group kept: {says}"))
    }
}

/// The number of an id as it is written.
fn id_of(text: &str) -> Option<u128> {
    u128::from_str_radix(&text.replace('-', ""), 16).ok()
}
