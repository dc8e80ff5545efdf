//! From the wire's request to a checked [`Definition`]. Each check stands where the field is read, and its error
//! names that field.
//!
//! What this module does not know: what was registered before.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::Timestamp;

use super::{
    BACKOFF_MAX_SECONDS, Backoff, BadDefinition, Batch, Comparator, Concurrency, Condition, ConditionAction,
    ConditionOn, Definition, ENTRIES_MAX, EXECUTION_TIMEOUT_SECONDS, Filter, Idempotency, IdempotencyMethod,
    JSON_BYTES_MAX, LABEL_WEIGHT, LabelValue, LabelWish, NAME_BYTES_MAX, PRIORITIES, RateLimit, RateLimitKey,
    SCHEDULE_TIMEOUT_SECONDS, SLOT_DEFAULT, SLOT_DURABLE, Sticky, Strategy, TASKS_MAX, TEXT_BYTES_MAX, Task, Units,
    Window, Wrong, graph,
};
use crate::duration::GoDuration;
use crate::expression::Expression;
use crate::wire::v1;

type Checked<T> = Result<T, BadDefinition>;

pub(super) fn definition(request: &v1::CreateWorkflowVersionRequest) -> Checked<Definition> {
    let name = name("name", &request.name)?;
    at_most("tasks", request.tasks.len(), TASKS_MAX)?;
    if request.tasks.is_empty() {
        return Err(bad("tasks", Wrong::Empty));
    }
    let names = task_names(request)?;
    let mut tasks = Vec::with_capacity(request.tasks.len());
    for (index, opts) in request.tasks.iter().enumerate() {
        tasks.push(task(&format!("tasks[{index}]"), opts, &names)?);
    }
    let mut on_failure = match &request.on_failure_task {
        Some(opts) if opts.parents.is_empty() => Some(task("on_failure_task", opts, &names)?),
        Some(_) => {
            let why = Wrong::Conflict("the task for failures waits for all others by nature: give it no parents");
            return Err(bad("on_failure_task.parents", why));
        }
        None => None,
    };
    let tasks = parents_first(tasks, on_failure.as_mut())?;
    // A worker fills one of the two: the list, or the single one that was there before.
    let mut concurrency = Vec::new();
    if let Some(opts) = &request.concurrency {
        concurrency.push(limit_on_runs("concurrency", opts)?);
    }
    concurrency.extend(each("concurrency_arr", &request.concurrency_arr, limit_on_runs)?);
    let sticky = match request.sticky {
        Some(value) => Some(match known("sticky", value, "StickyStrategy")? {
            v1::StickyStrategy::Soft => Sticky::Soft,
            v1::StickyStrategy::Hard => Sticky::Hard,
        }),
        None => None,
    };
    let default_priority = match request.default_priority {
        Some(value) => {
            let (min, max) = PRIORITIES;
            Some(in_range("default_priority", value.into(), min, max)?)
        }
        None => None,
    };
    Ok(Definition {
        name,
        description: text("description", &request.description)?,
        version: text("version", &request.version)?,
        tasks,
        on_failure,
        event_triggers: distinct(each("event_triggers", &request.event_triggers, |at, key| self::name(at, key))?),
        filters: each("default_filters", &request.default_filters, filter)?,
        crons: distinct(each("cron_triggers", &request.cron_triggers, |at, cron| schedule(at, cron))?),
        cron_input: given(&request.cron_input).map(|input| json("cron_input", input.as_bytes())).transpose()?,
        concurrency,
        sticky,
        default_priority,
        input_schema: match &request.input_json_schema {
            Some(schema) if !schema.is_empty() => {
                json("input_json_schema", schema)?;
                Some(schema.clone())
            }
            _ => None,
        },
        idempotency: request.idempotency.as_ref().map(idempotency).transpose()?,
    })
}

