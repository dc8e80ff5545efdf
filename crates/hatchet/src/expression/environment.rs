//! What an expression sees: JSON, made into the values of CEL.
//!
//! What this module does not know: what an expression asks of it.

use std::collections::HashMap;
use std::sync::LazyLock;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::Val;
use serde_json::Value;

/// What an expression sees. `null` where an object belongs counts as `{}`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Environment<'a> {
    /// A run that is about to start: idempotency keys, limits on runs.
    Run {
        /// The run's input, as `input`.
        input: &'a Value,
        /// The run's metadata, as `additional_metadata`.
        additional_metadata: &'a Value,
        /// The run's id, as `workflow_run_id`.
        workflow_run_id: &'a str,
    },
    /// A task that is about to be queued: rate limits, limits on tasks.
    Task {
        /// The run's input, as `input`.
        input: &'a Value,
        /// The run's metadata, as `additional_metadata`.
        additional_metadata: &'a Value,
        /// The outputs of its parents by their names, as `parents`.
        parents: &'a Value,
        /// The run's id, as `workflow_run_id`.
        workflow_run_id: &'a str,
    },
    /// A parent that has ended: conditions.
    Parent {
        /// Its output, as `output`.
        output: &'a Value,
    },
    /// An event: filters, and conditions on events.
    Event {
        /// What the event carries, as `input`.
        input: &'a Value,
        /// The event's metadata, as `additional_metadata`.
        additional_metadata: &'a Value,
        /// What the filter carries, as `payload`.
        payload: &'a Value,
        /// The event's id, as `event_id`.
        event_id: &'a str,
        /// The event's name, as `event_key`.
        event_key: &'a str,
    },
}

pub(super) enum Variable<'a> {
    Json(&'a Value),
    Text(&'a str),
}

impl<'a> Environment<'a> {
    /// What an expression finds under a name.
    pub(super) fn variable(&self, name: &str) -> Option<Variable<'a>> {
        static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(serde_json::Map::new()));
        let object = |json: &'a Value| Some(Variable::Json(if json.is_null() { &NOTHING } else { json }));
        match (*self, name) {
            (
                Environment::Run { input, .. } | Environment::Task { input, .. } | Environment::Event { input, .. },
                "input",
            ) => object(input),
            (
                Environment::Run { additional_metadata, .. }
                | Environment::Task { additional_metadata, .. }
                | Environment::Event { additional_metadata, .. },
                "additional_metadata",
            ) => object(additional_metadata),
            (
                Environment::Run { workflow_run_id, .. } | Environment::Task { workflow_run_id, .. },
                "workflow_run_id",
            ) => Some(Variable::Text(workflow_run_id)),
            (Environment::Task { parents, .. }, "parents") => object(parents),
            (Environment::Parent { output }, "output") => object(output),
            (Environment::Event { payload, .. }, "payload") => object(payload),
            (Environment::Event { event_id, .. }, "event_id") => Some(Variable::Text(event_id)),
            (Environment::Event { event_key, .. }, "event_key") => Some(Variable::Text(event_key)),
            _ => None,
        }
    }
}

/// How numbers of JSON are read.
#[derive(Clone, Copy)]
pub(super) enum Numbers {
    /// Whole ones as ints, the others as doubles.
    AsWritten,
    /// All as doubles.
    Doubles,
}

impl<'a> Variable<'a> {
    /// It as CEL sees it. Strings are borrowed; lists and maps are built.
    pub(super) fn value(self, numbers: Numbers) -> Box<dyn Val + 'a> {
        match self {
            Variable::Json(json) => value(json, numbers),
            Variable::Text(text) => Box::new(CelString::from(text)),
        }
    }
}

fn value<'v>(json: &'v Value, numbers: Numbers) -> Box<dyn Val + 'v> {
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(bool) => Box::new(CelBool::from(*bool)),
        Value::Number(number) => self::number(number, numbers),
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(list) => {
            let list: Vec<Box<dyn Val + 'v>> = list.iter().map(|entry| value(entry, numbers)).collect();
            Box::new(CelList::from(list))
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, entry)| (CelMapKey::from(key.as_str()), value(entry, numbers)));
            Box::new(CelMap::from(entries.collect::<HashMap<CelMapKey<'v>, Box<dyn Val + 'v>>>()))
        }
    }
}

fn number<'v>(number: &serde_json::Number, numbers: Numbers) -> Box<dyn Val + 'v> {
    /// Up to here a double holds every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let double = number.as_f64().unwrap_or(f64::NAN);
    match (numbers, number.as_i64()) {
        (Numbers::AsWritten, Some(int)) => Box::new(CelInt::from(int)),
        (Numbers::AsWritten, None) if double.fract() == 0.0 && double.abs() <= EXACT => {
            Box::new(CelInt::from(double as i64))
        }
        _ => Box::new(CelDouble::from(double)),
    }
}
