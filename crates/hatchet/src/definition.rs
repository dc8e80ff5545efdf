//! A workflow as a worker registers it: every feature it can have, in plain types of our own, checked.
//!
//! [`Definition::from_request`] is the only way in. What it returns holds: names are unique, parents exist and come
//! before their children, durations are durations, numbers are in range, JSON is JSON, CEL is CEL. Whether a feature is executed
//! yet is not asked here; a definition loses nothing on the way in.
//!
//! [`Definition::content_hash`] tells versions apart: a worker that starts again and says the same gets the same
//! version. The request itself, in its protobuf form, is what should be stored: it is readable by later releases by
//! nature, and this module makes a definition of it again.
//!
//! What this module does not know: how a definition is executed or stored, what a CEL expression says (it keeps them
//! as texts that are well-formed), when a schedule fires.

mod graph;
mod hash;
mod translate;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::duration::{BadDuration, GoDuration};
use crate::expression::BadExpression;
use crate::wire::v1;

pub use hash::ContentHash;
pub(crate) use translate::{label_wish, milliseconds};

/// Tasks of one workflow, the one for failures not counted. As many as the core takes.
pub const TASKS_MAX: usize = 1_000;
/// Entries of any list of a workflow or task: triggers, filters, conditions, limits, labels, parents. More than
/// anybody writes by hand; a generator that goes wrong stops here.
pub const ENTRIES_MAX: usize = 1_000;
/// Bytes of a name: workflow, task, action, event, label, slot type, strategy. As many as the core takes.
pub const NAME_BYTES_MAX: usize = 256;
/// Bytes of an expression, description, scope or key: what people write, not what they send.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a JSON document inside a definition: a schema, an input, a filter's payload.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;
/// The lowest and highest priority that may be asked for. Retries go first, at 4, which nobody may ask for.
pub const PRIORITIES: (u8, u8) = (1, 3);
/// How long a task waits for a worker if it does not say, in seconds. As the SDKs' default.
pub const SCHEDULE_TIMEOUT_SECONDS: u32 = 300;
/// How long an attempt may run if it does not say, in seconds. As the SDKs' default.
pub const EXECUTION_TIMEOUT_SECONDS: u32 = 60;
/// The longest wait before a retry if nothing else is said, in seconds: a day.
pub const BACKOFF_MAX_SECONDS: u32 = 86_400;
/// What a wish for a label weighs if it does not say.
pub const LABEL_WEIGHT: i32 = 100;
/// The slot type of ordinary tasks.
pub const SLOT_DEFAULT: &str = "default";
/// The slot type of durable tasks.
pub const SLOT_DURABLE: &str = "durable";

/// One workflow, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name, unique in its tenant.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What its author calls this version. Versions are told apart by content, not by this.
    pub version: String,
    /// Its tasks: parents before children, and otherwise as they were declared.
    pub tasks: Vec<Task>,
    /// The task that runs when another has failed. It has no parents.
    pub on_failure: Option<Task>,
    /// Names of events that start a run. `*` stands for any text.
    pub event_triggers: Vec<String>,
    /// Filters that come with the workflow, and replace those that came with its last version.
    pub filters: Vec<Filter>,
    /// Schedules, as cron expressions of five fields, or six with seconds first.
    pub crons: Vec<String>,
    /// The input of runs that a schedule starts, as JSON.
    pub cron_input: Option<String>,
    /// Limits on runs at once, in the order in which a run passes them.
    pub concurrency: Vec<Concurrency>,
    /// Whether a run's tasks stay with one worker.
    pub sticky: Option<Sticky>,
    /// The priority of a run that names none.
    pub default_priority: Option<u8>,
    /// The JSON schema of the input.
    pub input_schema: Option<Bytes>,
    /// The key by which a run is recognised that was started before.
    pub idempotency: Option<Idempotency>,
}

/// One task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name, unique in its workflow.
    pub name: String,
    /// What a worker must offer to be given it, in lower case: `workflow:task`.
    pub action: String,
    /// How long one attempt may run, counted from its assignment.
    pub execution_timeout: GoDuration,
    /// How long it may wait for a worker.
    pub schedule_timeout: GoDuration,
    /// Inputs fixed at registration, as JSON. SDKs send `{}`.
    pub inputs: String,
    /// Indices of its parents in the workflow's list, in the order they were given. All are lower than its own.
    pub parents: Vec<u16>,
    /// How often it is tried again after a failure.
    pub retries: u32,
    /// How long to wait before that. `None`: not at all.
    pub backoff: Option<Backoff>,
    /// What it takes from limits.
    pub rate_limits: Vec<RateLimit>,
    /// Wishes for labels of the worker, by label.
    pub labels: BTreeMap<String, LabelWish>,
    /// Limits on such tasks at once, in the order in which a task passes them.
    pub concurrency: Vec<Concurrency>,
    /// What else it waits for, and what skips or cancels it.
    pub conditions: Vec<Condition>,
    /// Whether its progress is kept in a log.
    pub durable: bool,
    /// What it takes of a worker, by slot type. Never empty, never zero.
    pub slots: BTreeMap<String, u32>,
    /// Whether such tasks are collected and given out together.
    pub batch: Option<Batch>,
}