/// The tasks' names, each with its place in the declaration. The one for failures is looked at too: details of a run
/// are a map by name.
fn task_names(request: &v1::CreateWorkflowVersionRequest) -> Checked<BTreeMap<&str, u16>> {
    let mut names = BTreeMap::new();
    for (index, opts) in (0_u16..).zip(&request.tasks) {
        let at = format!("tasks[{index}].readable_id");
        name(&at, &opts.readable_id)?;
        if names.insert(opts.readable_id.as_str(), index).is_some() {
            return Err(bad(&at, Wrong::Duplicate { name: opts.readable_id.clone() }));
        }
    }
    if let Some(opts) = &request.on_failure_task
        && names.contains_key(opts.readable_id.as_str())
    {
        return Err(bad("on_failure_task.readable_id", Wrong::Duplicate { name: opts.readable_id.clone() }));
    }
    Ok(names)
}

/// Puts the tasks into their order, and lets what pointed at them point at their new places.
fn parents_first(mut tasks: Vec<Task>, on_failure: Option<&mut Task>) -> Checked<Vec<Task>> {
    let parents: Vec<Vec<u16>> = tasks.iter().map(|task| task.parents.clone()).collect();
    let order = graph::order(&parents).map_err(|path| {
        let field = format!("tasks[{}].parents", path.first().copied().unwrap_or_default());
        let path = path.into_iter().map(|index| tasks[usize::from(index)].name.clone()).collect();
        bad(&field, Wrong::Cycle { path })
    })?;
    let mut place = vec![0_u16; tasks.len()];
    for (new, old) in (0_u16..).zip(&order) {
        place[usize::from(*old)] = new;
    }
    for task in tasks.iter_mut().chain(on_failure) {
        for parent in &mut task.parents {
            *parent = place[usize::from(*parent)];
        }
        for condition in &mut task.conditions {
            if let ConditionOn::Parent(parent) = &mut condition.on {
                *parent = place[usize::from(*parent)];
            }
        }
    }
    let mut placed: Vec<(u16, Task)> = place.into_iter().zip(tasks).collect();
    placed.sort_by_key(|(place, _)| *place);
    Ok(placed.into_iter().map(|(_, task)| task).collect())
}

fn task(at: &str, opts: &v1::CreateTaskOpts, names: &BTreeMap<&str, u16>) -> Checked<Task> {
    let on = |field: &str| format!("{at}.{field}");
    let find = |at: &str, name: &str| {
        names.get(name).copied().ok_or_else(|| bad(at, Wrong::NoSuchTask { name: name.to_owned() }))
    };
    let backoff_max = match opts.backoff_max_seconds {
        Some(seconds) => in_range(&on("backoff_max_seconds"), seconds.into(), 0, i32::MAX as u32)?,
        None => BACKOFF_MAX_SECONDS,
    };
    let backoff = match opts.backoff_factor {
        Some(factor) if factor.is_finite() && factor >= 0.0 => Some(Backoff { factor, max_seconds: backoff_max }),
        Some(found) => return Err(bad(&on("backoff_factor"), Wrong::BadFactor { found })),
        None => None,
    };
    let batch = opts.batch.as_ref().map(|opts| batch(&on("batch"), opts)).transpose()?;
    if batch.is_some() && opts.is_durable {
        let why = Wrong::Conflict("a durable task has progress of its own and can't be part of a batch: choose one");
        return Err(bad(&on("batch"), why));
    }
    at_most(&on("worker_labels"), opts.worker_labels.len(), ENTRIES_MAX)?;
    let mut labels = BTreeMap::new();
    for (label, wish) in &opts.worker_labels {
        let at = on(&format!("worker_labels[{label:?}]"));
        labels.insert(name(&at, label)?, label_wish(&at, wish)?);
    }
    Ok(Task {
        name: name(&on("readable_id"), &opts.readable_id)?,
        action: name(&on("action"), &opts.action)?.to_lowercase(),
        execution_timeout: duration_or(&on("timeout"), &opts.timeout, EXECUTION_TIMEOUT_SECONDS)?,
        schedule_timeout: duration_or(
            &on("schedule_timeout"),
            opts.schedule_timeout.as_deref().unwrap_or_default(),
            SCHEDULE_TIMEOUT_SECONDS,
        )?,
        inputs: match opts.inputs.as_str() {
            "" => "{}".to_owned(),
            inputs => json(&on("inputs"), inputs.as_bytes())?,
        },
        parents: distinct(each(&on("parents"), &opts.parents, |at, parent| find(at, parent))?),
        retries: in_range(&on("retries"), opts.retries.into(), 0, i32::MAX as u32)?,
        backoff,
        rate_limits: each(&on("rate_limits"), &opts.rate_limits, rate_limit)?,
        labels,
        concurrency: each(&on("concurrency"), &opts.concurrency, limit_on_runs)?,
        conditions: match &opts.conditions {
            Some(all) => conditions(&on("conditions"), all, find)?,
            None => Vec::new(),
        },
        durable: opts.is_durable,
        slots: slots(&on("slot_requests"), &opts.slot_requests, opts.is_durable)?,
        batch,
    })
}

