//! A tool: what it is called, what it takes and gives, what it does to the world, and who carries it out.
//!
//! [`Tool::checked`] reads one that somebody wrote and lists everything that is wrong with it; what is stored was checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::Plan;
use super::schema;
use super::template::{self, Condition};
use crate::calls::EffectPolicy;

/// Bytes of a whole definition.
pub const TOOL_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a name.
pub const NAME_BYTES_MAX: usize = 100;
/// Bytes of a description, a prompt.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;
/// The longest a try may take.
pub const TIMEOUT_MS_MAX: u64 = 10 * 60 * 1_000;
/// The longest an outcome, an answer or a confirmation is waited for.
pub const WAIT_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;
/// The most tries.
pub const TRIES_MAX: u32 = 100;
/// Bytes of a result that are kept, unless the tool says fewer.
pub const RESULT_BYTES_MAX: u32 = 256 * 1024;

/// A tool, as it is stored and used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its name, by which everybody knows it: `gmail.send_email`.
    pub name: String,
    /// A short name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does, for whoever chooses between tools.
    #[serde(default)]
    pub description: String,
    /// What it is filed under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// JSON Schema of its arguments.
    #[serde(default = "any_object")]
    pub parameters: Value,
    /// JSON Schema of its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// What it does to the world when it is called, and when it is called twice.
    #[serde(default)]
    pub policy: EffectPolicy,
    /// Who carries it out.
    pub provider: Provider,
    /// How it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<Related>,
    /// How it is found out whether a call was carried out. That tool answers `{"state": "done" | "not_done", "result": ...}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Related>,
    /// Whether a person is asked first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
    /// How long one try may take, in milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// When a try that failed is followed by another.
    #[serde(default)]
    pub retry: Retry,
    /// How often it may be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Calls with the same text here are carried out one after another, as `{{args.account}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// The arguments that make a call this one and no other, as `order.id`. Without any, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_fields: Vec<String>,
    /// Arguments that nobody is shown, as `card.number`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensitive: Vec<String>,
    /// How it is carried out; what its policy allows.
    #[serde(default)]
    pub path: Path,
    /// What becomes of a call when the turn it was made in is begun anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_supersede: Option<OnSupersede>,
    /// Whether it answers later: by a callback, or when it is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<Later>,
    /// Bytes of a result.
    #[serde(default = "result_bytes")]
    pub result_bytes_max: u32,
    /// Whether the tenant's agents may use it at all.
    #[serde(default = "yes")]
    pub available: bool,
}

/// Who carries a tool out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Provider {
    /// An HTTP API.
    Http(Http),
    /// A worker's task or a durable function, by its workflow. Its input is `{tool, arguments, call}`, its output the result;
    /// `{"error": {"code", "message"}}` says that it was certainly not carried out.
    Workflow {
        /// The workflow.
        name: String,
    },
    /// A tool of an MCP server.
    Mcp {
        /// The server's address (streamable HTTP).
        url: String,
        /// The tool's name there.
        tool: String,
        /// Headers, as those of [`Http`].
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
    },
    /// One that is always there: `echo`, `sleep` (of `ms`), `fail`.
    Builtin {
        /// Which.
        name: Builtin,
    },
    /// A person, who is asked and answers.
    Person(Person),
    /// Several tools in order, undone together.
    Steps(Plan),
}

/// A tool that is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Builtin {
    /// Gives its arguments back.
    Echo,
    /// Waits for `ms` milliseconds.
    Sleep,
    /// Fails with `message`, certainly not carried out.
    Fail,
}

/// An HTTP request. Places are filled in from `args`, `call` (`key`, `execution_id`, `tenant`, `agent`, `session`,
/// `turn_id`, `callback_url`, `callback_token`) and `secrets`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    #[serde(default = "post")]
    pub method: String,
    /// Where. Secrets do not belong here: addresses are logged everywhere.
    pub url: String,
    /// Headers. `Idempotency-Key` is sent with each call that does something, unless it is here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body. Without one, the arguments are it; a `GET` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// The secret requests are signed with (Standard Webhooks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_with: Option<String>,
    /// Where the result is in the answer, as `data.booking`. Without it the whole answer is the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_at: Option<String>,
    /// Statuses beyond the 4xx with which this API says that it did nothing, as 503.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_done_statuses: Vec<u16>,
}