/// Waits between retries that grow: the factor to the power of the retry, counted from 1, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The factor, at least 0.
    pub factor: f32,
    /// The wait never grows beyond this, in seconds.
    pub max_seconds: u32,
}

/// At most so many at once for one value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concurrency {
    /// CEL: the key.
    pub expression: String,
    /// How many, at least 1.
    pub runs_max: u32,
    /// CEL: how many, where that depends on the input. `runs_max` then holds where nothing was evaluated.
    pub runs_max_expression: Option<String>,
    /// What happens to one more.
    pub strategy: Strategy,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Whether all workflows that use the name share the limit. Only with a name.
    pub tenant_scoped: bool,
}

/// What happens to one more than may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The newest run; all others are cancelled.
    CancelInProgress,
    /// Kept for old workers.
    DropNewest,
    /// Kept for old workers.
    QueueNewest,
    /// Keys take turns; the rest wait.
    GroupRoundRobin,
    /// The oldest run; newer ones are cancelled.
    CancelNewest,
    /// Of those that wait, the newest stays.
    CancelQueuedExceptNewest,
    /// Of those that wait, the oldest stays.
    CancelQueuedExceptOldest,
}

/// Whether a run's tasks stay with one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sticky {
    /// If it has room.
    Soft,
    /// In any case.
    Hard,
}

/// A filter on the events that start a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Which events it looks at.
    pub scope: String,
    /// CEL: which of them start a run.
    pub expression: String,
    /// What the expression and the run are given, as JSON.
    pub payload: Option<String>,
}

/// The key by which a run is recognised that was started before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// CEL: the key.
    pub expression: String,
    /// How long it is held, in milliseconds, at least 1.
    pub ttl_ms: u64,
    /// What releases it.
    pub method: IdempotencyMethod,
}

/// What releases an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdempotencyMethod {
    /// Time alone.
    Ttl,
    /// The end of the run; time if that never comes.
    Status,
}

/// What a task takes from a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Which limit.
    pub key: RateLimitKey,
    /// How much of it.
    pub units: Units,
    /// CEL: how much there is in one window. `None`: what was put there.
    pub limit: Option<String>,
    /// The time after which it is full again.
    pub window: Window,
}

/// Which limit a task takes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateLimitKey {
    /// One that was put there, by name.
    Static(String),
    /// CEL: one for each value. Always has a limit of its own.
    Dynamic(String),
}

/// How much a task takes from a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Units {
    /// So much.
    Fixed(u32),
    /// CEL: so much.
    Expression(String),
}

/// The time after which a limit is full again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Window {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Window {
    /// Its length in milliseconds. A month has 30 days and a year 365.
    pub fn ms(self) -> u64 {
        const SECOND: u64 = 1_000;
        const DAY: u64 = 24 * 60 * 60 * SECOND;
        match self {
            Window::Second => SECOND,
            Window::Minute => 60 * SECOND,
            Window::Hour => 60 * 60 * SECOND,
            Window::Day => DAY,
            Window::Week => 7 * DAY,
            Window::Month => 30 * DAY,
            Window::Year => 365 * DAY,
        }
    }
}

/// A wish for a label of the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelWish {
    /// What the label is compared with. TypeScript workers also send none.
    pub value: Option<LabelValue>,
    /// Whether a worker that does not fulfil it is out.
    pub required: bool,
    /// How the worker's label is compared with the value.
    pub comparator: Comparator,
    /// What it counts if it is not required.
    pub weight: i32,
}

/// The value of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelValue {
    /// A text.
    Text(String),
    /// A number.
    Number(i32),
}

/// How a worker's label is compared with the value wished for: the worker's stands left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Comparator {
    Equal,
    NotEqual,
    GreaterThan,
    GreaterThanOrEqual,
    LessThan,
    LessThanOrEqual,
}