fn slots(at: &str, requests: &BTreeMap<String, i32>, durable: bool) -> Checked<BTreeMap<String, u32>> {
    if requests.is_empty() {
        let slot_type = if durable { SLOT_DURABLE } else { SLOT_DEFAULT };
        return Ok(BTreeMap::from([(slot_type.to_owned(), 1)]));
    }
    at_most(at, requests.len(), ENTRIES_MAX)?;
    let mut slots = BTreeMap::new();
    for (slot_type, units) in requests {
        let at = format!("{at}[{slot_type:?}]");
        slots.insert(name(&at, slot_type)?, in_range(&at, (*units).into(), 1, i32::MAX as u32)?);
    }
    Ok(slots)
}

pub(crate) fn label_wish(at: &str, wish: &v1::DesiredWorkerLabels) -> Checked<LabelWish> {
    let value = match (&wish.str_value, wish.int_value) {
        (Some(value), None) => Some(LabelValue::Text(text(at, value)?)),
        (None, Some(value)) => Some(LabelValue::Number(value)),
        (None, None) => None,
        (Some(_), Some(_)) => {
            return Err(bad(at, Wrong::Conflict("has both str_value and int_value: give one of them")));
        }
    };
    let comparator = known(&format!("{at}.comparator"), wish.comparator.unwrap_or_default(), "WorkerLabelComparator")?;
    Ok(LabelWish {
        value,
        required: wish.required.unwrap_or_default(),
        comparator: match comparator {
            v1::WorkerLabelComparator::Equal => Comparator::Equal,
            v1::WorkerLabelComparator::NotEqual => Comparator::NotEqual,
            v1::WorkerLabelComparator::GreaterThan => Comparator::GreaterThan,
            v1::WorkerLabelComparator::GreaterThanOrEqual => Comparator::GreaterThanOrEqual,
            v1::WorkerLabelComparator::LessThan => Comparator::LessThan,
            v1::WorkerLabelComparator::LessThanOrEqual => Comparator::LessThanOrEqual,
        },
        weight: wish.weight.unwrap_or(LABEL_WEIGHT),
    })
}

fn limit_on_runs(at: &str, opts: &v1::Concurrency) -> Checked<Concurrency> {
    let on = |field: &str| format!("{at}.{field}");
    let name = given(&opts.name).map(|name| self::name(&on("name"), name)).transpose()?;
    let tenant_scoped = opts.is_tenant_scoped.unwrap_or_default();
    if tenant_scoped && name.is_none() {
        return Err(bad(&on("name"), Wrong::Conflict("is missing: a limit shared by the tenant is known by its name")));
    }
    let strategy = known(&on("limit_strategy"), opts.limit_strategy.unwrap_or_default(), "ConcurrencyLimitStrategy")?;
    let runs_max_expression = given(&opts.max_runs_expression);
    Ok(Concurrency {
        expression: expression(&on("expression"), &opts.expression)?,
        runs_max: in_range(&on("max_runs"), opts.max_runs.unwrap_or(1).into(), 1, i32::MAX as u32)?,
        runs_max_expression: runs_max_expression.map(|cel| expression(&on("max_runs_expression"), cel)).transpose()?,
        strategy: match strategy {
            v1::ConcurrencyLimitStrategy::CancelInProgress => Strategy::CancelInProgress,
            v1::ConcurrencyLimitStrategy::DropNewest => Strategy::DropNewest,
            v1::ConcurrencyLimitStrategy::QueueNewest => Strategy::QueueNewest,
            v1::ConcurrencyLimitStrategy::GroupRoundRobin => Strategy::GroupRoundRobin,
            v1::ConcurrencyLimitStrategy::CancelNewest => Strategy::CancelNewest,
            v1::ConcurrencyLimitStrategy::CancelQueuedExceptNewest => Strategy::CancelQueuedExceptNewest,
            v1::ConcurrencyLimitStrategy::CancelQueuedExceptOldest => Strategy::CancelQueuedExceptOldest,
        },
        name,
        tenant_scoped,
    })
}

