//! Each page renders, says what it was told, and lets nobody write markup into it.

use serde_json::{Value, json};

use super::*;

const NOW_MS: u64 = 1_767_225_600_000;
const HOSTILE: &str = r#"<script>alert("1")</script><img src=x onerror='x'>"#;

fn frame(text: &str) -> Frame {
    Frame { tenant: Some(text.into()), version: "0.1.0".into(), now_ms: NOW_MS, waiting: 3 }
}

fn turn(text: &str) -> Value {
    json!({"id": text, "session": text, "agent": text, "interlocutor": text, "channel": text, "state": text,
        "superseded_by": text, "superseded_from": text, "correlation_id": text,
        "messages": [{"id": text, "text": text, "accepted_at": NOW_MS - 3_000}],
        "accumulation": {"ended_by": text, "waited_ms": 812, "quiet_ms": 800, "explanation": text},
        "window": {"until": NOW_MS + 500, "quiet_ms": 800, "explanation": text},
        "decisions": [{"action": text, "reason": text, "restart_from": text, "at": NOW_MS - 1_000}],
        "turn_group_id": text, "superseded_before": 1,
        "artifacts": [{"phase": text, "reuse": text, "turn_id": text, "reuse_count": 2}],
        "effects": [{"tool": text, "key": text, "policy": text, "status": text, "turn_id": text}],
        "reply": {"id": text, "text": text}, "error": text,
        "started_at": NOW_MS - 3_000, "processing_at": NOW_MS - 2_188, "finished_at": null,
        "steps": [{"position": 1, "kind": text, "name": text, "state": text, "requested_at": NOW_MS - 2_000,
            "completed_at": NOW_MS - 1_500, "detail": text}],
        "waiting_for": text})
}

fn run(text: &str) -> Value {
    json!({"id": text, "workflow": text, "key": text, "state": text, "created_at": NOW_MS - 5_000,
        "started_at": NOW_MS - 4_000, "finished_at": NOW_MS, "error": text, "version": text, "priority": 2,
        "parent": text, "input": {text: text}, "output": [text], "waiting_for": text,
        "tasks": [{"index": 0, "name": text, "state": text, "attempt": 1, "attempts_max": 3, "worker": text,
            "waiting_for": text, "queued_at": NOW_MS - 4_500, "started_at": NOW_MS - 4_000, "finished_at": NOW_MS,
            "error": text, "journal": [{"position": 1, "kind": text, "name": text, "state": text,
                "requested_at": NOW_MS - 3_000, "completed_at": null, "detail": text}]}]})
}

fn tool(text: &str) -> Value {
    json!({"name": text, "title": text, "description": text, "policy": text, "version": 3, "tier": text,
        "confirmation": {"prompt": text}, "compensation": {"tool": text},
        "provider": {"kind": "steps", "steps": [{"name": text, "tool": text}, {"parallel": [{"name": text, "tool": text}]}]}})
}

fn asked(kind: &str, text: &str) -> Value {
    json!({"kind": kind, "run_id": text, "step": text, "title": text, "verbs": ["done", "not_done", text], "since": NOW_MS - 60_000,
        "detail": {"tool": text, "arguments": text, "key": text, "error": {"code": text, "message": text},
            "agent": text, "session": text, "turn_id": text, "expires_at": NOW_MS, "digest": text, "assignee": text,
            "reminders": 2, "form": {text: text}, "result": text}})
}

fn execution(text: &str) -> Value {
    json!({"execution_id": text, "tool": text, "status": text, "idempotency_key": text, "result": {text: text},
        "error": {"code": text, "message": text}, "definition": tool(text), "version": 3, "way": text, "arguments": text,
        "caller": {"agent": text, "session": text, "turn_id": text, "by": text}, "confirm": text, "deadline_at": NOW_MS,
        "undoes": text, "undone_by": {"execution_id": text, "status": text}, "step": text,
        "compensations": {text: text}, "attention": [asked("unknown", text)], "policy": text, "created_at": NOW_MS})
}

fn publish(text: &str) -> Value {
    json!({"publish_id": text, "agent": text, "action": text, "version": 3, "from_version": 2, "status": text,
        "description": text, "error": text, "by": text, "correlation_id": text, "requested_at": NOW_MS, "epoch": 4,
        "stages": [{"name": text, "status": "running", "started_at": NOW_MS, "failed_tries": 2, "error": text, "note": text},
            {"name": text, "status": "completed", "started_at": NOW_MS, "duration_ms": 20}],
        "findings": [{"kind": text, "path": text, "line": 5, "message": text}], "findings_total": 7,
        "bundles": {text: {"digest": text, "bytes": 5, "stored_bytes": 3}}})
}

