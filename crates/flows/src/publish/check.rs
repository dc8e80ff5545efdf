//! What is wrong with a configuration, as far as it can be told without asking anybody: ids unique, references resolved, no
//! step of a scenario that is never reached. A pure function; all findings at once.
//!
//! The kinds known here are lists of items with an `id`. What else an item says is its author's affair, and checked by the
//! JSON Schema they supply. Kinds with other names are taken as they are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::locate;
use crate::tools::schema;

/// Scenarios: `{id, start?, steps: [{id, next?, ...}]}`.
pub const SCENARIOS: &str = "scenarios";
/// Rules: `{id, ...}`.
pub const RULES: &str = "rules";
/// Templates: `{id, text?, ...}`.
pub const TEMPLATES: &str = "templates";
/// Tools: `{id, policy?, compensation?, ...}`.
pub const TOOLS: &str = "tools";
/// Variables: `{id, ...}`.
pub const VARIABLES: &str = "variables";
/// The kinds known here.
pub const KNOWN: [&str; 5] = [SCENARIOS, RULES, TEMPLATES, TOOLS, VARIABLES];

/// Findings listed of one configuration.
pub const FINDINGS_MAX: usize = 200;
/// Members of items that refer to items of another kind: by an id, or by a list of ids.
const REFERENCES: [(&str, &str); 10] = [
    ("scenario", SCENARIOS),
    ("scenarios", SCENARIOS),
    ("rule", RULES),
    ("rules", RULES),
    ("template", TEMPLATES),
    ("templates", TEMPLATES),
    ("tool", TOOLS),
    ("tools", TOOLS),
    ("variable", VARIABLES),
    ("variables", VARIABLES),
];
/// What a tool's policy may be. An unknown one would have to be taken for the most dangerous, so it is not published.
const POLICIES: [&str; 4] = ["pure", "idempotent", "compensatable", "irreversible"];

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// In which kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Where in it: a JSON pointer.
    #[serde(default)]
    pub path: String,
    /// In which line of the draft, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What is wrong there, and what to write instead.
    pub message: String,
}

impl Finding {
    fn new(kind: &str, path: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { kind: kind.to_owned(), path: path.into(), line: None, message: message.into() }
    }
}

/// Everything that is wrong with these texts, by kind, and how many findings there were before they were cut to
/// [`FINDINGS_MAX`]. `catalogue` has the names of tools the tenant has besides; `schemas` one JSON Schema per kind.
pub fn findings(
    texts: &BTreeMap<String, bytes::Bytes>,
    schemas: &BTreeMap<String, Value>,
    catalogue: &BTreeSet<String>,
) -> (Vec<Finding>, usize) {
    let mut found = Vec::new();
    let mut values = BTreeMap::new();
    for (kind, text) in texts {
        match serde_json::from_slice::<Value>(text) {
            Ok(value) => drop(values.insert(kind.as_str(), value)),
            Err(error) => {
                let mut bad = Finding::new(kind, "", format!("it is no JSON: {error}"));
                bad.line = u32::try_from(error.line()).ok();
                found.push(bad);
            }
        }
    }
    for (kind, schema) in schemas {
        if let Some(value) = values.get(kind.as_str()) {
            let unfit = schema::findings(schema, value);
            found.extend(unfit.into_iter().map(|unfit| Finding::new(kind, unfit.place, unfit.problem)));
        }
    }
    let mut check = Check { found: &mut found, ids: BTreeMap::new(), has_variables: values.contains_key(VARIABLES) };
    check.ids.insert(TOOLS, catalogue.iter().map(String::as_str).collect());
    for kind in KNOWN {
        if let Some(value) = values.get(kind) {
            check.collect(kind, value);
        }
    }
    for kind in KNOWN {
        for (nth, item) in items(values.get(kind)).enumerate() {
            check.item(kind, &format!("/{nth}"), item);
        }
    }
    let all = found.len();
    found.truncate(FINDINGS_MAX);
    locate_all(texts, &mut found);
    (found, all)
}

/// Finds the line of each.
fn locate_all(texts: &BTreeMap<String, bytes::Bytes>, found: &mut [Finding]) {
    for (kind, text) in texts {
        let of_kind = found.iter().filter(|finding| finding.kind == *kind && finding.line.is_none());
        let pointers: Vec<&str> = of_kind.map(|finding| finding.path.as_str()).collect();
        if pointers.is_empty() {
            continue;
        }
        let lines = locate::lines(text, &pointers);
        for finding in found.iter_mut().filter(|finding| finding.kind == *kind && finding.line.is_none()) {
            finding.line = lines.get(&finding.path).copied();
        }
    }
}