fn rate_limit(at: &str, opts: &v1::CreateTaskRateLimit) -> Checked<RateLimit> {
    let on = |field: &str| format!("{at}.{field}");
    // SDKs write -1 for a limit that was put there before.
    let limit = given(&opts.limit_values_expr).filter(|limit| *limit != "-1");
    let limit = limit.map(|cel| expression(&on("limit_values_expr"), cel)).transpose()?;
    let key = match given(&opts.key_expr) {
        Some(cel) if limit.is_some() => RateLimitKey::Dynamic(expression(&on("key_expr"), cel)?),
        Some(_) => {
            let why = Wrong::Conflict("is missing: a limit with a key for each run says itself how much there is");
            return Err(bad(&on("limit_values_expr"), why));
        }
        None => RateLimitKey::Static(filled(&on("key"), &opts.key)?),
    };
    let units = match (opts.units, given(&opts.units_expr)) {
        (Some(_), Some(_)) => {
            return Err(bad(&on("units"), Wrong::Conflict("is given along with units_expr: give one of them")));
        }
        (None, Some(cel)) => Units::Expression(expression(&on("units_expr"), cel)?),
        (units, None) => Units::Fixed(in_range(&on("units"), units.unwrap_or(1).into(), 0, i32::MAX as u32)?),
    };
    let window = match opts.duration {
        Some(value) => known(&on("duration"), value, "RateLimitDuration")?,
        None => v1::RateLimitDuration::Minute,
    };
    Ok(RateLimit {
        key,
        units,
        limit,
        window: match window {
            v1::RateLimitDuration::Second => Window::Second,
            v1::RateLimitDuration::Minute => Window::Minute,
            v1::RateLimitDuration::Hour => Window::Hour,
            v1::RateLimitDuration::Day => Window::Day,
            v1::RateLimitDuration::Week => Window::Week,
            v1::RateLimitDuration::Month => Window::Month,
            v1::RateLimitDuration::Year => Window::Year,
        },
    })
}

