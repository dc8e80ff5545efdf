//! What becomes of a task once all its parents have ended, and which features of a definition are not executed yet.
//!
//! Without conditions: a parent that failed or was cancelled cancels it, parents that were all skipped skip it, and
//! otherwise it runs. Conditions change that. Those of one group are alternatives, and an action happens when each of its
//! groups is met; skipping goes before cancelling, and that before running.
//!
//! - If there are conditions that skip it, they stand in place of the rule that skips it with its parents.
//! - Conditions that cancel it come on top of the rule that cancels it with its parents.
//! - Conditions it waits for that are not met when all parents have ended never will be. Upstream, such a task would
//!   stay in the queue for ever in one implementation, and run all the same in another; here it is skipped, so that the
//!   run comes to an end and what depends on the task sees that it did not run.
//!
//! A condition whose expression can't be evaluated is neither met nor not: it fails the task, unless the other
//! conditions have decided without it.
//!
//! What this module does not know: conditions on time or on events, and how a verdict is carried out.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::{Environment, Expression};
use crate::definition::{Condition, ConditionAction, ConditionOn, Definition, Task};

/// A parent that has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parent<'a> {
    /// Its index in the workflow's list of tasks.
    pub task: u16,
    /// Its name.
    pub name: &'a str,
    /// How it ended.
    pub ended: Ended<'a>,
}

/// How a parent ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ended<'a> {
    /// With an output. `{"skipped": true}` as an output counts as skipped, as everywhere on this wire.
    Completed(&'a Value),
    /// It did not run. Conditions see the output `{"skipped": true}`.
    Skipped,
    /// Its last attempt failed.
    Failed,
    /// It was cancelled, or one of its own parents failed.
    Cancelled,
}

/// What becomes of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is queued.
    Run {
        /// The outputs that met the conditions it waited for, by their data keys: an object, `{}` if there were none.
        triggers: Value,
    },
    /// It completes at once, with the output `{"skipped": true}`.
    Skip,
    /// It is cancelled.
    Cancel {
        /// Why, as a sentence.
        reason: String,
    },
    /// It fails, and is not tried again: the same parents would always fail it.
    Fail {
        /// Why, as a sentence.
        error: String,
    },
}

/// Decides what becomes of a task whose parents have all ended. The same parents always give the same verdict.
///
/// A task with conditions on time or on events fails: [`unsupported`] tells before.
///
/// # Panics
/// If a parent of the task is missing.
pub fn decide(task: &Task, parents: &[Parent<'_>]) -> Verdict {
    if let Some(feature) = unsupported_condition(task) {
        return Verdict::Fail { error: format!("the task {:?} has {feature}, which are not executed yet", task.name) };
    }
    let parents: Vec<&Parent<'_>> = parents.iter().filter(|parent| task.parents.contains(&parent.task)).collect();
    assert_eq!(parents.len(), task.parents.len(), "each parent of {:?} is given once", task.name);

    let skip = action(task, &parents, &[ConditionAction::Skip]);
    let default = !parents.is_empty() && parents.iter().all(|parent| parent.is_skipped());
    match skip.map_or(if default { Met::Yes } else { Met::No }, |outcome| outcome.met) {
        Met::Yes => return Verdict::Skip,
        Met::Unknown(error) => return Verdict::Fail { error },
        Met::No => {}
    }
    for parent in &parents {
        let ended = match parent.ended {
            Ended::Failed => "failed",
            Ended::Cancelled => "was cancelled",
            Ended::Completed(_) | Ended::Skipped => continue,
        };
        return Verdict::Cancel { reason: format!("the task {:?}, which it depends on, {ended}", parent.name) };
    }
    if let Some(cancel) = action(task, &parents, &[ConditionAction::Cancel]) {
        match cancel.met {
            Met::Yes => {
                let reason = format!("a condition that cancels it is met by {}", cancel.met_by.join(", "));
                return Verdict::Cancel { reason };
            }
            Met::Unknown(error) => return Verdict::Fail { error },
            Met::No => {}
        }
    }
    let Some(wait) = action(task, &parents, &[ConditionAction::Queue, ConditionAction::Create]) else {
        return Verdict::Run { triggers: json!({}) };
    };
    match wait.met {
        Met::Yes => Verdict::Run { triggers: Value::Object(wait.data) },
        Met::No => Verdict::Skip,
        Met::Unknown(error) => Verdict::Fail { error },
    }
}

impl Parent<'_> {
    fn is_skipped(&self) -> bool {
        match self.ended {
            Ended::Completed(output) => output.get("skipped") == Some(&Value::Bool(true)),
            Ended::Skipped => true,
            Ended::Failed | Ended::Cancelled => false,
        }
    }

    /// What conditions see. A parent that failed or was cancelled has none, and meets none.
    fn output(&self) -> Option<&Value> {
        static SKIPPED: LazyLock<Value> = LazyLock::new(|| json!({"skipped": true}));
        match self.ended {
            Ended::Completed(output) => Some(output),
            Ended::Skipped => Some(&SKIPPED),
            Ended::Failed | Ended::Cancelled => None,
        }
    }
}

