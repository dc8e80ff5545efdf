//! Expressions where they are used: what a task takes from limits, by which key a run is recognised, which events start
//! a run.
//!
//! What this module does not know: how much of a limit is left, and which keys were used before.

use super::{BadExpression, Environment, EvaluationError, Expression};
use crate::definition::{Idempotency, RateLimit, RateLimitKey, Task, Units};

/// What a task takes from a limit, in plain numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateUse {
    /// Which limit.
    pub key: String,
    /// How much of it.
    pub units: u32,
    /// How much there is in one window. `None`: what was put there.
    pub limit: Option<u32>,
    /// The time after which it is full again, in milliseconds.
    pub window_ms: u64,
}

/// What a task takes from limits, in the order in which they were declared.
///
/// A limit that was put there by name keeps the amount that was put there, whatever the task says. A month has 30 days
/// and a year 365.
///
/// # Errors
/// Says which limit of the task can't be evaluated, and why. It is the same for the same input: the task fails.
pub fn rate_uses(task: &Task, environment: &Environment<'_>) -> Result<Vec<RateUse>, String> {
    let uses = task.rate_limits.iter().enumerate();
    uses.map(|(index, limit)| {
        rate_use(limit, environment)
            .map_err(|(field, error)| format!("rate_limits[{index}].{field} of the task {:?}: {error}", task.name))
    })
    .collect()
}

fn rate_use(limit: &RateLimit, environment: &Environment<'_>) -> Result<RateUse, (&'static str, Unusable)> {
    let number = |field: &'static str, text: &str| {
        read(text).and_then(|cel| Ok(cel.number(environment)?)).map_err(|error| (field, error))
    };
    let units = match &limit.units {
        Units::Fixed(units) => *units,
        Units::Expression(text) => number("units_expr", text)?,
    };
    let (key, amount) = match &limit.key {
        RateLimitKey::Static(key) => (key.clone(), None),
        RateLimitKey::Dynamic(text) => {
            let key = read(text).and_then(|cel| Ok(cel.text(environment)?)).map_err(|error| ("key_expr", error))?;
            (key, limit.limit.as_deref().map(|text| number("limit_values_expr", text)).transpose()?)
        }
    };
    Ok(RateUse { key, units, limit: amount, window_ms: limit.window.ms() })
}

/// The key by which a run is recognised that was started before.
///
/// # Errors
/// Says why it can't be evaluated: the run can't start.
pub fn idempotency_key(idempotency: &Idempotency, environment: &Environment<'_>) -> Result<String, String> {
    let key = read(&idempotency.expression).and_then(|cel| Ok(cel.text(environment)?));
    key.map_err(|error| format!("idempotency.expression: {error}"))
}

/// Whether an event passes a filter.
///
/// # Errors
/// Says why it can't be evaluated: the event starts no run by this filter.
pub fn filter_passes(expression: &str, environment: &Environment<'_>) -> Result<bool, String> {
    read(expression).and_then(|cel| Ok(cel.is_true(environment)?)).map_err(|error| error.to_string())
}

/// Why an expression is of no use here. The first can't happen to one that was registered.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it can't be read: {0}")]
    Bad(#[from] BadExpression),
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}

fn read(text: &str) -> Result<Expression, Unusable> {
    Ok(Expression::parse(text)?)
}