/// What a person is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The question. Places are filled in from `args`.
    pub prompt: String,
    /// JSON Schema of the answer. Without one, any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Value>,
    /// Who is to answer, in the tenant's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignee: Option<String>,
    /// When they are reminded, in milliseconds after each asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remind_after_ms: Option<u64>,
    /// Who is asked instead after the first reminder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate_to: Option<String>,
    /// When it is given up.
    #[serde(default = "day_ms")]
    pub expires_ms: u64,
}

/// Another tool, and its arguments, filled in from `args`, `result` and `call`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Related {
    /// The tool.
    pub tool: String,
    /// Its arguments. Without any: `{"args": ..., "result": ..., "key": ...}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
}

impl Related {
    /// The arguments for a call with these arguments, which gave this result, under this key.
    ///
    /// # Errors
    /// [`template::BadTemplate`].
    pub fn arguments(&self, args: &Value, result: &Value, key: &str) -> Result<Value, template::BadTemplate> {
        match &self.arguments {
            None => Ok(json!({ "args": args, "result": result, "key": key })),
            Some(given) => template::fill(given, &json!({ "args": args, "result": result, "call": { "key": key } })),
        }
    }
}

/// A person's yes before a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// What is asked. Places are filled in from `args`.
    pub prompt: String,
    /// After this time without an answer it is a no.
    #[serde(default = "day_ms")]
    pub expires_ms: u64,
    /// When it is asked. Without this, always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
}

/// When a try that failed is followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries in all.
    pub tries_max: u32,
    /// Wait before the second, in milliseconds. It doubles each time.
    pub backoff_ms: u64,
    /// It never grows beyond this.
    pub backoff_max_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { tries_max: 4, backoff_ms: 500, backoff_max_ms: 30_000 }
    }
}

/// How often a tool may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many calls.
    pub limit: u32,
    /// In how many milliseconds.
    pub window_ms: u64,
}

/// How a call is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// As its policy suggests: what only reads directly, what may happen twice queued, everything else durably.
    #[default]
    Auto,
    /// At once, in the request that asks for it. Nothing is recorded before.
    Direct,
    /// As a task: recorded before it leaves, tried again after a crash.
    Queued,
    /// As a durable function: intent and outcome of each try on record.
    Durable,
}

/// What becomes of a call when the turn it was made in is begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSupersede {
    /// The next attempt gets its result.
    Keep,
    /// It is undone before the next attempt begins.
    Compensate,
}

/// An outcome that comes later than the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Later {
    /// How long it is waited for.
    #[serde(default = "day_ms")]
    pub expires_ms: u64,
    /// How it is asked for meanwhile, and how often. That tool answers as a probe does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Poll>,
}

/// How an outcome is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// The tool that knows.
    #[serde(flatten)]
    pub by: Related,
    /// Milliseconds between two questions.
    pub every_ms: u64,
}

fn any_object() -> Value {
    json!({ "type": "object" })
}
fn timeout_ms() -> u64 {
    15_000
}
fn result_bytes() -> u32 {
    RESULT_BYTES_MAX
}
fn yes() -> bool {
    true
}
fn post() -> String {
    "POST".to_owned()
}
fn day_ms() -> u64 {
    24 * 60 * 60 * 1_000
}

/// Something that is wrong with what was written, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A JSON pointer.
    pub place: String,
    /// What is wrong there, and what to write instead.
    pub problem: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Finding { place: place.into(), problem: problem.into() }
    }
}

/// A checked tool, with what its author should know about it.
pub type Checked = (Tool, Vec<Finding>);

