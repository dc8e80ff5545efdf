//! What one call of a tool did, worked out from its run's journal: its steps and what undid them, and each try.
//!
//! Pure functions of the API's JSON. How a call ended is in its outcome; until then the journal says how far it got.

use serde::Serialize;
use serde_json::Value;

/// The kinds of what waits for a person, in the order they are shown: what is not known first, what a person is merely
/// asked for last.
const KINDS: [&str; 5] = ["unknown", "compensation_failed", "stuck", "confirmation", "task"];

/// A step of a call: the call itself, or a step of its plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    name: String,
    tool: String,
    /// `waiting`, `running`, `done`, `failed`, `skipped`, `unknown`, `stuck`, `compensated`, `not_compensated`, `not_begun`.
    state: String,
    tries: usize,
    error: Option<String>,
    /// The tool that undoes it.
    undo_tool: Option<String>,
    /// How the undoing stands, once it has begun: `running`, `done`, `failed`, `compensation_failed`.
    undo_state: Option<String>,
    undo_tries: usize,
    /// Whether it is carried out at the same time as its neighbours.
    parallel: bool,
    /// The execution that carries it out, if it has one of its own.
    execution_id: Option<String>,
}

/// A line of the journal that says something to a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    position: u64,
    /// What happened: `try`, `wait`, `asked`, `heard`, `begun`.
    what: &'static str,
    name: String,
    /// `done`, `failed`, `unknown`, `accepted`, `pending`, ...
    state: String,
    requested_at: u64,
    completed_at: Option<u64>,
    detail: Option<String>,
}

/// Groups what waits for a person by its kind, the oldest first in each.
pub(super) fn by_kind(waiting: &[Value]) -> Vec<(String, Vec<Value>)> {
    let mut groups: Vec<(String, Vec<Value>)> = KINDS.iter().map(|kind| ((*kind).to_owned(), Vec::new())).collect();
    for one in waiting {
        let kind = text(&one["kind"]);
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, items)) => items.push(one.clone()),
            // What another release asks is not hidden.
            None => groups.push((kind, vec![one.clone()])),
        }
    }
    groups.retain(|(_, items)| !items.is_empty());
    groups
}

/// The steps of a call, in the order of its plan. A call without a plan is one step.
pub(super) fn steps(execution: &Value, run: &Value, children: &[Value]) -> Vec<Step> {
    let journal = journal(run);
    let over = matches!(run["state"].as_str(), Some("completed" | "failed" | "cancelled" | "superseded"));
    let planned = list(&execution["definition"]["provider"]["steps"]);
    let Some(items) = planned else {
        let own = &execution["definition"];
        // What is carried out as a task has no journal of its own; its outcome is the page's.
        return list(&run["tasks"][0]["journal"])
            .filter(|entries| !entries.is_empty())
            .map(|_| vec![step("call", own, text(&own["name"]), execution, &journal, over)])
            .unwrap_or_default();
    };
    let mut steps = Vec::new();
    for item in items {
        let group = list(&item["parallel"]);
        let parallel = group.is_some();
        for planned in group.unwrap_or(std::slice::from_ref(item)) {
            let name = text(&planned["name"]);
            let mut step = step(&name, planned, text(&planned["tool"]), execution, &journal, over);
            step.parallel = parallel;
            if let Some(child) = children.iter().find(|child| child["step"] == planned["name"]) {
                step.execution_id = child["execution_id"].as_str().map(str::to_owned);
                if step.tries == 0 && matches!(step.state.as_str(), "waiting" | "not_begun") {
                    step.state = text(&child["status"]);
                    step.error = error_of(&child["error"]);
                }
            }
            steps.push(step);
        }
    }
    steps
}