/// All conditions of a task: on parents, then on time, then on events, with their groups counted in this order.
fn conditions(
    at: &str,
    all: &v1::TaskConditions,
    find: impl Fn(&str, &str) -> Checked<u16>,
) -> Checked<Vec<Condition>> {
    let count = all.parent_override_conditions.len() + all.sleep_conditions.len() + all.user_event_conditions.len();
    at_most(at, count, ENTRIES_MAX)?;
    let mut groups: BTreeMap<String, u32> = BTreeMap::new();
    let mut conditions = Vec::with_capacity(count);
    let mut add = |at: &str, base: &Option<v1::BaseMatchCondition>, on: ConditionOn| -> Checked<()> {
        let base = base.as_ref().ok_or_else(|| bad(&format!("{at}.base"), Wrong::Empty))?;
        let next = u32::try_from(conditions.len()).unwrap_or(u32::MAX);
        // A condition that names no group is a group by itself.
        let id = if base.or_group_id.is_empty() { format!("alone {next}") } else { format!("id {}", base.or_group_id) };
        let group = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        let group = *groups.entry(id).or_insert(group);
        let action = match known(&format!("{at}.base.action"), base.action, "Action")? {
            v1::Action::Create => ConditionAction::Create,
            v1::Action::Queue => ConditionAction::Queue,
            v1::Action::Cancel => ConditionAction::Cancel,
            v1::Action::Skip => ConditionAction::Skip,
        };
        let expression = match base.expression.as_str() {
            "" => None,
            cel => Some(self::expression(&format!("{at}.base.expression"), cel)?),
        };
        let data_key = text(&format!("{at}.base.readable_data_key"), &base.readable_data_key)?;
        conditions.push(Condition { on, action, group, data_key, expression });
        Ok(())
    };
    for (index, condition) in all.parent_override_conditions.iter().enumerate() {
        let at = format!("{at}.parent_override_conditions[{index}]");
        let parent = find(&format!("{at}.parent_readable_id"), &condition.parent_readable_id)?;
        add(&at, &condition.base, ConditionOn::Parent(parent))?;
    }
    for (index, condition) in all.sleep_conditions.iter().enumerate() {
        let at = format!("{at}.sleep_conditions[{index}]");
        let sleep = duration(&format!("{at}.sleep_for"), &condition.sleep_for)?;
        add(&at, &condition.base, ConditionOn::Sleep(sleep))?;
    }
    for (index, condition) in all.user_event_conditions.iter().enumerate() {
        let at = format!("{at}.user_event_conditions[{index}]");
        let key = name(&format!("{at}.user_event_key"), &condition.user_event_key)?;
        let scope = given(&condition.event_scope).map(|scope| text(&format!("{at}.event_scope"), scope)).transpose()?;
        let since_ms = condition.consider_events_since.as_ref().map(milliseconds);
        add(&at, &condition.base, ConditionOn::Event { key, scope, since_ms })?;
    }
    Ok(conditions)
}

fn batch(at: &str, opts: &v1::TaskBatchConfig) -> Checked<Batch> {
    let on = |field: &str| format!("{at}.{field}");
    let positive = |field: &str, value: i32| in_range(&on(field), value.into(), 1, i32::MAX as u32);
    Ok(Batch {
        size_max: positive("batch_max_size", opts.batch_max_size)?,
        interval_ms: opts.batch_max_interval_ms.map(|value| positive("batch_max_interval_ms", value)).transpose()?,
        group_key: given(&opts.batch_group_key).map(|cel| expression(&on("batch_group_key"), cel)).transpose()?,
        group_runs_max: opts.batch_group_max_runs.map(|value| positive("batch_group_max_runs", value)).transpose()?,
        broadcast_output: opts.broadcast_output.unwrap_or_default(),
    })
}

fn filter(at: &str, opts: &v1::DefaultFilter) -> Checked<Filter> {
    Ok(Filter {
        scope: text(&format!("{at}.scope"), &opts.scope)?,
        expression: expression(&format!("{at}.expression"), &opts.expression)?,
        payload: match &opts.payload {
            Some(payload) if !payload.is_empty() => Some(json(&format!("{at}.payload"), payload)?),
            _ => None,
        },
    })
}

fn idempotency(opts: &v1::IdempotencyConfig) -> Checked<Idempotency> {
    let ttl_ms = u64::try_from(opts.ttl_ms)
        .ok()
        .filter(|ttl_ms| *ttl_ms > 0)
        .ok_or_else(|| bad("idempotency.ttl_ms", Wrong::OutOfRange { found: opts.ttl_ms, min: 1, max: i64::MAX }))?;
    let method = known("idempotency.method", opts.method.unwrap_or_default(), "IdempotencyMethod")?;
    Ok(Idempotency {
        expression: expression("idempotency.expression", &opts.expression)?,
        ttl_ms,
        method: match method {
            v1::IdempotencyMethod::Ttl => IdempotencyMethod::Ttl,
            v1::IdempotencyMethod::Status => IdempotencyMethod::Status,
        },
    })
}

fn bad(field: &str, wrong: Wrong) -> BadDefinition {
    BadDefinition { field: field.to_owned(), wrong }
}

fn at_most(at: &str, found: usize, max: usize) -> Checked<()> {
    if found <= max { Ok(()) } else { Err(bad(at, Wrong::TooMany { found, max })) }
}

