//! The hash that tells versions of a definition apart.
//!
//! It must be the same in every release, so it has an encoding of its own, made for that: each value stands behind its
//! name and its length, and what has its default is left out. A feature that comes later has a new name, and a
//! definition that doesn't use it hashes as before.
//!
//! Left out as well is what SDKs make up anew at every start, or else every start would make a version: the ids of
//! condition groups (which are numbers here), and the time that Python adds to the data key of a condition on a
//! parent.
//!
//! What this module does not know: where the hash is kept.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{
    Backoff, Batch, Comparator, Concurrency, Condition, ConditionAction, ConditionOn, Definition, Filter, Idempotency,
    IdempotencyMethod, LabelValue, LabelWish, RateLimit, RateLimitKey, Sticky, Strategy, Task, Units, Window,
};

/// SHA-256 over a definition's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(super) fn of(definition: &Definition) -> ContentHash {
    let mut out = Canon(Sha256::new());
    out.text("encoding", "mainspring hatchet definition 1");
    out.text("name", &definition.name);
    out.text("description", &definition.description);
    out.text("version", &definition.version);
    let names: Vec<&str> = definition.tasks.iter().map(|task| task.name.as_str()).collect();
    out.list("tasks", &definition.tasks, |out, entry| task(out, entry, &names));
    out.list("on_failure", definition.on_failure.as_slice(), |out, entry| task(out, entry, &names));
    out.list("event_triggers", &definition.event_triggers, |out, key| out.text("key", key));
    out.list("filters", &definition.filters, filter);
    out.list("crons", &definition.crons, |out, cron| out.text("cron", cron));
    out.maybe_text("cron_input", definition.cron_input.as_deref());
    out.list("concurrency", &definition.concurrency, concurrency);
    out.list("sticky", definition.sticky.as_slice(), |out, sticky| {
        out.text(
            "strategy",
            match sticky {
                Sticky::Soft => "soft",
                Sticky::Hard => "hard",
            },
        );
    });
    out.maybe_number("default_priority", definition.default_priority.map(u64::from));
    if let Some(schema) = &definition.input_schema {
        out.value("input_schema", schema);
    }
    out.list("idempotency", definition.idempotency.as_slice(), idempotency);
    ContentHash(out.0.finalize().into())
}

/// Writes names and values such that no two different definitions write the same bytes.
struct Canon(Sha256);

impl Canon {
    fn value(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    /// A text; an empty one is the default.
    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.value(name, text.as_bytes());
        }
    }

    /// A text that may be missing, which is not the same as empty.
    fn maybe_text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.value(name, text.as_bytes());
        }
    }

    fn number(&mut self, name: &str, number: u64) {
        if number != 0 {
            self.value(name, &number.to_be_bytes());
        }
    }

    fn maybe_number(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.value(name, &number.to_be_bytes());
        }
    }

    fn flag(&mut self, name: &str, flag: bool) {
        self.number(name, u64::from(flag));
    }

    /// A list, with its length first and an end to each entry; an empty one is the default.
    fn list<T>(&mut self, name: &str, list: &[T], mut write: impl FnMut(&mut Canon, &T)) {
        if list.is_empty() {
            return;
        }
        self.value(name, &(list.len() as u64).to_be_bytes());
        for entry in list {
            write(self, entry);
            self.value("", b"end");
        }
    }
}

fn task(out: &mut Canon, task: &Task, names: &[&str]) {
    out.text("name", &task.name);
    out.text("action", &task.action);
    out.number("execution_timeout_ms", task.execution_timeout.ms());
    out.number("schedule_timeout_ms", task.schedule_timeout.ms());
    out.text("inputs", &task.inputs);
    out.list("parents", &task.parents, |out, parent| out.text("parent", names[usize::from(*parent)]));
    out.number("retries", task.retries.into());
    out.list("backoff", task.backoff.as_slice(), |out, Backoff { factor, max_seconds }| {
        out.number("factor_bits", factor.to_bits().into());
        out.number("max_seconds", (*max_seconds).into());
    });
    out.list("rate_limits", &task.rate_limits, rate_limit);
    let labels: Vec<_> = task.labels.iter().collect();
    out.list("labels", &labels, |out, (label, wish)| label_wish(out, label, wish));
    out.list("concurrency", &task.concurrency, concurrency);
    out.list("conditions", &task.conditions, |out, entry| condition(out, entry, names));
    out.flag("durable", task.durable);
    let slots: Vec<_> = task.slots.iter().collect();
    out.list("slots", &slots, |out, (slot_type, units)| {
        out.text("type", slot_type);
        out.number("units", u64::from(**units));
    });
    out.list("batch", task.batch.as_slice(), batch);
}

