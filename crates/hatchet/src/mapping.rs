//! A checked definition in the core's terms.
//!
//! What this module does not know: how a definition came in, what the core does with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainspring_core::id::fingerprint;
use mainspring_core::place;
use mainspring_core::rate::RateUse;
use mainspring_core::workflow::{RetryRule, Source, Sticky, TaskDef, When, WorkflowDef};

use crate::definition::{
    Comparator, ConditionOn, Definition, LabelValue, LabelWish, RateLimit, RateLimitKey, Sticky as Stickiness, Task,
    Units,
};
use crate::expression;

/// Counted up when this module makes something else of the same definition, so that versions registered before are
/// made anew when a worker registers them again.
const REVISION: u8 = 1;
/// Times in a row a task may lose its worker before it fails, as these workers' authors expect.
const LOSSES_MAX: u32 = 10;

/// The definition for the core, with the request it came in.
pub fn workflow(definition: &Definition, request: Bytes) -> WorkflowDef {
    let tasks = definition.tasks.iter().map(task);
    let on_failure = definition.on_failure.iter().map(|failing| TaskDef { when: When::AnotherFailed, ..task(failing) });
    let hash = definition.content_hash().0;
    let id = |part: &[u8]| u128::from(fingerprint([part, &[REVISION], &hash]));
    WorkflowDef {
        name: definition.name.clone(),
        tasks: tasks.chain(on_failure).collect(),
        key: None,
        inbox: false,
        event_triggers: definition.event_triggers.clone(),
        default_priority: definition.default_priority.unwrap_or(1),
        lifecycle_events: None,
        sticky: definition.sticky.map(|sticky| match sticky {
            Stickiness::Soft => Sticky::Soft,
            Stickiness::Hard => Sticky::Hard,
        }),
        not_yet: expression::unsupported_in(definition).map(str::to_owned),
        source: Some(Source { hash: (id(b"hatchet high") << 64) | id(b"hatchet low"), bytes: request }),
    }
}

fn task(task: &Task) -> TaskDef {
    let on_parents = task.conditions.iter().any(|condition| matches!(condition.on, ConditionOn::Parent(_)));
    let (fixed, evaluated): (Vec<_>, Vec<_>) = task.rate_limits.iter().map(fixed).partition(Option::is_some);
    TaskDef {
        name: task.name.clone(),
        action: task.action.clone(),
        parents: task.parents.clone(),
        durable: false,
        retry: retry(task),
        schedule_timeout_ms: Some(task.schedule_timeout.ms()),
        execution_timeout_ms: Some(task.execution_timeout.ms()),
        when: When::ParentsEnded,
        judged: on_parents || !evaluated.is_empty(),
        slots: task.slots.clone(),
        labels: task.labels.iter().filter_map(|(name, wish)| Some((name.clone(), label(wish)?))).collect(),
        rates: fixed.into_iter().flatten().collect(),
        losses_max: Some(LOSSES_MAX),
    }
}

/// The wait is the factor to the power of the retry, in seconds; without a factor there is none.
fn retry(task: &Task) -> RetryRule {
    let attempts_max = task.retries.saturating_add(1);
    let Some(backoff) = task.backoff else {
        return RetryRule { attempts_max, backoff_ms: 0, backoff_percent: 100, backoff_max_ms: 0 };
    };
    let max_ms = u64::from(backoff.max_seconds) * 1_000;
    let first_ms = ((f64::from(backoff.factor) * 1_000.0) as u64).min(max_ms);
    let percent = (f64::from(backoff.factor) * 100.0) as u32;
    RetryRule { attempts_max, backoff_ms: first_ms, backoff_percent: percent, backoff_max_ms: max_ms }
}

/// A limit that needs no expression to be told.
pub(crate) fn fixed(limit: &RateLimit) -> Option<RateUse> {
    match (&limit.key, &limit.units, &limit.limit) {
        (RateLimitKey::Static(name), Units::Fixed(units), None) => {
            Some(RateUse { name: name.clone(), units: *units, sets: None })
        }
        _ => None,
    }
}

/// A wish for a label. One without a value is no wish.
pub fn label(wish: &LabelWish) -> Option<place::LabelWish> {
    let value = match wish.value.as_ref()? {
        LabelValue::Text(text) => place::LabelValue::Text(text.clone()),
        LabelValue::Number(number) => place::LabelValue::Number(i64::from(*number)),
    };
    let comparator = match wish.comparator {
        Comparator::Equal => place::Comparator::Equal,
        Comparator::NotEqual => place::Comparator::NotEqual,
        Comparator::GreaterThan => place::Comparator::Greater,
        Comparator::GreaterThanOrEqual => place::Comparator::GreaterOrEqual,
        Comparator::LessThan => place::Comparator::Less,
        Comparator::LessThanOrEqual => place::Comparator::LessOrEqual,
    };
    Some(place::LabelWish { value, comparator, required: wish.required, weight: wish.weight })
}

/// Labels as the wire has them.
pub fn labels(wire: &BTreeMap<String, crate::wire::root::WorkerLabels>) -> BTreeMap<String, place::LabelValue> {
    let value = |label: &crate::wire::root::WorkerLabels| match (&label.str_value, label.int_value) {
        (Some(text), _) => Some(place::LabelValue::Text(text.clone())),
        (None, Some(number)) => Some(place::LabelValue::Number(i64::from(number))),
        (None, None) => None,
    };
    wire.iter().filter_map(|(name, label)| Some((name.clone(), value(label)?))).collect()
}