/// Reads each entry of a list, with its place in its name.
fn each<F, T>(at: &str, list: &[F], read: impl Fn(&str, &F) -> Checked<T>) -> Checked<Vec<T>> {
    at_most(at, list.len(), ENTRIES_MAX)?;
    list.iter().enumerate().map(|(index, entry)| read(&format!("{at}[{index}]"), entry)).collect()
}

/// The list without what was in it before. Saying a thing twice means it once.
fn distinct<T: Ord + Clone>(mut list: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
    list
}

/// An optional text that says something. SDKs send empty texts for what is not given.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn text(at: &str, text: &str) -> Checked<String> {
    bounded(at, text, TEXT_BYTES_MAX)
}

fn name(at: &str, name: &str) -> Checked<String> {
    if name.is_empty() { Err(bad(at, Wrong::Empty)) } else { bounded(at, name, NAME_BYTES_MAX) }
}

fn filled(at: &str, value: &str) -> Checked<String> {
    if value.trim().is_empty() { Err(bad(at, Wrong::Empty)) } else { text(at, value) }
}

fn expression(at: &str, cel: &str) -> Checked<String> {
    let cel = filled(at, cel)?;
    Expression::parse(&cel).map_err(|cause| bad(at, Wrong::NotCel { cause }))?;
    Ok(cel)
}

fn bounded(at: &str, text: &str, max: usize) -> Checked<String> {
    let found = text.len();
    if found <= max { Ok(text.to_owned()) } else { Err(bad(at, Wrong::TooLong { found, max })) }
}

fn json(at: &str, bytes: &[u8]) -> Checked<String> {
    let found = bytes.len();
    if found > JSON_BYTES_MAX {
        return Err(bad(at, Wrong::TooLong { found, max: JSON_BYTES_MAX }));
    }
    let not_json = |cause: String| bad(at, Wrong::NotJson { cause });
    let text = std::str::from_utf8(bytes).map_err(|error| not_json(error.to_string()))?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| not_json(error.to_string()))?;
    Ok(text.to_owned())
}

/// A schedule, by its shape. What its fields may hold is known where schedules are kept.
fn schedule(at: &str, cron: &str) -> Checked<String> {
    let cron = text(at, cron)?;
    let mut fields = cron.split_whitespace().peekable();
    fields.next_if(|first| first.starts_with("TZ=") || first.starts_with("CRON_TZ="));
    let shortcut = fields.peek().is_some_and(|first| first.starts_with('@'));
    let allowed = if shortcut { 1..=2 } else { 5..=6 };
    if allowed.contains(&fields.count()) { Ok(cron) } else { Err(bad(at, Wrong::NotCron { found: cron })) }
}

fn duration(at: &str, text: &str) -> Checked<GoDuration> {
    GoDuration::parse(text).map_err(|wrong| bad(at, wrong.into()))
}

fn duration_or(at: &str, text: &str, seconds: u32) -> Checked<GoDuration> {
    if text.is_empty() { Ok(GoDuration::seconds(seconds)) } else { duration(at, text) }
}

/// A whole number within its range, in the type the range is given in.
fn in_range<N: TryFrom<i64> + Into<i64> + PartialOrd + Copy>(at: &str, found: i64, min: N, max: N) -> Checked<N> {
    match N::try_from(found) {
        Ok(value) if min <= value && value <= max => Ok(value),
        _ => Err(bad(at, Wrong::OutOfRange { found, min: min.into(), max: max.into() })),
    }
}

fn known<E: TryFrom<i32>>(at: &str, found: i32, what: &'static str) -> Checked<E> {
    E::try_from(found).map_err(|_| bad(at, Wrong::UnknownValue { found, what }))
}

/// Milliseconds since the Unix epoch. What lies before it counts as the epoch: no event is older.
pub(crate) fn milliseconds(at: &Timestamp) -> u64 {
    let ms = i128::from(at.seconds) * 1_000 + i128::from(at.nanos) / 1_000_000;
    u64::try_from(ms.max(0)).unwrap_or(u64::MAX)
}