fn concurrency(out: &mut Canon, rule: &Concurrency) {
    out.text("expression", &rule.expression);
    out.number("runs_max", rule.runs_max.into());
    out.maybe_text("runs_max_expression", rule.runs_max_expression.as_deref());
    out.text(
        "strategy",
        match rule.strategy {
            Strategy::CancelInProgress => "cancel_in_progress",
            Strategy::DropNewest => "drop_newest",
            Strategy::QueueNewest => "queue_newest",
            Strategy::GroupRoundRobin => "group_round_robin",
            Strategy::CancelNewest => "cancel_newest",
            Strategy::CancelQueuedExceptNewest => "cancel_queued_except_newest",
            Strategy::CancelQueuedExceptOldest => "cancel_queued_except_oldest",
        },
    );
    out.maybe_text("name", rule.name.as_deref());
    out.flag("tenant_scoped", rule.tenant_scoped);
}

fn rate_limit(out: &mut Canon, limit: &RateLimit) {
    match &limit.key {
        RateLimitKey::Static(key) => out.text("key", key),
        RateLimitKey::Dynamic(cel) => out.text("key_expression", cel),
    }
    match &limit.units {
        Units::Fixed(units) => out.number("units", (*units).into()),
        Units::Expression(cel) => out.text("units_expression", cel),
    }
    out.maybe_text("limit", limit.limit.as_deref());
    out.text(
        "window",
        match limit.window {
            Window::Second => "second",
            Window::Minute => "minute",
            Window::Hour => "hour",
            Window::Day => "day",
            Window::Week => "week",
            Window::Month => "month",
            Window::Year => "year",
        },
    );
}

fn label_wish(out: &mut Canon, label: &str, wish: &LabelWish) {
    out.text("label", label);
    match &wish.value {
        Some(LabelValue::Text(value)) => out.value("text", value.as_bytes()),
        Some(LabelValue::Number(value)) => out.value("number", &value.to_be_bytes()),
        None => {}
    }
    out.flag("required", wish.required);
    out.text(
        "comparator",
        match wish.comparator {
            Comparator::Equal => "equal",
            Comparator::NotEqual => "not_equal",
            Comparator::GreaterThan => "greater_than",
            Comparator::GreaterThanOrEqual => "greater_than_or_equal",
            Comparator::LessThan => "less_than",
            Comparator::LessThanOrEqual => "less_than_or_equal",
        },
    );
    out.value("weight", &wish.weight.to_be_bytes());
}

fn condition(out: &mut Canon, condition: &Condition, names: &[&str]) {
    let mut data_key = condition.data_key.as_str();
    match &condition.on {
        ConditionOn::Parent(parent) => {
            let parent = names[usize::from(*parent)];
            data_key = without_time(data_key, parent, condition.expression.as_deref());
            out.text("parent", parent);
        }
        ConditionOn::Sleep(sleep) => out.maybe_number("sleep_ms", Some(sleep.ms())),
        ConditionOn::Event { key, scope, since_ms } => {
            out.text("event", key);
            out.maybe_text("scope", scope.as_deref());
            out.maybe_number("since_ms", *since_ms);
        }
    }
    out.text(
        "action",
        match condition.action {
            ConditionAction::Create => "create",
            ConditionAction::Queue => "queue",
            ConditionAction::Cancel => "cancel",
            ConditionAction::Skip => "skip",
        },
    );
    out.number("group", condition.group.into());
    out.text("data_key", data_key);
    out.maybe_text("expression", condition.expression.as_deref());
}

/// The data key that Python makes up for a condition on a parent, `parent[:expression]:2026-01-31T12:00:00+00:00`,
/// without its time. A key somebody chose stays as it is.
fn without_time<'a>(data_key: &'a str, parent: &str, expression: Option<&str>) -> &'a str {
    let stem = match expression {
        Some(cel) => format!("{parent}:{cel}"),
        None => parent.to_owned(),
    };
    let Some(time) = data_key.strip_prefix(&stem).and_then(|rest| rest.strip_prefix(':')) else { return data_key };
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let is_time = time.len() >= shape.len()
        && time.bytes().zip(shape).all(|(found, shape)| match shape {
            b'd' => found.is_ascii_digit(),
            shape => found == *shape,
        });
    if is_time { &data_key[..stem.len()] } else { data_key }
}

fn batch(out: &mut Canon, batch: &Batch) {
    out.number("size_max", batch.size_max.into());
    out.maybe_number("interval_ms", batch.interval_ms.map(u64::from));
    out.maybe_text("group_key", batch.group_key.as_deref());
    out.maybe_number("group_runs_max", batch.group_runs_max.map(u64::from));
    out.flag("broadcast_output", batch.broadcast_output);
}

fn filter(out: &mut Canon, filter: &Filter) {
    out.text("scope", &filter.scope);
    out.text("expression", &filter.expression);
    out.maybe_text("payload", filter.payload.as_deref());
}

fn idempotency(out: &mut Canon, rule: &Idempotency) {
    out.text("expression", &rule.expression);
    out.number("ttl_ms", rule.ttl_ms);
    out.text(
        "method",
        match rule.method {
            IdempotencyMethod::Ttl => "ttl",
            IdempotencyMethod::Status => "status",
        },
    );
}