/// Whether something is met, if that can be known.
enum Met {
    Yes,
    No,
    Unknown(String),
}

impl Met {
    fn or(self, other: Met) -> Met {
        match (self, other) {
            (Met::Yes, _) | (_, Met::Yes) => Met::Yes,
            (Met::Unknown(error), _) | (_, Met::Unknown(error)) => Met::Unknown(error),
            (Met::No, Met::No) => Met::No,
        }
    }

    fn and(self, other: Met) -> Met {
        match (self, other) {
            (Met::No, _) | (_, Met::No) => Met::No,
            (Met::Unknown(error), _) | (_, Met::Unknown(error)) => Met::Unknown(error),
            (Met::Yes, Met::Yes) => Met::Yes,
        }
    }
}

/// The conditions of one action, evaluated.
struct Outcome {
    met: Met,
    /// The outputs that met some, by the conditions' data keys.
    data: Map<String, Value>,
    /// The conditions that were met, for people.
    met_by: Vec<String>,
}

/// Evaluates the conditions of an action. `None` if there are none: then its default holds. Conditions on a task that
/// is no parent have no effect.
fn action(task: &Task, parents: &[&Parent<'_>], actions: &[ConditionAction]) -> Option<Outcome> {
    let mut groups: BTreeMap<u32, Met> = BTreeMap::new();
    let mut data = Map::new();
    let mut met_by = Vec::new();
    for condition in task.conditions.iter().filter(|condition| actions.contains(&condition.action)) {
        let ConditionOn::Parent(index) = condition.on else { continue };
        let Some(parent) = parents.iter().find(|parent| parent.task == index) else { continue };
        let output = parent.output();
        let met = output.map_or(Met::No, |output| evaluated(condition, output));
        if let (Met::Yes, Some(output)) = (&met, output) {
            data.insert(condition.data_key.clone(), output.clone());
            let expression = condition.expression.as_deref().unwrap_or("true");
            met_by.push(format!("{:?} (`{}`)", parent.name, super::shortened(expression, super::SHOWN_BYTES_MAX)));
        }
        let group = groups.remove(&condition.group).unwrap_or(Met::No);
        groups.insert(condition.group, group.or(met));
    }
    let met = groups.into_values().reduce(Met::and)?;
    Some(Outcome { met, data, met_by })
}

fn evaluated(condition: &Condition, output: &Value) -> Met {
    let Some(text) = &condition.expression else { return Met::Yes };
    let expression = match Expression::parse(text) {
        Ok(expression) => expression,
        Err(error) => return Met::Unknown(format!("the expression `{text}` can't be read: {error}")),
    };
    match expression.is_true(&Environment::Parent { output }) {
        Ok(true) => Met::Yes,
        Ok(false) => Met::No,
        Err(error) => Met::Unknown(error.to_string()),
    }
}

/// Names the first feature of a task that is not executed yet, in the plural.
pub fn unsupported(task: &Task) -> Option<&'static str> {
    if let Some(feature) = unsupported_condition(task) {
        return Some(feature);
    }
    if task.durable {
        return Some("durable tasks");
    }
    if task.batch.is_some() {
        return Some("batches");
    }
    if !task.concurrency.is_empty() {
        return Some("limits on concurrency");
    }
    None
}

fn unsupported_condition(task: &Task) -> Option<&'static str> {
    task.conditions.iter().find_map(|condition| match condition.on {
        ConditionOn::Parent(_) => None,
        ConditionOn::Sleep(_) => Some("conditions on time"),
        ConditionOn::Event { .. } => Some("conditions on events"),
    })
}

/// Names the first feature of a workflow or of one of its tasks that is not executed yet, in the plural. Schedules are
/// not among them: a workflow that has some is of use without them.
pub fn unsupported_in(definition: &Definition) -> Option<&'static str> {
    if !definition.concurrency.is_empty() {
        return Some("limits on concurrency");
    }
    if definition.idempotency.is_some() {
        return Some("idempotency keys");
    }
    if !definition.filters.is_empty() {
        return Some("filters on events");
    }
    definition.tasks.iter().chain(&definition.on_failure).find_map(unsupported)
}
