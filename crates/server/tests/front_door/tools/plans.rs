//! Several tools in order: what was done is undone if one fails, whatever happens meanwhile, and never twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Call, Provider, Then, asked_of_a_person, attention, begin, execute, execution, nobody_is_asked, put, server,
    settle, tool,
};
use crate::harness::{Gate, Server, User, eventually};

fn at(provider: &Provider, path: &str, policy: &str, more: Value) -> Value {
    let mut more = more;
    more["provider"] = json!({ "kind": "http", "url": provider.url(path) });
    tool(provider, policy, more)
}

/// Flight, hotel and payment, of which the first two can be undone.
async fn trip(user: &User, provider: &Provider, more: Value) {
    put(user, "flight.cancel", &at(provider, "/flight/cancel", "idempotent", json!({}))).await;
    put(user, "hotel.cancel", &at(provider, "/hotel/cancel", "idempotent", json!({}))).await;
    let undo =
        |tool: &str| json!({ "compensation": { "tool": tool, "arguments": { "booking": "{{result.booking}}" } } });
    put(user, "flight.book", &at(provider, "/flight", "compensatable", undo("flight.cancel"))).await;
    put(user, "hotel.book", &at(provider, "/hotel", "compensatable", undo("hotel.cancel"))).await;
    put(user, "pay", &at(provider, "/pay", "irreversible", json!({}))).await;
    let mut plan = json!({
        "kind": "steps",
        "steps": [
            { "name": "flight", "tool": "flight.book", "arguments": { "to": "{{args.to}}" } },
            { "name": "hotel", "tool": "hotel.book", "arguments": { "in": "{{args.to}}" } },
            { "name": "pay", "tool": "pay", "arguments": { "for": ["{{steps.flight.booking}}", "{{steps.hotel.booking}}"] } },
        ],
    });
    for (name, value) in more.as_object().expect("an object") {
        plan[name] = value.clone();
    }
    let trip = json!({ "policy": "compensatable", "provider": plan });
    put(user, "trip", &trip).await;
}

/// Books, and cancels, once per key; a test decides about everything else.
fn booked(call: &Call) -> Then {
    call.act_once();
    Then::Answer(200, json!({ "booking": call.path }))
}

async fn ended(user: &User, id: &str) -> Value {
    eventually("it ends", || async {
        let found = user.get(&format!("/v1/tool-executions/{id}")).await.ok();
        ["done", "failed", "compensated"].contains(&found["status"].as_str().expect("a status")).then_some(found)
    })
    .await
}

fn steps(execution: &Value) -> Vec<(String, String)> {
    let steps = execution["steps"].as_array().expect("steps");
    let text = |step: &Value, part: &str| step[part].as_str().expect("text").to_owned();
    steps.iter().map(|step| (text(step, "name"), text(step, "status"))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, status)| ((*name).to_owned(), (*status).to_owned())).collect()
}

#[tokio::test]
async fn a_trip_is_booked_in_order_each_step_with_what_came_before() {
    let (_server, user) = server().await;
    let provider = Provider::start(|call: Call| async move { booked(&call) }).await;
    trip(&user, &provider, json!({ "result": { "flight": "{{steps.flight.booking}}" } })).await;
    let asked = json!({ "arguments": { "to": "Rome" }, "idempotency_key": "k" });
    let answer = execute(&user, "trip", &asked).await.ok();
    assert_eq!((&answer["status"], &answer["result"]), (&json!("done"), &json!({ "flight": "/flight" })));
    assert_eq!(steps(&answer), pairs(&[("flight", "done"), ("hotel", "done"), ("pay", "done")]));
    let calls = provider.calls();
    let paths: Vec<_> = calls.iter().map(|call| call.path.as_str()).collect();
    assert_eq!(paths, ["/flight", "/hotel", "/pay"]);
    assert_eq!(calls[2].body, json!({ "for": ["/flight", "/hotel"] }));
    let keys: std::collections::BTreeSet<_> = calls.iter().map(|call| call.key().to_owned()).collect();
    assert_eq!(keys.len(), 3, "each step has a key of its own");
    assert_eq!(execute(&user, "trip", &asked).await.ok()["repeated"], true);
    assert_eq!(provider.calls().len(), 3);
}