fn config(text: &str) -> ConfigPage {
    let version = |version: u64, status: &str| json!({"version": version, "status": status, "description": text, "bundles": {text: {}}, "at": NOW_MS, "bytes": 7});
    ConfigPage {
        frame: frame(text),
        agent: text.to_owned(),
        overview: json!({"current_version": 3, "draft": {text: {"digest": text, "bytes": 9, "at": NOW_MS, "by": text}},
            "has_unpublished_changes": true, "changed_kinds": [text], "in_progress": [text], "publishes": [publish(text)]}),
        pointer: json!({"version": 3, "canary": {"version": 4, "percent": 10, "sessions": [text]}}),
        versions: vec![version(4, "canary"), version(3, "current"), version(2, "kept"), version(1, "given_up")],
        pins: json!([{"version": 3, "holding": 12, "leaving": 1}]),
        may_change: true,
    }
}

/// Every page, with `text` wherever a text may come from outside.
fn every_page(text: &str) -> Vec<(&'static str, String)> {
    let pages = Pages::new();
    let own = || Some(text.to_owned());
    let row = TurnRow {
        id: text.into(),
        state: text.into(),
        agent: text.into(),
        interlocutor: text.into(),
        channel: text.into(),
        started_at: NOW_MS - 9_000,
        finished_at: None,
        message_count: 2,
    };
    let rendered = [
        (
            "overview",
            pages.overview(&OverviewPage {
                frame: frame(text),
                counts: Counts { messages_accepted: 12_345, ..Counts::default() },
                turns: vec![row],
                runs: vec![run(text)],
                as_of: AsOf { position: 77, lag_ms: 4 },
            }),
        ),
        (
            "chat",
            pages.chat(&ChatPage {
                frame: frame(text),
                agents: vec![AgentChoice { name: text.into(), description: own() }],
                agent: Some(format!("{text}?")),
                interlocutor: own(),
            }),
        ),
        (
            "turn",
            pages.turn(&TurnPage {
                frame: frame(text),
                turn: turn(text),
                state: json!({"version": 3, "data": {text: text}}),
            }),
        ),
        (
            "runs",
            pages.runs(&RunsPage {
                frame: frame(text),
                list: json!({"runs": [run(text)], "next_cursor": text, "as_of": {"position": 77, "lag_ms": 4}}),
                filter: RunsFilter { workflow: own(), state: own(), cursor: own() },
                workflows: vec![text.into()],
            }),
        ),
        ("run", pages.run(&RunPage { frame: frame(text), run: run(text) })),
        (
            "tools",
            pages.tools(&ToolsPage {
                frame: frame(text),
                tools: vec![tool(text)],
                agents: vec![text.into()],
                agent: own(),
            }),
        ),
        (
            "executions",
            pages.executions(&ExecutionsPage {
                frame: frame(text),
                executions: vec![execution(text)],
                next_cursor: own(),
                filter: ExecutionsFilter { tool: own(), session: own(), agent: own(), cursor: own(), status: own() },
                tools: vec![text.into()],
            }),
        ),
        (
            "execution",
            pages.execution(&ExecutionPage {
                frame: frame(text),
                execution: execution(text),
                run: run(text),
                children: vec![json!({"step": text, "execution_id": text, "status": text, "error": null})],
            }),
        ),
        (
            "attention",
            pages.attention(&AttentionPage {
                frame: frame(text),
                waiting: vec![asked(text, text), asked("unknown", text), asked("task", text)],
            }),
        ),
        (
            "agents",
            pages.agents(&AgentsPage {
                frame: frame(text),
                agents: vec![json!({"name": text, "in_progress": 1, "pointer": {"version": 3, "at": NOW_MS}})],
            }),
        ),
        ("config", pages.config(&config(text))),
        (
            "publish",
            pages.publish(&PublishPage { frame: frame(text), publish: publish(text), over: false, may_change: true }),
        ),
        (
            "error",
            pages.error(&ErrorPage {
                frame: frame(text),
                status: 404,
                code: own(),
                title: text.into(),
                detail: text.into(),
                action: text.into(),
            }),
        ),
        ("login", pages.login(&LoginPage { frame: frame(text), reason: own(), next: own() })),
    ];
    rendered.into_iter().map(|(name, html)| (name, html.expect(name))).collect()
}

#[test]
fn every_page_renders() {
    for (name, html) in every_page("orders") {
        assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"), "{name}");
        assert!(html.contains("orders"), "{name}");
    }
}

#[test]
fn hostile_texts_stay_texts() {
    for (name, html) in every_page(HOSTILE) {
        // What may begin a tag was put there by a template: the tag names are all ours.
        assert!(
            !html.contains("<script>") && !html.contains("<img src=x") && !html.contains("onerror='"),
            "{name}: {html}"
        );
        assert!(html.contains("&lt;script&gt;"), "{name}");
    }
}