fn step(name: &str, planned: &Value, tool: String, execution: &Value, journal: &[&Value], over: bool) -> Step {
    let undo = format!("undo {name}");
    let asked = |step: &str| list(&execution["attention"]).is_some_and(|all| all.iter().any(|one| one["step"] == step));
    let outcome = list(&execution["steps"]).and_then(|all| all.iter().find(|one| one["name"] == name));
    let mut error = outcome.and_then(|one| error_of(&one["error"]));
    let state = match outcome {
        Some(outcome) => text(&outcome["status"]),
        None if asked(name) => "unknown".to_owned(),
        None if asked(&format!("{name} stuck")) => "stuck".to_owned(),
        None => match last_of(journal, name) {
            Some(last) => {
                error = error.or_else(|| tried_error(last));
                tried_state(last).to_owned()
            }
            None if over => "not_begun".to_owned(),
            None => "waiting".to_owned(),
        },
    };
    let undo_state = match last_of(journal, &undo) {
        _ if asked(&undo) => Some("compensation_failed"),
        last => last.map(tried_state),
    };
    let own = &execution["compensations"][tool.as_str()];
    let undo_tool = planned["compensation"]["tool"].as_str().or(own.as_str()).map(str::to_owned);
    Step {
        name: name.to_owned(),
        tool,
        // A call that was undone is shown as that, also while the rest of its plan is still being undone.
        state: if state == "done" && undo_state == Some("done") { "compensated".to_owned() } else { state },
        tries: tries_of(journal, name),
        error,
        undo_tool,
        undo_state: undo_state.map(str::to_owned),
        undo_tries: tries_of(journal, &undo),
        parallel: false,
        execution_id: None,
    }
}

/// The journal's lines that say something to a person, in order.
pub(super) fn tries(run: &Value) -> Vec<Line> {
    let mut lines = Vec::new();
    let journal = journal(run);
    for (place, entry) in journal.iter().enumerate() {
        let name = text(&entry["name"]);
        let what = match entry["kind"].as_str() {
            Some("run") if name != "time" => "try",
            // What came of it is the entry of the same name behind it. Without one it is under way, or was cut off.
            Some("begin") if !journal[place..].iter().any(|one| one["kind"] == "run" && one["name"] == name) => "try",
            Some("sleep") => "wait",
            // One that was there at once is nothing to tell.
            Some("take") if entry["completed_at"] != entry["requested_at"] => "limit",
            Some("wait_signal") => "asked",
            Some("spawn") => "begun",
            Some(_) | None => continue,
        };
        let detail = entry["detail"].as_str().map(str::to_owned);
        let state = if what == "try" { tried_state(entry).to_owned() } else { text(&entry["state"]) };
        lines.push(Line {
            position: entry["position"].as_u64().unwrap_or_default(),
            what,
            name,
            state,
            requested_at: entry["requested_at"].as_u64().unwrap_or_default(),
            completed_at: entry["completed_at"].as_u64().filter(|_| entry["kind"] != "begin"),
            detail: tried_error(entry).or(detail),
        });
    }
    lines
}

fn journal(run: &Value) -> Vec<&Value> {
    list(&run["tasks"][0]["journal"]).unwrap_or_default().iter().collect()
}

/// How often a step was begun.
fn tries_of(journal: &[&Value], name: &str) -> usize {
    journal.iter().filter(|entry| entry["kind"] == "begin" && entry["name"] == name).count()
}

/// The last that is known of a step: what came of its last try, or that a try has begun.
fn last_of<'j>(journal: &[&'j Value], name: &str) -> Option<&'j Value> {
    let about = |entry: &&&Value| (entry["kind"] == "run" || entry["kind"] == "begin") && entry["name"] == name;
    journal.iter().rev().find(about).copied()
}

/// What came of a try, by what the journal keeps of it. Its text may be cut, so only its beginning counts.
fn tried_state(entry: &Value) -> &'static str {
    if entry["kind"] == "begin" || entry["state"] == "pending" {
        return "running";
    }
    let said = entry["detail"].as_str().unwrap_or_default();
    let begins = |word: &str| said.trim_start_matches(['{', '"']).starts_with(word);
    if begins("done") {
        "done"
    } else if begins("in_doubt") {
        "unknown"
    } else if begins("accepted") {
        "accepted"
    } else if begins("failed") || entry["state"] == "failed" {
        "failed"
    } else {
        "done"
    }
}

/// Why a try failed, if the journal's text is whole.
fn tried_error(entry: &Value) -> Option<String> {
    let said: Value = serde_json::from_str(entry["detail"].as_str()?).ok()?;
    let error = [&said["failed"]["error"], &said["in_doubt"], &said["done_without"]];
    error.into_iter().find_map(error_of)
}

fn error_of(error: &Value) -> Option<String> {
    let message = error["message"].as_str()?;
    Some(match error["code"].as_str() {
        Some(code) => format!("{code}: {message}"),
        None => message.to_owned(),
    })
}