#[tokio::test]
async fn what_was_done_is_undone_when_a_step_fails_also_over_a_crash_in_the_middle_of_undoing() {
    let (server, user) = server().await;
    let (gate, held) = (Gate::closed(), Gate::closed());
    let (opened, hanging) = (gate.clone(), held.clone());
    let provider = Provider::start(move |call: Call| {
        let (opened, hanging) = (opened.clone(), hanging.clone());
        async move {
            match call.path.as_str() {
                "/hotel" => Then::Answer(422, json!({ "why": "full" })),
                "/flight/cancel" if call.nth == 0 => {
                    // It is carried out, and the server dies before it hears that.
                    call.act_once();
                    hanging.open();
                    opened.passed().await;
                    Then::Break
                }
                _ => booked(&call),
            }
        }
    })
    .await;
    trip(&user, &provider, json!({})).await;
    let id = begin(&user, "trip", "k", json!({ "to": "Rome" })).await;
    held.passed().await;
    let server = server.crash(None).await;
    gate.open();
    let user = server.user().await;
    let ended = execution(&user, &id, "compensated").await;
    assert_eq!(ended["error"]["code"], "provider_refused");
    assert_eq!(steps(&ended), pairs(&[("flight", "compensated"), ("hotel", "failed")]));
    let undone = provider.calls_of("/flight/cancel");
    assert_eq!((undone.len(), provider.calls_of("/flight").len()), (2, 1));
    assert_eq!((undone[0].key(), &undone[0].body), (undone[1].key(), &undone[1].body));
    assert_eq!(undone[0].body, json!({ "booking": "/flight" }));
    assert_eq!(provider.effects(), 2, "booked once, cancelled once: {:?}", provider.ledger());
    assert!(provider.calls_of("/pay").is_empty() && provider.calls_of("/hotel/cancel").is_empty());
    // Asked for again it is another trip.
    let again = execute(&user, "trip", &json!({ "arguments": { "to": "Rome" }, "idempotency_key": "k" })).await.ok();
    assert_eq!(again["status"], "compensated");
    assert_ne!(provider.calls_of("/flight")[1].key(), provider.calls_of("/flight")[0].key());
}