/// The items of a kind: what is wrong with its form is found elsewhere.
fn items(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

/// An item's id.
pub(crate) fn id_of(item: &Value) -> Option<&str> {
    item.get("id").and_then(Value::as_str)
}

struct Check<'a, 'f> {
    found: &'f mut Vec<Finding>,
    ids: BTreeMap<&'static str, BTreeSet<&'a str>>,
    has_variables: bool,
}

impl<'a> Check<'a, '_> {
    fn find(&mut self, kind: &str, path: impl Into<String>, message: impl Into<String>) {
        self.found.push(Finding::new(kind, path, message));
    }

    /// Notes the ids of a kind.
    fn collect(&mut self, kind: &'static str, value: &'a Value) {
        let Some(list) = value.as_array() else {
            return self.find(kind, "", "it is no list: write [{\"id\": ...}, ...]");
        };
        let mut seen = BTreeSet::new();
        for (nth, item) in list.iter().enumerate() {
            match id_of(item) {
                None | Some("") => {
                    self.find(kind, format!("/{nth}"), "it has no `id`: give it one, a text that is unique")
                }
                Some(id) if !seen.insert(id) => {
                    let message = format!("{id:?} is the id of an earlier item as well: give it another");
                    self.find(kind, format!("/{nth}/id"), message);
                }
                Some(_) => {}
            }
        }
        self.ids.entry(kind).or_default().extend(seen);
    }

    fn item(&mut self, kind: &'static str, path: &str, item: &'a Value) {
        self.references(kind, path, item);
        match kind {
            SCENARIOS => self.scenario(path, item),
            TEMPLATES => self.template(path, item),
            TOOLS => self.tool(path, item),
            _ => {}
        }
    }

    /// Everything in an item, or in a step, that refers to another.
    fn references(&mut self, kind: &'static str, path: &str, item: &Value) {
        for (member, of) in REFERENCES {
            match item.get(member) {
                Some(Value::String(id)) => self.resolve(kind, format!("{path}/{member}"), of, id),
                Some(Value::Array(ids)) => {
                    for (nth, id) in ids.iter().enumerate() {
                        if let Value::String(id) = id {
                            self.resolve(kind, format!("{path}/{member}/{nth}"), of, id);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn resolve(&mut self, kind: &'static str, path: String, of: &'static str, id: &str) {
        if !self.ids.get(of).is_some_and(|ids| ids.contains(id)) {
            let besides = if of == TOOLS { ", nor is there such a tool in the catalogue" } else { "" };
            self.find(kind, path, format!("nothing in `{of}` has the id {id:?}{besides}: add it, or correct the name"));
        }
    }

    fn tool(&mut self, path: &str, tool: &Value) {
        if let Some(policy) = tool.get("policy")
            && !policy.as_str().is_some_and(|policy| POLICIES.contains(&policy))
        {
            self.find(TOOLS, format!("{path}/policy"), format!("{policy} is no policy: use one of {POLICIES:?}"));
        }
        if let Some(id) = tool.pointer("/compensation/tool").and_then(Value::as_str) {
            self.resolve(TOOLS, format!("{path}/compensation/tool"), TOOLS, id);
        } else if let Some(Value::String(id)) = tool.get("compensation") {
            self.resolve(TOOLS, format!("{path}/compensation"), TOOLS, id);
        }
    }

    /// Places `{{name}}` and `{{name.more}}` of a text name variables, where there are any.
    fn template(&mut self, path: &str, template: &Value) {
        let Some(text) = template.get("text").and_then(Value::as_str).filter(|_| self.has_variables) else { return };
        let mut named = BTreeSet::new();
        for piece in text.split("{{").skip(1) {
            let Some((inside, _)) = piece.split_once("}}") else { continue };
            let name = inside.trim().split('.').next().unwrap_or_default();
            let plain =
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            if plain && named.insert(name) {
                self.resolve(TEMPLATES, format!("{path}/text"), VARIABLES, name);
            }
        }
    }

    fn scenario(&mut self, path: &str, scenario: &'a Value) {
        let Some(steps) = scenario.get("steps") else { return };
        let Some(steps) = steps.as_array() else {
            return self.find(SCENARIOS, format!("{path}/steps"), "it is no list: write [{\"id\": ...}, ...]");
        };
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for (nth, step) in steps.iter().enumerate() {
            let at = format!("{path}/steps/{nth}");
            match id_of(step) {
                None | Some("") => self.find(SCENARIOS, at.clone(), "this step has no `id`: give it one"),
                Some(id) if places.contains_key(id) => {
                    let message =
                        format!("an earlier step of this scenario has the id {id:?} as well: give it another");
                    self.find(SCENARIOS, format!("{at}/id"), message);
                }
                Some(id) => drop(places.insert(id, nth)),
            }
            self.references(SCENARIOS, &at, step);
        }
        let mut leads: Vec<Vec<usize>> = Vec::new();
        for (nth, step) in steps.iter().enumerate() {
            let mut to = Vec::new();
            for (at, id) in nexts(step) {
                match places.get(id) {
                    Some(place) => to.push(*place),
                    None => {
                        let message =
                            format!("no step of this scenario has the id {id:?}: add it, or correct the name");
                        self.find(SCENARIOS, format!("{path}/steps/{nth}{at}"), message);
                    }
                }
            }
            leads.push(to);
        }
        let start = match scenario.get("start").and_then(Value::as_str) {
            None => 0,
            Some(id) => match places.get(id) {
                Some(place) => *place,
                None => {
                    let message = format!("no step of this scenario has the id {id:?}");
                    return self.find(SCENARIOS, format!("{path}/start"), message);
                }
            },
        };
        let (mut reached, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(place) = open.pop() {
            if place < leads.len() && reached.insert(place) {
                open.extend(&leads[place]);
            }
        }
        for (nth, step) in steps.iter().enumerate().filter(|(nth, _)| !reached.contains(nth)) {
            // One whose id is another's can't be led to by it, which is said already.
            if id_of(step).is_some_and(|id| places.get(id) == Some(&nth)) {
                let message = "no step leads here, beginning with the scenario's first: lead to it, or remove it";
                self.find(SCENARIOS, format!("{path}/steps/{nth}"), message);
            }
        }
    }
}

/// Where a step leads: `next` is an id, a list of ids, or of objects with `to`; `transitions` are such objects.
fn nexts(step: &Value) -> Vec<(String, &str)> {
    let mut all = Vec::new();
    for member in ["next", "transitions"] {
        match step.get(member) {
            Some(Value::String(id)) => all.push((format!("/{member}"), id.as_str())),
            Some(Value::Array(list)) => {
                for (nth, one) in list.iter().enumerate() {
                    match (one, one.get("to").and_then(Value::as_str)) {
                        (Value::String(id), _) => all.push((format!("/{member}/{nth}"), id.as_str())),
                        (_, Some(id)) => all.push((format!("/{member}/{nth}/to"), id)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(texts: &[(&str, &str)], schemas: &[(&str, Value)]) -> Vec<String> {
        let texts = texts.iter().map(|(kind, text)| ((*kind).to_owned(), bytes::Bytes::from((*text).to_owned())));
        let schemas = schemas.iter().map(|(kind, schema)| ((*kind).to_owned(), schema.clone())).collect();
        let catalogue = BTreeSet::from(["refund".to_owned()]);
        let (found, _) = findings(&texts.collect(), &schemas, &catalogue);
        let line = |finding: &Finding| finding.line.map_or("-".to_owned(), |line| line.to_string());
        found.iter().map(|one| format!("{} {} {}", one.kind, one.path, line(one))).collect()
    }

    #[test]
    fn what_is_sound_has_no_findings() {
        let scenarios = r#"[{"id": "order", "start": "ask", "steps": [
            {"id": "ask", "template": "hello", "next": [{"to": "done"}, "again"]},
            {"id": "again", "tool": "refund", "rules": ["polite"], "next": "ask"},
            {"id": "done", "next": null}]}]"#;
        let sound = [
            (SCENARIOS, scenarios),
            (RULES, r#"[{"id": "polite", "scenario": "order"}]"#),
            (TEMPLATES, r#"[{"id": "hello", "text": "Hello {{ name.first }}, {{#each x}}"}]"#),
            (TOOLS, r#"[{"id": "book", "policy": "compensatable", "compensation": {"tool": "refund"}}]"#),
            (VARIABLES, r#"[{"id": "name"}]"#),
            ("channel_policies", r#"{"web": {}}"#),
        ];
        assert_eq!(said(&sound, &[]), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_is_found_where_it_stands() {
        let scenarios = "[{\"id\": \"a\", \"steps\": [\n {\"id\": \"x\", \"next\": [\"nowhere\"], \"tool\": \"gone\"},\n \
             {\"id\": \"x\"},\n {\"id\": \"island\", \"next\": \"x\"},\n {\"next\": \"x\"}]},\n{\"id\": \"a\", \"start\": \"q\", \"steps\": []}]";
        let found = said(&[(SCENARIOS, scenarios)], &[]);
        let expected = [
            "scenarios /1/id 6",
            "scenarios /0/steps/1/id 3",
            "scenarios /0/steps/3 5",
            "scenarios /0/steps/0/tool 2",
            "scenarios /0/steps/0/next/0 2",
            "scenarios /0/steps/2 4",
            "scenarios /1/start 6",
        ];
        let (mut found, mut expected) = (found, expected.map(str::to_owned).to_vec());
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn policies_places_schemas_and_bad_json_are_found() {
        let schema = serde_json::json!({ "items": { "required": ["when"] } });
        let found = said(
            &[
                (TOOLS, "[\n{\"id\": \"t\", \"policy\": \"reversible\",\n \"compensation\": \"u\"}]"),
                (TEMPLATES, r#"[{"id": "h", "text": "{{ nobody }}"}]"#),
                (VARIABLES, "[]"),
                (RULES, "[{\"id\": \"r\"},\n {\"id\": \"s\", \"when\": 1}]"),
                ("other", "[1,\n 2"),
            ],
            &[(RULES, schema)],
        );
        let expected =
            ["other  2", "rules /0 1", "templates /0/text 1", "tools /0/policy 2", "tools /0/compensation 3"];
        assert_eq!(found, expected.map(str::to_owned));
    }
}