fn list(value: &Value) -> Option<&[Value]> {
    value.as_array().map(Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(position: u64, kind: &str, name: &str, detail: Value) -> Value {
        let (state, detail) =
            if detail.is_null() { ("pending", Value::Null) } else { ("done", json!(detail.to_string())) };
        json!({"position": position, "kind": kind, "name": name, "state": state, "requested_at": position, "detail": detail})
    }

    fn plan() -> Value {
        json!({
            "definition": {"name": "trip.book", "provider": {"kind": "steps", "steps": [
                {"name": "flight", "tool": "flight.book"},
                {"parallel": [{"name": "seat", "tool": "seat.pick"}]},
                {"name": "hotel", "tool": "hotel.book", "compensation": {"tool": "hotel.cancel"}},
                {"name": "payment", "tool": "payment.charge"},
            ]}},
            "compensations": {"flight.book": "flight.cancel"},
            "attention": [],
        })
    }

    fn states(steps: &[Step]) -> Vec<(&str, &str, Option<&str>)> {
        steps.iter().map(|step| (step.name.as_str(), step.state.as_str(), step.undo_state.as_deref())).collect()
    }

    #[test]
    fn a_plan_that_is_being_undone_shows_what_is_undone_already() {
        let failed = json!({"failed": {"error": {"code": "provider_refused", "message": "no room"}, "again": false}});
        let journal = json!([
            entry(0, "begin", "flight", json!(true)),
            entry(1, "run", "flight", json!({"done": {"booking": "F-1"}})),
            entry(2, "spawn", "tool-call", json!("run x")),
            entry(3, "begin", "hotel", json!(true)),
            entry(4, "run", "hotel", failed),
            entry(5, "begin", "undo flight", json!(true)),
        ]);
        let run = json!({"state": "running", "tasks": [{"journal": journal}]});
        let children = [json!({"step": "seat", "execution_id": "c1", "status": "done", "error": null})];
        let steps = steps(&plan(), &run, &children);
        assert_eq!(
            states(&steps),
            [
                ("flight", "done", Some("running")),
                ("seat", "done", None),
                ("hotel", "failed", None),
                ("payment", "waiting", None),
            ]
        );
        assert_eq!(steps[0].undo_tool.as_deref(), Some("flight.cancel"), "its tool's own");
        assert_eq!(steps[2].undo_tool.as_deref(), Some("hotel.cancel"), "the plan's word comes first");
        assert_eq!(steps[2].error.as_deref(), Some("provider_refused: no room"));
        assert!(steps[1].parallel && steps[1].execution_id.as_deref() == Some("c1"));
        let lines = tries(&run);
        assert_eq!(lines.iter().map(|line| line.what).collect::<Vec<_>>(), ["try", "begun", "try", "try"]);
        assert_eq!(lines[2].detail.as_deref(), Some("provider_refused: no room"));
        assert_eq!(lines[3].state, "running");
    }

    #[test]
    fn an_outcome_counts_more_than_the_journal_and_what_is_asked_more_than_tries() {
        let doubt = json!({"in_doubt": {"code": "no_answer", "message": "gone"}});
        let journal = json!([entry(0, "begin", "call", json!(true)), entry(1, "run", "call", doubt)]);
        let run = json!({"state": "running", "tasks": [{"journal": journal}]});
        let mut call = json!({"definition": {"name": "refund", "provider": {"kind": "http"}}, "attention": []});
        assert_eq!(states(&steps(&call, &run, &[])), [("call", "unknown", None)]);
        call["attention"] = json!([{"step": "undo call"}]);
        assert_eq!(states(&steps(&call, &run, &[])), [("call", "unknown", Some("compensation_failed"))]);
        let mut ended = plan();
        ended["steps"] = json!([{"name": "flight", "tool": "flight.book", "status": "compensated"}]);
        let run = json!({"state": "completed", "tasks": [{"journal": []}]});
        assert_eq!(
            states(&steps(&ended, &run, &[])),
            [
                ("flight", "compensated", None),
                ("seat", "not_begun", None),
                ("hotel", "not_begun", None),
                ("payment", "not_begun", None)
            ]
        );
    }

    #[test]
    fn what_waits_is_grouped_and_nothing_is_hidden() {
        let waiting = [
            json!({"kind": "task", "n": 1}),
            json!({"kind": "new"}),
            json!({"kind": "unknown"}),
            json!({"kind": "task", "n": 2}),
        ];
        let groups = by_kind(&waiting);
        let shape: Vec<_> = groups.iter().map(|(kind, items)| (kind.as_str(), items.len())).collect();
        assert_eq!(shape, [("unknown", 1), ("task", 2), ("new", 1)]);
        assert_eq!(groups[1].1[0]["n"], 1);
    }
}
