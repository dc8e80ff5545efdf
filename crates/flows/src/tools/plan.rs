//! A plan: several tools in order, each with arguments from what came before, undone together if one fails.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::template::Condition;
use super::tool::{Finding, Related, Retry, TIMEOUT_MS_MAX, WAIT_MS_MAX, check_name, check_template};

/// Steps of one plan, those inside of groups counted.
pub const STEPS_MAX: usize = 64;

/// What is carried out, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Steps, and groups of steps that run at the same time.
    pub steps: Vec<Item>,
    /// What it gives, filled in from `args` and `steps`. Without it: the result of each step, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// How long all of it may take, in milliseconds. Then it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// A part of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Item {
    /// Steps that run at the same time.
    Group {
        /// Which.
        parallel: Vec<PlanStep>,
    },
    /// One step.
    One(Box<PlanStep>),
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanStep {
    /// Its name, by which later steps find its result.
    pub name: String,
    /// The tool.
    pub tool: String,
    /// Its arguments, filled in from `args` and `steps`, as `{{steps.flight.id}}`. Without any, those of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// Whether it is carried out at all. If not, its result is null.
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// Instead of the tool's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Instead of the tool's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Instead of the tool's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<Related>,
}

impl Item {
    /// Its steps, in order.
    pub fn steps(&self) -> &[PlanStep] {
        match self {
            Item::Group { parallel } => parallel,
            Item::One(step) => std::slice::from_ref(&**step),
        }
    }
}

impl Plan {
    /// All steps, in order.
    pub fn all(&self) -> impl Iterator<Item = &PlanStep> {
        self.steps.iter().flat_map(Item::steps)
    }

    /// The tools it uses.
    pub fn tools(&self) -> impl Iterator<Item = &str> {
        let undone = self.all().filter_map(|step| step.compensation.as_ref()).map(|related| related.tool.as_str());
        self.all().map(|step| step.tool.as_str()).chain(undone)
    }

    pub(super) fn check(&self, found: &mut Vec<Finding>) {
        let count = self.all().count();
        if !(1..=STEPS_MAX).contains(&count) {
            found.push(Finding::new("/provider/steps", format!("use 1 to {STEPS_MAX} steps, not {count}")));
        }
        if self.deadline_ms.is_some_and(|ms| !(1..=WAIT_MS_MAX).contains(&ms)) {
            found.push(Finding::new("/provider/deadline_ms", format!("use 1 to {WAIT_MS_MAX}")));
        }
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for (nth, item) in self.steps.iter().enumerate() {
            let place = format!("/provider/steps/{nth}");
            if item.steps().is_empty() {
                found.push(Finding::new(&place, "a group has at least one step"));
            }
            for step in item.steps() {
                check_step(&place, step, &known, found);
            }
            // Steps of a group don't see each other.
            for step in item.steps() {
                if !known.insert(&step.name) {
                    found.push(Finding::new(&place, format!("the name {:?} is used twice", step.name)));
                }
            }
        }
        if let Some(result) = &self.result {
            check_template("/provider/result", result, &["args", "steps"], found);
            check_steps("/provider/result", result, &known, found);
        }
    }
}

fn check_step(place: &str, step: &PlanStep, known: &BTreeSet<&str>, found: &mut Vec<Finding>) {
    check_name(&format!("{place}/name"), &step.name, found);
    if step.name.contains('.') {
        found.push(Finding::new(format!("{place}/name"), "a step's name has no dot: later steps name it in a path"));
    }
    if step.timeout_ms.is_some_and(|ms| !(1..=TIMEOUT_MS_MAX).contains(&ms)) {
        found.push(Finding::new(format!("{place}/timeout_ms"), format!("use 1 to {TIMEOUT_MS_MAX}")));
    }
    let parts = [("arguments", step.arguments.as_ref()), ("if", step.when.as_ref().map(|when| &when.value))];
    for (what, written) in parts {
        let Some(written) = written else { continue };
        let place = format!("{place}/{what}");
        check_template(&place, written, &["args", "steps"], found);
        check_steps(&place, written, known, found);
    }
    if let Some(arguments) = step.compensation.as_ref().and_then(|related| related.arguments.as_ref()) {
        check_template(&format!("{place}/compensation"), arguments, &["args", "result", "call"], found);
    }
}

/// Checks that only earlier steps are looked at.
fn check_steps(place: &str, written: &Value, known: &BTreeSet<&str>, found: &mut Vec<Finding>) {
    for path in super::template::paths(written).unwrap_or_default() {
        let mut parts = path.split('.');
        if parts.next() == Some("steps") {
            let name = parts.next().unwrap_or_default();
            if !known.contains(name) {
                found.push(Finding::new(place, format!("{path:?}: no step before this one is called {name:?}")));
            }
        }
    }
}