/// One condition of a task. Conditions of the same group are alternatives; an action happens when all its groups have
/// one that is met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it looks at.
    pub on: ConditionOn,
    /// What happens when it is met.
    pub action: ConditionAction,
    /// Its group, counted from 0 in the order of appearance. SDKs make up new group ids at every start.
    pub group: u32,
    /// Under which key the task finds what met it.
    pub data_key: String,
    /// CEL: what must be true of it. `None`: nothing.
    pub expression: Option<String>,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConditionOn {
    /// The output of a task, by index. Without effect if that is no parent.
    Parent(u16),
    /// The time that has passed.
    Sleep(GoDuration),
    /// An event.
    Event {
        /// Its name.
        key: String,
        /// The scope it must have. `None`: any.
        scope: Option<String>,
        /// From when on an event counts that came before, in milliseconds since the Unix epoch.
        since_ms: Option<u64>,
    },
}

/// What happens when conditions are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionAction {
    /// What waits goes on.
    Create,
    /// The task is queued.
    Queue,
    /// The task is cancelled.
    Cancel,
    /// The task is skipped.
    Skip,
}

/// How tasks are collected and given out together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Tasks after which a batch goes out, at least 1.
    pub size_max: u32,
    /// Milliseconds after which it goes out anyway, at least 1. `None`: never.
    pub interval_ms: Option<u32>,
    /// CEL: only tasks of one key go together.
    pub group_key: Option<String>,
    /// Batches of one key that may run at once, at least 1.
    pub group_runs_max: Option<u32>,
    /// Whether all tasks of a batch get the same output.
    pub broadcast_output: bool,
}

impl Definition {
    /// Makes a definition of what a worker sent, and checks it. The same request always gives the same definition.
    ///
    /// # Errors
    /// [`BadDefinition`] names the first field that is wrong and says what to change. Nothing of it may be stored.
    pub fn from_request(request: &v1::CreateWorkflowVersionRequest) -> Result<Definition, BadDefinition> {
        translate::definition(request)
    }

    /// The hash of everything that makes this version what it is. It leaves out what SDKs make up anew at every
    /// start, and it is the same for ever: a definition that has no use of a later feature keeps its hash.
    pub fn content_hash(&self) -> ContentHash {
        hash::of(self)
    }
}

/// A definition that can't be accepted: where, and what to change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field}: {wrong}")]
pub struct BadDefinition {
    /// The field, as the wire calls it: `tasks[2].timeout`. Tasks are counted from 0, as they were declared.
    pub field: String,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Wrong {
    /// It is empty.
    #[error("is empty: give it a value")]
    Empty,
    /// A text is too long.
    #[error("has {found} bytes, at most {max} are allowed")]
    TooLong {
        /// Its length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A list is too long.
    #[error("has {found} entries, at most {max} are allowed")]
    TooMany {
        /// Its length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A name is used twice.
    #[error("{name:?} is used before: names of tasks are unique in their workflow")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A task that is not there.
    #[error("there is no task {name:?} in this workflow: name one that is, or add it")]
    NoSuchTask {
        /// The name.
        name: String,
    },
    /// A task waits for itself in the end.
    #[error("tasks wait for each other in a circle: {}; remove one of these parents", .path.join(" waits for "))]
    Cycle {
        /// The names on the way, the first also last.
        path: Vec<String>,
    },
    /// It holds no duration.
    #[error(transparent)]
    Duration(#[from] BadDuration),
    /// A number of an enumeration that has no meaning.
    #[error("has the unknown value {found}: {what} has no such value")]
    UnknownValue {
        /// The number.
        found: i32,
        /// The enumeration.
        what: &'static str,
    },
    /// A number is too small or too large.
    #[error("is {found}: {min} to {max} are allowed")]
    OutOfRange {
        /// The number.
        found: i64,
        /// The lowest that is allowed.
        min: i64,
        /// The highest that is allowed.
        max: i64,
    },
    /// A factor that can't be multiplied with.
    #[error("is {found}: use a number that is 0 or more")]
    BadFactor {
        /// The number.
        found: f32,
    },
    /// It holds no JSON.
    #[error("is not JSON ({cause}): send one JSON value")]
    NotJson {
        /// What the parser said.
        cause: String,
    },
    /// It holds no CEL.
    #[error("is not a CEL expression ({cause}): correct it there")]
    NotCel {
        /// What the parser said, and where.
        cause: BadExpression,
    },
    /// It holds no schedule.
    #[error("{found:?} is no cron expression: use five fields, or six with seconds first")]
    NotCron {
        /// What was given.
        found: String,
    },
    /// Fields that can't go together, or one that lacks another.
    #[error("{0}")]
    Conflict(&'static str),
}