impl Tool {
    /// Reads a definition, and checks all of it that can be checked without knowing other tools.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn checked(name: &str, written: &Value) -> Result<Checked, Vec<Finding>> {
        let mut written = written.clone();
        let mut found = Vec::new();
        let Some(members) = written.as_object_mut() else {
            return Err(vec![Finding::new("", "a tool is a JSON object")]);
        };
        if members.get("name").is_some_and(|given| given != name) {
            found
                .push(Finding::new("/name", format!("it is put under the name {name:?}: leave it out, or write that")));
        }
        members.insert("name".to_owned(), json!(name));
        let mut advice = Vec::new();
        match members.get("policy") {
            None => advice.push(Finding::new("/policy", "none is given, so it is taken to be irreversible")),
            Some(policy)
                if ["pure", "idempotent", "compensatable", "irreversible"].iter().any(|word| policy == word) => {}
            Some(policy) => {
                let problem = format!("{policy} is unknown: use pure, idempotent, compensatable or irreversible");
                found.push(Finding::new("/policy", problem));
            }
        }
        let tool: Tool = match serde_json::from_value(written) {
            Ok(tool) => tool,
            Err(error) => {
                found.push(Finding::new("", error.to_string()));
                return Err(found);
            }
        };
        tool.check(&mut found, &mut advice);
        if found.is_empty() { Ok((tool, advice)) } else { Err(found) }
    }

    fn check(&self, found: &mut Vec<Finding>, advice: &mut Vec<Finding>) {
        check_name("/name", &self.name, found);
        if self.description.len() > TEXT_BYTES_MAX {
            found.push(Finding::new("/description", format!("use at most {TEXT_BYTES_MAX} bytes")));
        }
        schema::check("/parameters", &self.parameters, found);
        if let Some(result) = &self.result {
            schema::check("/result", result, found);
        }
        check_number("/timeout_ms", self.timeout_ms, 1, TIMEOUT_MS_MAX, found);
        check_number("/retry/tries_max", u64::from(self.retry.tries_max), 1, u64::from(TRIES_MAX), found);
        check_number("/result_bytes_max", u64::from(self.result_bytes_max), 1, u64::from(RESULT_BYTES_MAX), found);
        if let Some(rate) = self.rate {
            check_number("/rate/limit", u64::from(rate.limit), 1, u64::from(u32::MAX), found);
            check_number("/rate/window_ms", rate.window_ms, 1, WAIT_MS_MAX, found);
        }
        if let Some(later) = &self.later {
            check_number("/later/expires_ms", later.expires_ms, 1, WAIT_MS_MAX, found);
            if let Some(poll) = &later.poll {
                check_number("/later/poll/every_ms", poll.every_ms, 100, WAIT_MS_MAX, found);
            }
        }
        if let Some(confirmation) = &self.confirmation {
            check_number("/confirmation/expires_ms", confirmation.expires_ms, 1, WAIT_MS_MAX, found);
            check_template("/confirmation/prompt", &json!(confirmation.prompt), &["args"], found);
        }
        if let Some(key) = &self.concurrency_key {
            check_template("/concurrency_key", &json!(key), &["args"], found);
        }
        for (place, related) in [("/compensation", &self.compensation), ("/probe", &self.probe)] {
            if let Some(arguments) = related.as_ref().and_then(|related| related.arguments.as_ref()) {
                check_template(&format!("{place}/arguments"), arguments, &["args", "result", "call"], found);
            }
        }
        self.check_policy(found, advice);
        self.check_provider(found);
    }

    fn check_policy(&self, found: &mut Vec<Finding>, advice: &mut Vec<Finding>) {
        let steps = matches!(self.provider, Provider::Steps(_));
        match self.policy {
            EffectPolicy::Compensatable if self.compensation.is_none() && !steps => {
                found.push(Finding::new("/compensation", "a compensatable tool says which tool undoes it"));
            }
            EffectPolicy::Irreversible if self.confirmation.is_none() => {
                advice.push(Finding::new("/confirmation", "it can't be undone, and nobody is asked before"));
            }
            EffectPolicy::Pure
            | EffectPolicy::Idempotent
            | EffectPolicy::Compensatable
            | EffectPolicy::Irreversible => {}
        }
        let allowed: &[Path] = match self.policy {
            EffectPolicy::Pure | EffectPolicy::Idempotent => &[Path::Direct, Path::Queued, Path::Durable],
            EffectPolicy::Compensatable | EffectPolicy::Irreversible => &[Path::Durable],
        };
        if self.path != Path::Auto && !allowed.contains(&self.path) {
            found.push(Finding::new("/path", "what may not happen twice is carried out durably: leave it out"));
        }
        if matches!(self.path, Path::Direct | Path::Queued) && self.needs_durable() {
            let problem = "what waits for a person, a callback or several steps is carried out durably: leave it out";
            found.push(Finding::new("/path", problem));
        }
    }

    /// Whether it waits for something a task can't wait for.
    fn needs_durable(&self) -> bool {
        self.later.is_some()
            || self.confirmation.is_some()
            || matches!(self.provider, Provider::Steps(_) | Provider::Person(_))
    }

    /// How it is carried out.
    pub fn way(&self) -> Path {
        match (self.path, self.policy) {
            (Path::Auto, _) if self.needs_durable() => Path::Durable,
            (Path::Auto, EffectPolicy::Pure) => Path::Direct,
            (Path::Auto, EffectPolicy::Idempotent) => Path::Queued,
            (Path::Auto, EffectPolicy::Compensatable | EffectPolicy::Irreversible) => Path::Durable,
            (path, _) => path,
        }
    }

    /// What becomes of a call when the turn it was made in is begun anew.
    pub fn on_supersede(&self) -> OnSupersede {
        self.on_supersede.unwrap_or(match self.policy {
            EffectPolicy::Compensatable => OnSupersede::Compensate,
            EffectPolicy::Pure | EffectPolicy::Idempotent | EffectPolicy::Irreversible => OnSupersede::Keep,
        })
    }

    /// The tools it needs besides itself.
    pub fn others(&self) -> Vec<&str> {
        let poll = self.later.as_ref().and_then(|later| later.poll.as_ref()).map(|poll| &poll.by);
        let related = [self.compensation.as_ref(), self.probe.as_ref(), poll];
        let mut others: Vec<&str> = related.into_iter().flatten().map(|related| related.tool.as_str()).collect();
        if let Provider::Steps(plan) = &self.provider {
            others.extend(plan.tools());
        }
        others
    }

    fn check_provider(&self, found: &mut Vec<Finding>) {
        match &self.provider {
            Provider::Http(http) => {
                if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&http.method.as_str()) {
                    found.push(Finding::new("/provider/method", "use GET, POST, PUT, PATCH or DELETE"));
                }
                check_template("/provider/url", &json!(http.url), &["args", "call"], found);
                for (name, value) in &http.headers {
                    let place = format!("/provider/headers/{name}");
                    check_template(&place, &json!(value), &["args", "call", "secrets"], found);
                    if !crate::egress::policy::header_is_free(name) {
                        found.push(Finding::new(place, "this header is set by the one who sends"));
                    }
                }
                if let Some(body) = &http.body {
                    check_template("/provider/body", body, &["args", "call", "secrets"], found);
                }
                let fixed = http.url.split("{{").next().unwrap_or_default();
                if !fixed.contains("://") || fixed.splitn(4, '/').nth(3).is_none() && http.url.contains("{{") {
                    let problem =
                        "scheme and host are written out, as https://api.example.com/: they do not come from arguments";
                    found.push(Finding::new("/provider/url", problem));
                }
            }
            Provider::Workflow { name } | Provider::Mcp { tool: name, .. } => {
                if !(1..=200).contains(&name.len()) {
                    found.push(Finding::new("/provider/name", "use 1 to 200 bytes"));
                }
            }
            Provider::Builtin { .. } => {}
            Provider::Person(person) => {
                check_template("/provider/prompt", &json!(person.prompt), &["args"], found);
                check_number("/provider/expires_ms", person.expires_ms, 1, WAIT_MS_MAX, found);
                if let Some(remind) = person.remind_after_ms {
                    check_number("/provider/remind_after_ms", remind, 1_000, WAIT_MS_MAX, found);
                }
                if let Some(form) = &person.form {
                    schema::check("/provider/form", form, found);
                }
            }
            Provider::Steps(plan) => plan.check(found),
        }
    }
}

/// Checks a name: letters, digits, and `.`, `_`, `-` between them.
pub fn check_name(place: &str, name: &str, found: &mut Vec<Finding>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.chars().all(plain) {
        let problem = format!("use 1 to {NAME_BYTES_MAX} letters, digits and the signs . _ -");
        found.push(Finding::new(place, problem));
    }
}

fn check_number(place: &str, number: u64, min: u64, max: u64, found: &mut Vec<Finding>) {
    if !(min..=max).contains(&number) {
        found.push(Finding::new(place, format!("use {min} to {max}")));
    }
}

pub(crate) fn check_template(place: &str, written: &Value, roots: &[&str], found: &mut Vec<Finding>) {
    match template::paths(written) {
        Ok(paths) => {
            for path in paths {
                let root = path.split('.').next().unwrap_or_default();
                if !roots.contains(&root) {
                    let problem = format!("{path:?} looks at {root:?}: here there is {}", roots.join(", "));
                    found.push(Finding::new(place, problem));
                }
            }
        }
        Err(error) => found.push(Finding::new(place, error.to_string())),
    }
}
