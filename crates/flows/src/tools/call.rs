//! A call: who asks, under which key, with what; and what came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::template;
use super::tool::Tool;
use super::tried::ToolError;
use crate::calls::EffectView;

/// Bytes of a business key.
pub const KEY_BYTES_MAX: usize = 200;
/// Bytes of what is shown of arguments.
const PREVIEW_BYTES_MAX: usize = 2_000;

/// On whose behalf a call is made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OnBehalf {
    /// The agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<String>,
    /// The turn with which its chain began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_group_id: Option<String>,
    /// The token that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What is carried out: the input of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// The tool, as it was when it was asked for.
    pub tool: Tool,
    /// Which version of it that is.
    pub version: u64,
    /// The tools it needs besides itself, likewise.
    #[serde(default)]
    pub others: BTreeMap<String, Tool>,
    /// Its arguments.
    pub arguments: Value,
    /// What the provider is told to recognise a repeat by.
    pub key: String,
    /// The name of its document in the ledger. A step of a plan has none: its plan's journal is its ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
    /// On whose behalf.
    #[serde(default)]
    pub caller: OnBehalf,
    /// When it is too late to begin, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<u64>,
    /// Whether a person is asked first, and what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
    /// The ledger's document of the call that this one undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<(String, EffectView)>,
    /// How long the ledger remembers the outcome, in milliseconds.
    pub remember_ms: u64,
    /// Where it is asked for, and what for: shown in lists.
    #[serde(default)]
    pub step: Option<String>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// It was carried out.
    Done,
    /// It was certainly not carried out.
    Failed,
    /// A person said no, or did not say yes in time.
    Declined,
    /// It was carried out, in part or whole, and undone.
    Compensated,
}

/// What came of a call: the output of its run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: OutcomeStatus,
    /// What it gave.
    #[serde(default)]
    pub result: Value,
    /// Why it failed, or why its result can't be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ToolError>,
    /// Whether it may have been carried out although it failed. It may happen twice, so it may be asked for again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub in_doubt: bool,
    /// The steps of a plan, in the order they were carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepOutcome>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}

/// What came of a step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// Its name.
    pub name: String,
    /// Its tool.
    pub tool: String,
    /// `done`, `failed`, `skipped`, `compensated`; or `not_compensated`: it was done, and stays so although the plan failed.
    pub status: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ToolError>,
}

impl Outcome {
    pub(super) fn done(result: Value) -> Self {
        Outcome { status: OutcomeStatus::Done, result, error: None, in_doubt: false, steps: Vec::new() }
    }

    pub(super) fn of(status: OutcomeStatus, error: ToolError) -> Self {
        Outcome { status, result: Value::Null, error: Some(error), in_doubt: false, steps: Vec::new() }
    }
}

/// What makes a call this one and no other: the arguments a tool names, each with its length, so that no two lists of them
/// are spelt the same; or, without any, a digest of all.
///
/// # Errors
/// Which argument is missing: two incomplete calls are not the same call.
pub fn business_key(tool: &Tool, arguments: &Value) -> Result<String, String> {
    if tool.key_fields.is_empty() {
        return Ok(digest(arguments)[..16].to_owned());
    }
    let mut key = String::new();
    for field in &tool.key_fields {
        let text = match template::look(arguments, field) {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            _ => return Err(format!("argument {field:?} is needed to tell this call from others: give it")),
        };
        if !key.is_empty() {
            key.push(':');
        }
        key.push_str(&format!("{}.{text}", text.len()));
    }
    // What is too long to be read is told apart by its digest.
    if key.len() > KEY_BYTES_MAX { Ok(digest(&json!(key))[..32].to_owned()) } else { Ok(key) }
}

/// SHA-256 of a value, in hex: of its members in order of their names.
pub fn digest(value: &Value) -> String {
    let mut text = String::new();
    write_sorted(value, &mut text);
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_sorted(value: &Value, into: &mut String) {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            into.push('{');
            for name in names {
                into.push_str(&json!(name).to_string());
                into.push(':');
                write_sorted(&members[name], into);
                into.push(',');
            }
            into.push('}');
        }
        Value::Array(items) => {
            into.push('[');
            for item in items {
                write_sorted(item, into);
                into.push(',');
            }
            into.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => into.push_str(&value.to_string()),
    }
}

/// Arguments without what is sensitive.
pub fn shown(tool: &Tool, arguments: &Value) -> Value {
    let mut shown = arguments.clone();
    for path in &tool.sensitive {
        hide(&mut shown, path);
    }
    shown
}

/// Arguments as people may see them: without what is sensitive, and not endless.
pub fn preview(tool: &Tool, arguments: &Value) -> String {
    let mut text = shown(tool, arguments).to_string();
    if text.len() > PREVIEW_BYTES_MAX {
        let end = (0..=PREVIEW_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn hide(value: &mut Value, path: &str) {
    let Some((first, rest)) = path.split_once('.') else {
        if let Some(found) = value.as_object_mut().and_then(|members: &mut Map<String, Value>| members.get_mut(path)) {
            *found = json!("…");
        }
        return;
    };
    match value {
        Value::Object(members) => {
            if let Some(found) = members.get_mut(first) {
                hide(found, rest);
            }
        }
        Value::Array(items) => {
            if let Some(found) = first.parse::<usize>().ok().and_then(|at| items.get_mut(at)) {
                hide(found, rest);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