#[test]
fn a_strict_content_security_policy_holds() {
    for (name, html) in every_page("orders") {
        assert!(!html.contains(" style=") && !html.contains("<style"), "{name}");
        assert!(!html.contains(" onclick=") && !html.contains("javascript:"), "{name}");
        assert_eq!(html.matches("<script").count(), html.matches("<script type=\"module\" src=\"").count(), "{name}");
        assert!(!html.contains("http://") && !html.contains("https://"), "{name}");
        for path in html.split("\"/assets/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(asset(path).is_some(), "{name} refers to {path}");
        }
    }
}

#[test]
fn ids_cannot_lead_elsewhere() {
    let pages = Pages::new();
    let html = pages.run(&RunPage { frame: frame("t"), run: run("../../evil?x=1") });
    let html = html.expect("renders");
    assert!(html.contains("..%2F..%2Fevil%3Fx%3D1") && !html.contains("\"/runs/../"));
}

#[test]
fn paging_keeps_the_filter() {
    let filter = RunsFilter { workflow: Some("a b".into()), state: Some("failed".into()), cursor: Some("c1".into()) };
    let page = RunsPage { frame: frame("t"), list: json!({"next_cursor": "n/2"}), filter, workflows: vec![] };
    let html = Pages::new().runs(&page).expect("renders");
    assert!(html.contains(r#"href="/runs?workflow=a%20b&amp;state=failed&amp;cursor=n%2F2""#));
    assert!(html.contains(r#"href="/runs?workflow=a%20b&amp;state=failed""#));
}

#[test]
fn absent_fields_leave_gaps_not_errors() {
    let pages = Pages::new();
    for value in [
        json!(null),
        json!({}),
        json!({"tasks": [{}], "steps": [{}], "messages": [{}], "reply": {}, "state": "running"}),
    ] {
        assert!(
            pages.turn(&TurnPage { frame: Frame::default(), turn: value.clone(), state: value.clone() }).is_ok(),
            "{value}"
        );
        assert!(pages.run(&RunPage { frame: Frame::default(), run: value.clone() }).is_ok(), "{value}");
        assert!(pages.runs(&RunsPage { list: value.clone(), ..RunsPage::default() }).is_ok(), "{value}");
    }
    for html in [
        pages.overview(&OverviewPage::default()),
        pages.chat(&ChatPage::default()),
        pages.tools(&ToolsPage { tools: vec![json!({})], ..ToolsPage::default() }),
        pages.executions(&ExecutionsPage { executions: vec![json!({})], ..ExecutionsPage::default() }),
        pages.execution(&ExecutionPage::default()),
        pages.attention(&AttentionPage { waiting: vec![json!({})], ..AttentionPage::default() }),
        pages.agents(&AgentsPage { agents: vec![json!({})], ..AgentsPage::default() }),
        pages.config(&ConfigPage { versions: vec![json!({})], ..ConfigPage::default() }),
        pages.publish(&PublishPage::default()),
        pages.error(&ErrorPage::default()),
        pages.login(&LoginPage::default()),
        pages.runs(&RunsPage { list: json!({"next_cursor": "c"}), ..RunsPage::default() }),
    ] {
        let html = html.expect("renders");
        assert!(!html.contains("\"none\"") && !html.contains(">none<") && !html.contains("=none"), "{html}");
    }
}

#[test]
fn the_turn_page_tells_what_happened() {
    let mut turn = turn("orders");
    turn["state"] = "processing".into();
    turn["steps"][0]["state"] = "done".into();
    let html = Pages::new().turn(&TurnPage { frame: frame("acme"), turn, state: json!(null) }).expect("renders");
    for told in [
        r#"data-testid="turn-state">processing<"#,
        "data-unfinished",
        "812 ms",
        "500 ms",
        "Why it waits",
        "Takes over from",
    ] {
        assert!(html.contains(told), "{told}");
    }
    // The turn it takes over from, its message, the window, the agent at work, its step, the decision, the reply.
    assert_eq!(html.matches("data-testid=\"step\"").count(), 7);
}

#[test]
fn only_a_turn_that_failed_offers_to_send_its_messages_again() {
    let page = |state: &str, messages: Value| {
        let mut turn = turn("orders");
        (turn["state"], turn["messages"]) = (state.into(), messages);
        Pages::new().turn(&TurnPage { frame: frame("acme"), turn, state: json!({"version": 0}) }).expect("renders")
    };
    let one = json!([{"id": "m", "text": "hello", "accepted_at": NOW_MS}]);
    for state in ["failed", "cancelled"] {
        assert!(page(state, one.clone()).contains("data-testid=\"replay\""), "{state}");
        assert!(!page(state, json!([])).contains("data-testid=\"replay\""), "{state}");
    }
    assert!(!page("completed", one.clone()).contains("data-testid=\"replay\""));
    assert!(!page("completed", one).contains("Session state"), "there is none");
}

#[test]
fn only_a_run_that_may_be_cancelled_offers_it() {
    let page = |state: &str| {
        let mut run = run("orders");
        run["state"] = state.into();
        Pages::new().run(&RunPage { frame: frame("acme"), run }).expect("renders")
    };
    assert!(page("running").contains("cancel-confirm") && page("parked").contains("cancel-confirm"));
    assert!(!page("completed").contains("cancel-confirm") && page("completed").contains("data-final"));
}

#[test]
fn what_waits_for_a_person_has_a_button_for_each_verb() {
    let mut unknown = asked("unknown", "payment.charge");
    unknown["verbs"] = json!(["done", "not_done", "retry", "compensate"]);
    let page = AttentionPage { frame: frame("acme"), waiting: vec![unknown] };
    let html = Pages::new().attention(&page).expect("renders");
    for verb in ["done", "not_done", "retry", "compensate"] {
        assert!(html.contains(&format!(r#"name="verb" value="{verb}""#)), "{verb}: {html}");
    }
    assert!(html.contains("It was not done") && html.contains("data-json"));
    assert!(html.contains(r#"data-testid="waiting-count""#) && html.contains(">3</span>"), "the menu counts");
    let none = Pages::new().attention(&AttentionPage::default()).expect("renders");
    assert!(none.contains("Nothing waits for a person") && none.contains(r#"person" hidden>"#), "{none}");
}

#[test]
fn only_what_can_be_undone_or_cancelled_offers_it() {
    let page = |state: &str, status: &str, compensation: Value| {
        let mut run = run("x");
        run["state"] = state.into();
        let mut execution = execution("x");
        (execution["status"], execution["undone_by"]) = (status.into(), json!(null));
        execution["definition"]["compensation"] = compensation;
        let page = ExecutionPage { frame: frame("acme"), execution, run, children: Vec::new() };
        Pages::new().execution(&page).expect("renders")
    };
    let undo = || json!({"tool": "flight.cancel"});
    assert!(page("running", "running", undo()).contains("cancel-confirm"));
    let done = page("completed", "done", undo());
    assert!(done.contains("compensate-confirm") && !done.contains("cancel-confirm"));
    assert!(!page("completed", "done", json!(null)).contains("compensate-confirm"));
    assert!(!page("completed", "compensated", undo()).contains("compensate-confirm"));
}

#[test]
fn a_configuration_offers_what_can_be_done_and_a_reader_nothing() {
    let html = Pages::new().config(&config("orders")).expect("renders");
    for offered in ["publish-confirm", "promote-confirm", "end-canary-confirm"] {
        assert!(html.contains(offered), "{offered}");
    }
    assert_eq!(html.matches("rollback-confirm").count(), 1, "only where one can go back to");
    assert!(html.contains(r#"name="target_version" value="2""#) && html.contains("12 <span"), "{html}");
    let html = Pages::new().config(&ConfigPage { may_change: false, ..config("orders") }).expect("renders");
    assert!(!html.contains("<form"), "{html}");
}

#[test]
fn a_publish_can_be_stopped_until_the_pointer_moved() {
    let page = |over: bool, swapped: bool| {
        let mut publish = publish("orders");
        publish["swapped"] = swapped.into();
        let page = PublishPage { frame: frame("acme"), publish, over, may_change: true };
        Pages::new().publish(&page).expect("renders")
    };
    assert!(page(false, false).contains("cancel-confirm"));
    assert!(!page(false, true).contains("cancel-confirm") && !page(true, false).contains("cancel-confirm"));
    assert!(page(true, true).contains("data-final") && !page(false, false).contains("data-final"));
}

#[test]
fn nodes_say_who_has_what() {
    let cluster = json!({
        "nodes": [
            { "id": "a", "name": "n<1>", "address": "10.0.0.1:8080", "release": "1", "state": "alive", "this": true, "partitions": [0, 2] },
            { "id": "b", "name": "n2", "address": "10.0.0.2:8080", "release": "1", "state": "gone", "this": false, "partitions": [1] },
        ],
        "free": [1], "lease_stands": true, "partition": 2,
    });
    let html = Pages::new().nodes(&NodesPage { frame: frame("acme"), cluster: Some(cluster) }).expect("renders");
    assert!(html.contains("n&lt;1&gt;") && !html.contains("n<1>"));
    assert!(html.contains(r#"data-testid="own-node">n&lt;1&gt;"#), "{html}");
    assert!(html.contains("With no node that lives: partition 1."), "{html}");
    let alone = Pages::new().nodes(&NodesPage { frame: frame("acme"), cluster: None }).expect("renders");
    assert!(alone.contains(r#"data-testid="alone""#));
}