#[tokio::test]
async fn a_plan_whose_first_step_fails_has_done_nothing() {
    let (_server, user) = server().await;
    let provider = Provider::start(|_| async { Then::Answer(404, json!({})) }).await;
    trip(&user, &provider, json!({})).await;
    let answer = execute(&user, "trip", &json!({ "arguments": { "to": "Rome" }, "idempotency_key": "k" })).await.ok();
    assert_eq!((&answer["status"], steps(&answer)), (&json!("failed"), pairs(&[("flight", "failed")])));
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_undone_waits_for_a_person_with_everything_they_need() {
    let (server, user) = server().await;
    let gate = Gate::closed();
    let fixed = gate.clone();
    let provider = Provider::start(move |call: Call| {
        let fixed = fixed.clone();
        async move {
            match call.path.as_str() {
                "/pay" => Then::Answer(402, json!({})),
                "/hotel/cancel" if tokio::time::timeout(std::time::Duration::ZERO, fixed.passed()).await.is_err() => {
                    Then::Answer(409, json!({ "why": "too late to cancel" }))
                }
                _ => booked(&call),
            }
        }
    })
    .await;
    trip(&user, &provider, json!({})).await;
    let mut ids = Vec::new();
    for verb in ["retry", "done", "leave"] {
        ids.push(begin(&user, "trip", verb, json!({ "to": verb })).await);
    }
    for id in &ids {
        let waits = asked_of_a_person(&user, id, "compensation_failed").await;
        assert_eq!((&waits["step"], &waits["verbs"]), (&json!("undo hotel"), &json!(["retry", "done", "leave"])));
        let detail = &waits["detail"];
        assert_eq!(
            (&detail["tool"], &detail["result"]),
            (&json!("hotel.book"), &json!({ "booking": "/hotel" })),
            "{detail}"
        );
        assert!(detail["arguments"].as_str().expect("arguments").contains("\"in\""), "{detail}");
        assert!(detail["error"]["message"].as_str().expect("why").contains("too late to cancel"), "{detail}");
        assert!(detail["key"].as_str().expect("a key").contains(":hotel"), "{detail}");
        let shown = user.get(&format!("/v1/tool-executions/{id}")).await.ok();
        assert_eq!(shown["status"], "compensation_failed");
    }
    assert_eq!(provider.calls_of("/flight/cancel").len(), 0, "what comes before waits in order");
    let tried = provider.calls_of("/hotel/cancel").len();
    assert_eq!(tried, 3 * 5, "it was tried several times before anybody was asked");
    let server = server.crash(None).await;
    let user = server.user().await;
    // To be asked to end changes nothing: it undoes already.
    user.post(&format!("/v1/tool-executions/{}/cancel", ids[0]), &json!({})).await;
    assert_eq!(attention(&user).await.len(), 3);
    gate.open();
    for (id, verb) in ids.iter().zip(["retry", "done", "leave"]) {
        settle(&user, id, "undo hotel", json!({ "verb": "give_up" })).await.problem(422, "call_unusable");
        assert_eq!(settle(&user, id, "undo hotel", json!({ "verb": verb })).await.status, 202);
        let ended = ended(&user, id).await;
        let (status, hotel) = match verb {
            "leave" => ("failed", "not_compensated"),
            _ => ("compensated", "compensated"),
        };
        assert_eq!(ended["status"], status, "{ended}");
        assert_eq!(steps(&ended), pairs(&[("flight", "compensated"), ("hotel", hotel), ("pay", "failed")]));
    }
    nobody_is_asked(&user).await;
    assert_eq!(provider.calls_of("/hotel/cancel").len(), tried + 1, "only the one that was to be tried again");
    assert_eq!(provider.calls_of("/flight/cancel").len(), 3);
    // What was left as it is has happened: the same call is not begun anew.
    let again =
        execute(&user, "trip", &json!({ "arguments": { "to": "leave" }, "idempotency_key": "leave" })).await.ok();
    assert_eq!((&again["execution_id"], &again["repeated"]), (&json!(ids[2]), &json!(true)), "{again}");
    assert_eq!(provider.calls_of("/flight").len(), 3);
}

/// A trip that is held at its second step.
async fn held_at_the_hotel(more: Value) -> (Server, User, Provider, Gate) {
    let (server, user) = server().await;
    let gate = Gate::closed();
    let opened = gate.clone();
    let provider = Provider::start(move |call: Call| {
        let opened = opened.clone();
        async move {
            if call.path == "/hotel" {
                opened.passed().await;
            }
            booked(&call)
        }
    })
    .await;
    trip(&user, &provider, more).await;
    (server, user, provider, gate)
}

#[tokio::test]
async fn a_plan_that_is_cancelled_begins_nothing_more_and_undoes_what_it_did() {
    let (_server, user, provider, gate) = held_at_the_hotel(json!({})).await;
    let id = begin(&user, "trip", "k", json!({ "to": "Rome" })).await;
    provider.called("/hotel", 1).await;
    user.post(&format!("/v1/tool-executions/{id}/cancel"), &json!({ "reason": "no more" })).await;
    assert_eq!(provider.calls_of("/flight/cancel").len(), 0, "what is under way is waited for");
    gate.open();
    let ended = execution(&user, &id, "failed").await;
    assert_eq!(ended["error"]["code"], "cancelled", "{ended}");
    assert!(provider.calls_of("/pay").is_empty());
    for undone in ["/flight/cancel", "/hotel/cancel"] {
        assert_eq!(provider.calls_of(undone).len(), 1, "{undone}");
    }
    let order: Vec<_> = provider.calls().iter().map(|call| call.path.clone()).collect();
    assert_eq!(order, ["/flight", "/hotel", "/hotel/cancel", "/flight/cancel"], "the last first");
}

#[tokio::test]
async fn a_group_or_a_single_call_that_is_cancelled_under_way_is_undone_as_well() {
    let (_server, user, provider, gate) = held_at_the_hotel(json!({})).await;
    let group = json!({ "parallel": [
        { "name": "flight", "tool": "flight.book" }, { "name": "hotel", "tool": "hotel.book" },
    ] });
    let plan = json!({ "kind": "steps", "steps": [group] });
    put(&user, "both", &json!({ "policy": "compensatable", "provider": plan })).await;
    let both = begin(&user, "both", "k", json!({ "to": "Rome" })).await;
    let alone = begin(&user, "hotel.book", "k", json!({ "in": "Rome" })).await;
    provider.called("/hotel", 2).await;
    eventually("the flight is booked", || async { (provider.effects() == 1).then_some(()) }).await;
    for id in [&both, &alone] {
        user.post(&format!("/v1/tool-executions/{id}/cancel"), &json!({ "reason": "no more" })).await;
    }
    gate.open();
    for id in [&both, &alone] {
        assert_eq!(execution(&user, id, "compensated").await["error"]["code"], "cancelled");
    }
    assert_eq!(provider.calls_of("/flight/cancel").len(), 1);
    assert_eq!(provider.calls_of("/hotel/cancel").len(), 2);
    assert_eq!(provider.effects(), 6, "each booked once and cancelled once: {:?}", provider.ledger());
    nobody_is_asked(&user).await;
}

#[tokio::test]
async fn a_plan_has_a_deadline_and_is_undone_when_it_is_over() {
    let (_server, user, provider, gate) = held_at_the_hotel(json!({ "deadline_ms": 300 })).await;
    let id = begin(&user, "trip", "k", json!({ "to": "Rome" })).await;
    // The step in hand is cut at the deadline, and nobody knows what it did: that comes first.
    let waits = asked_of_a_person(&user, &id, "unknown").await;
    assert_eq!((&waits["step"], &waits["detail"]["tool"]), (&json!("hotel"), &json!("hotel.book")));
    gate.open();
    settle(&user, &id, "hotel", json!({ "verb": "done", "result": { "booking": "by hand" } })).await;
    let ended = execution(&user, &id, "compensated").await;
    assert_eq!(ended["error"]["code"], "deadline_exceeded", "{ended}");
    assert_eq!(steps(&ended), pairs(&[("flight", "compensated"), ("hotel", "compensated"), ("pay", "failed")]));
    assert!(provider.calls_of("/pay").is_empty());
    assert_eq!(provider.calls_of("/hotel/cancel")[0].body, json!({ "booking": "by hand" }));
}

#[tokio::test]
async fn steps_of_a_group_run_at_once_and_are_undone_together() {
    let (_server, user) = server().await;
    let gate = Gate::closed();
    let opened = gate.clone();
    let provider = Provider::start(move |call: Call| {
        let opened = opened.clone();
        async move {
            opened.passed().await;
            match call.path.as_str() {
                "/hotel" => Then::Answer(422, json!({})),
                _ => booked(&call),
            }
        }
    })
    .await;
    trip(&user, &provider, json!({})).await;
    let group = json!({ "parallel": [
        { "name": "flight", "tool": "flight.book" }, { "name": "hotel", "tool": "hotel.book" },
    ] });
    let insure = json!({ "name": "insure", "tool": "pay", "if": { "value": "{{args.insured}}" } });
    let plan = json!({ "kind": "steps", "steps": [insure, group, { "name": "pay", "tool": "pay" }] });
    put(&user, "both", &json!({ "policy": "compensatable", "provider": plan })).await;
    let id = begin(&user, "both", "k", json!({ "to": "Rome" })).await;
    provider.called("/flight", 1).await;
    provider.called("/hotel", 1).await;
    gate.open();
    let ended = execution(&user, &id, "compensated").await;
    let expected = pairs(&[("insure", "skipped"), ("flight", "compensated"), ("hotel", "failed")]);
    assert_eq!(steps(&ended), expected);
    assert!(provider.calls_of("/pay").is_empty());
    assert_eq!((provider.calls_of("/flight").len(), provider.calls_of("/flight/cancel").len()), (1, 1));
}

#[tokio::test]
async fn behind_what_cannot_be_undone_it_only_goes_forward() {
    let (_server, user) = server().await;
    let provider = Provider::start(|call: Call| async move {
        match (call.path.as_str(), call.nth) {
            ("/hotel", 0 | 2) => Then::Answer(422, json!({ "why": "full" })),
            _ => booked(&call),
        }
    })
    .await;
    trip(&user, &provider, json!({})).await;
    let plan = json!({ "kind": "steps", "steps": [{ "name": "pay", "tool": "pay" }, { "name": "hotel", "tool": "hotel.book" }] });
    put(&user, "paid", &json!({ "policy": "irreversible", "provider": plan })).await;
    for (key, verb, status) in [("k1", "retry", "done"), ("k2", "give_up", "failed")] {
        let id = begin(&user, "paid", key, json!({})).await;
        let waits = asked_of_a_person(&user, &id, "stuck").await;
        assert_eq!((&waits["step"], &waits["verbs"]), (&json!("hotel stuck"), &json!(["retry", "give_up"])));
        settle(&user, &id, "hotel stuck", json!({ "verb": verb })).await;
        assert_eq!(ended(&user, &id).await["status"], status);
        // Whoever asks again, also after that, pays once.
        let again = execute(&user, "paid", &json!({ "arguments": {}, "idempotency_key": key })).await.ok();
        assert_eq!(again["status"], status, "{again}");
    }
    assert_eq!(provider.calls_of("/pay").len(), 2, "{:?}", provider.ledger());
}

#[tokio::test]
async fn a_call_that_was_done_can_be_undone_later_and_once() {
    let (_server, user) = server().await;
    let gate = Gate::closed();
    let fixed = gate.clone();
    let provider = Provider::start(move |call: Call| {
        let fixed = fixed.clone();
        async move {
            match call.path.as_str() {
                "/hotel/cancel" if tokio::time::timeout(std::time::Duration::ZERO, fixed.passed()).await.is_err() => {
                    Then::Answer(409, json!({ "why": "not yet" }))
                }
                _ => booked(&call),
            }
        }
    })
    .await;
    trip(&user, &provider, json!({})).await;
    let id = begin(&user, "hotel.book", "k", json!({ "in": "Rome" })).await;
    execution(&user, &id, "done").await;
    let undo = format!("/v1/tool-executions/{id}/compensate");
    let undoing = user.post(&undo, &json!({})).await.ok()["execution_id"].as_str().expect("an execution").to_owned();
    assert_eq!(user.post(&undo, &json!({})).await.ok()["execution_id"], json!(undoing), "the same undoing");
    // It can't be undone: a person is asked, as anywhere else.
    let waits = asked_of_a_person(&user, &undoing, "compensation_failed").await;
    assert_eq!(waits["verbs"], json!(["retry", "done", "leave"]));
    gate.open();
    settle(&user, &undoing, waits["step"].as_str().expect("a step"), json!({ "verb": "retry" })).await;
    execution(&user, &undoing, "done").await;
    assert_eq!(user.post(&undo, &json!({})).await.ok()["execution_id"], json!(undoing));
    nobody_is_asked(&user).await;
    let again =
        execute(&user, "hotel.book", &json!({ "arguments": { "in": "Rome" }, "idempotency_key": "k" })).await.ok();
    assert_eq!(
        (&again["status"], &again["repeated"]),
        (&json!("done"), &json!(false)),
        "what was undone may be done anew"
    );
    let keys: Vec<_> = provider.calls_of("/hotel").iter().map(|call| call.key().to_owned()).collect();
    assert!(keys.len() == 2 && keys[0] != keys[1], "{keys:?}");
}

/// A plan that books a flight and then does something else.
async fn flight_and(user: &User, provider: &Provider, other: &str) {
    put(user, "flight.cancel", &at(provider, "/flight/cancel", "idempotent", json!({}))).await;
    let undo = json!({ "compensation": { "tool": "flight.cancel", "arguments": {} } });
    put(user, "flight.book", &at(provider, "/flight", "compensatable", undo)).await;
    let steps = json!([{ "name": "flight", "tool": "flight.book" }, { "name": "other", "tool": other }]);
    let plan = json!({ "policy": "compensatable", "provider": { "kind": "steps", "steps": steps } });
    put(user, "plan", &plan).await;
}

#[tokio::test]
async fn a_step_that_needs_a_yes_waits_for_it_and_a_no_takes_back_what_was_done() {
    let (server, user) = server().await;
    let provider = Provider::start(|call: Call| async move { booked(&call) }).await;
    let asked = json!({ "confirmation": { "prompt": "Pay {{args.amount}}?", "expires_ms": 600_000 } });
    put(&user, "pay", &at(&provider, "/pay", "irreversible", asked)).await;
    flight_and(&user, &provider, "pay").await;
    let yes = begin(&user, "plan", "yes", json!({ "amount": 5 })).await;
    let no = begin(&user, "plan", "no", json!({ "amount": 6 })).await;
    let ask = async |user: &User, id: &str| {
        let shown = execution(user, id, "awaiting_confirmation").await;
        shown["asks"]["run_id"].as_str().expect("where it is answered").to_owned()
    };
    let (to_yes, to_no) = (ask(&user, &yes).await, ask(&user, &no).await);
    assert_eq!(user.get(&format!("/v1/tool-executions/{yes}")).await.ok()["prompt"], "Pay 5?");
    assert_eq!(provider.calls().iter().filter(|call| call.path == "/pay").count(), 0);
    let server = server.crash(None).await;
    let user = server.user().await;
    assert_eq!(ask(&user, &yes).await, to_yes, "after a crash the same question stands");
    let page = user.get(&format!("/tools/executions/{yes}")).await.text;
    assert!(page.contains("Pay 5?"), "{page}");
    assert_eq!(settle(&user, &to_yes, "confirm", json!({ "verb": "yes" })).await.status, 202);
    assert_eq!(settle(&user, &to_no, "confirm", json!({ "verb": "no" })).await.status, 202);
    assert_eq!(steps(&ended(&user, &yes).await), pairs(&[("flight", "done"), ("other", "done")]));
    let declined = ended(&user, &no).await;
    assert_eq!((&declined["status"], &declined["error"]["code"]), (&json!("compensated"), &json!("declined")));
    assert_eq!(steps(&declined), pairs(&[("flight", "compensated"), ("other", "failed")]));
    nobody_is_asked(&user).await;
    let count = |path: &str| provider.calls().iter().filter(|call| call.path == path).count();
    assert_eq!((count("/flight"), count("/pay"), count("/flight/cancel")), (2, 1, 1));
}

#[tokio::test]
async fn cancelling_a_plan_withdraws_what_a_step_asks_and_undoes_the_others() {
    let (_server, user) = server().await;
    let provider = Provider::start(|call: Call| async move { booked(&call) }).await;
    let asked = json!({ "confirmation": { "prompt": "Pay?", "expires_ms": 600_000 } });
    put(&user, "pay", &at(&provider, "/pay", "irreversible", asked)).await;
    flight_and(&user, &provider, "pay").await;
    let id = begin(&user, "plan", "k", json!({})).await;
    execution(&user, &id, "awaiting_confirmation").await;
    assert_eq!(user.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.status, 202);
    ended(&user, &id).await;
    nobody_is_asked(&user).await;
    let paths: Vec<_> = provider.calls().iter().map(|call| call.path.clone()).collect();
    assert_eq!(paths, ["/flight", "/flight/cancel"]);
}

#[tokio::test]
async fn steps_keep_the_rate_of_their_tools_and_wait_for_it() {
    let (_server, user) = server().await;
    let provider = Provider::start(|call: Call| async move { booked(&call) }).await;
    let rate = json!({ "rate": { "limit": 1, "window_ms": 700 } });
    put(&user, "look", &at(&provider, "/look", "idempotent", rate)).await;
    let step = |name: &str| json!({ "name": name, "tool": "look" });
    let steps_of = json!([step("one"), step("two"), { "parallel": [step("three"), step("four")] }]);
    let plan = json!({ "policy": "idempotent", "provider": { "kind": "steps", "steps": steps_of } });
    put(&user, "plan", &plan).await;
    let id = begin(&user, "plan", "k", json!({})).await;
    let answer = ended(&user, &id).await;
    assert_eq!(answer["status"], "done", "{answer}");
    assert_eq!(provider.calls().len(), 4);
    let run = user.get(&format!("/v1/runs/{id}")).await.ok();
    let journal = run["tasks"][0]["journal"].as_array().expect("a journal").clone();
    let taken = journal.iter().filter(|entry| entry["kind"] == "take").count();
    assert!(taken >= 3, "two steps took from the limit, and the second had to ask twice: {journal:?}");
}

#[tokio::test]
async fn a_plan_does_not_wait_for_a_rate_beyond_its_deadline() {
    let (_server, user) = server().await;
    let provider = Provider::start(|call: Call| async move { booked(&call) }).await;
    put(&user, "flight.cancel", &at(&provider, "/flight/cancel", "idempotent", json!({}))).await;
    let undo = json!({ "tool": "flight.cancel", "arguments": {} });
    let rate = json!({ "limit": 1, "window_ms": 3_600_000 });
    let flight = at(&provider, "/flight", "compensatable", json!({ "rate": rate, "compensation": undo }));
    put(&user, "flight.book", &flight).await;
    let step = |name: &str| json!({ "name": name, "tool": "flight.book" });
    let plan = json!({ "kind": "steps", "deadline_ms": 500, "steps": [step("one"), step("two")] });
    put(&user, "plan", &json!({ "policy": "compensatable", "provider": plan })).await;
    let id = begin(&user, "plan", "k", json!({})).await;
    let late = ended(&user, &id).await;
    assert_eq!((&late["status"], &late["error"]["code"]), (&json!("compensated"), &json!("deadline_exceeded")));
    let paths: Vec<_> = provider.calls().iter().map(|call| call.path.clone()).collect();
    assert_eq!(paths, ["/flight", "/flight/cancel"]);
}

#[tokio::test]
async fn steps_of_one_order_key_go_one_after_another_over_all_plans() {
    let (_server, user) = server().await;
    let (busy, most) = (Arc::new(AtomicU32::new(0)), Arc::default());
    let provider = {
        let most: Arc<AtomicU32> = Arc::clone(&most);
        Provider::start(move |call: Call| {
            let (busy, most) = (busy.clone(), most.clone());
            async move {
                let now = busy.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(30)).await;
                busy.fetch_sub(1, Ordering::SeqCst);
                booked(&call)
            }
        })
        .await
    };
    let ordered = json!({ "concurrency_key": "{{args.account}}" });
    put(&user, "move", &at(&provider, "/move", "idempotent", ordered)).await;
    let plan = json!({ "policy": "idempotent", "provider": { "kind": "steps", "steps": [
        { "name": "one", "tool": "move" },
        { "parallel": [{ "name": "two", "tool": "move" }, { "name": "three", "tool": "move" }] },
    ] } });
    put(&user, "plan", &plan).await;
    let ids = ["a", "b", "c"].map(|key| begin(&user, "plan", key, json!({ "account": "x" })));
    for id in futures_util::future::join_all(ids).await {
        assert_eq!(ended(&user, &id).await["status"], "done");
    }
    assert_eq!((provider.calls().len(), most.load(Ordering::SeqCst)), (9, 1));
}
