//! People: a yes before a call, and work that is theirs.

use mainspring_client::{Client, DocumentKey};
use mainspring_core::row::DocumentRow;
use serde_json::{Value, json};

use super::{
    Provider, asked_of_a_person, attention, begin, events, execute, execution, nobody_is_asked, put, server, settle,
    tool,
};
use crate::harness::{Server, TENANT_A, eventually};

fn confirmed(provider: &Provider, expires_ms: u64) -> Value {
    let confirmation = json!({ "prompt": "Pay {{args.amount}}?", "expires_ms": expires_ms });
    tool(provider, "irreversible", json!({ "confirmation": confirmation }))
}

/// The entries of the ledger.
async fn entries(server: &Server) -> Vec<(DocumentKey, DocumentRow)> {
    Client::new(server.state().engine().clone(), TENANT_A).documents("effect", "").await.expect("the ledger is read")
}

#[tokio::test]
async fn a_call_that_needs_a_yes_waits_for_it_and_a_no_is_final() {
    let (server, user) = server().await;
    let provider = Provider::honest().await;
    put(&user, "pay", &confirmed(&provider, 600_000)).await;
    let ask = |key: &str| json!({ "arguments": { "amount": 5 }, "idempotency_key": key });
    let answer = execute(&user, "pay", &ask("yes")).await;
    assert_eq!((answer.status, &answer.body["status"]), (202, &json!("awaiting_confirmation")), "{}", answer.text);
    assert_eq!(answer.body["prompt"], "Pay 5?");
    let yes = answer.body["execution_id"].as_str().expect("an execution").to_owned();
    let no = begin(&user, "pay", "no", json!({ "amount": 5 })).await;
    asked_of_a_person(&user, &no, "confirmation").await;
    let server = server.crash(None).await;
    let user = server.user().await;
    assert_eq!(attention(&user).await.len(), 2);
    settle(&user, &yes, "confirm", json!({ "verb": "retry" })).await.problem(422, "call_unusable");
    assert_eq!(settle(&user, &yes, "confirm", json!({ "verb": "yes", "note": "as agreed" })).await.status, 202);
    assert_eq!(settle(&user, &no, "confirm", json!({ "verb": "no" })).await.status, 202);
    assert_eq!(execution(&user, &yes, "done").await["result"], json!({ "did": 1 }));
    assert_eq!(execution(&user, &no, "declined").await["error"]["code"], "declined");
    nobody_is_asked(&user).await;
    assert_eq!(provider.effects(), 1);
    let told = events(&server, "tool.answered").await;
    let said = told.iter().find(|told| told["verb"] == "yes").expect("who said what is on record");
    assert!(said["by"].as_str().expect("who").starts_with("token ") && said["note"] == "as agreed", "{said}");
    // A yes is for one call.
    settle(&user, &yes, "confirm", json!({ "verb": "yes" })).await.problem(409, "tool_conflict");
    assert_eq!(execute(&user, "pay", &ask("yes")).await.ok()["repeated"], true);
    assert_eq!(provider.effects(), 1);
}

#[tokio::test]
async fn a_yes_is_to_these_arguments_and_others_are_asked_about_anew() {
    let (_server, user) = server().await;
    let provider = Provider::honest().await;
    put(&user, "pay", &confirmed(&provider, 600_000)).await;
    let five = begin(&user, "pay", "k", json!({ "amount": 5 })).await;
    let waits = asked_of_a_person(&user, &five, "confirmation").await;
    let other = json!({ "arguments": { "amount": 500 }, "idempotency_key": "k" });
    execute(&user, "pay", &other).await.problem(409, "tool_conflict");
    let more = begin(&user, "pay", "k2", json!({ "amount": 500 })).await;
    let asked = asked_of_a_person(&user, &more, "confirmation").await;
    assert_ne!(asked["detail"]["digest"], waits["detail"]["digest"]);
    settle(&user, &five, "confirm", json!({ "verb": "yes" })).await;
    execution(&user, &five, "done").await;
    assert_eq!(provider.calls()[0].body, json!({ "amount": 5 }), "what was agreed to is what is sent");
    assert_eq!(attention(&user).await.len(), 1, "the other is still to be answered");
    settle(&user, &more, "confirm", json!({ "verb": "no" })).await;
    execution(&user, &more, "declined").await;
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test]
async fn a_yes_in_the_instant_of_the_expiry_has_one_outcome_and_no_answer_is_a_no() {
    let (_server, user) = server().await;
    let provider = Provider::honest().await;
    put(&user, "pay", &confirmed(&provider, 40)).await;
    let mut outcomes = [0, 0];
    for nth in 0..16_u64 {
        let id = begin(&user, "pay", &format!("k{nth}"), json!({ "amount": nth })).await;
        // Around the instant, from well before it to well after.
        tokio::time::sleep(std::time::Duration::from_millis(nth * 4)).await;
        let answer = settle(&user, &id, "confirm", json!({ "verb": "yes" })).await;
        let ended = eventually("it ends", || async {
            let found = user.get(&format!("/v1/tool-executions/{id}")).await.ok();
            ["done", "declined"].contains(&found["status"].as_str().expect("a status")).then_some(found)
        })
        .await;
        let done = provider
            .ledger()
            .iter()
            .filter(|(key, _)| key.ends_with(&format!(":k{nth}")))
            .map(|(_, times)| *times)
            .sum::<usize>();
        if ended["status"] == "done" {
            assert_eq!((answer.status, done), (202, 1), "{ended}");
            outcomes[0] += 1;
        } else {
            assert_eq!((&ended["error"]["code"], done), (&json!("expired"), 0), "{ended}");
            outcomes[1] += 1;
        }
    }
    assert!(outcomes[1] > 0, "the late ones expired");
    nobody_is_asked(&user).await;
}

#[tokio::test]
async fn a_record_outlives_the_waiting_and_its_time_to_live_begins_at_the_end() {
    let (server, user) = server().await;
    let provider = Provider::honest().await;
    put(&user, "pay", &confirmed(&provider, 600_000)).await;
    let id = begin(&user, "pay", "k", json!({ "amount": 5 })).await;
    asked_of_a_person(&user, &id, "confirmation").await;
    let [(_, waiting)] = &*entries(&server).await else { panic!("one entry") };
    assert_eq!(waiting.expires_at, None, "as long as it waits it does not expire");
    let asked = json!({ "arguments": { "amount": 5 }, "idempotency_key": "k" });
    assert_eq!(execute(&user, "pay", &asked).await.ok()["execution_id"], json!(id));
    settle(&user, &id, "confirm", json!({ "verb": "yes" })).await;
    execution(&user, &id, "done").await;
    let [(_, ended)] = &*entries(&server).await else { panic!("one entry") };
    let expires_at = ended.expires_at.expect("a time to live");
    assert!(expires_at >= ended.updated_at + 23 * 60 * 60 * 1_000, "{ended:?}");
    assert_eq!(provider.effects(), 1);
}

#[tokio::test]
async fn whatever_waits_for_a_person_can_be_withdrawn_and_nothing_is_left_on_the_list() {
    let (server, user) = server().await;
    let provider = Provider::honest().await;
    put(&user, "pay", &confirmed(&provider, 600_000)).await;
    let person = json!({ "policy": "irreversible", "provider": { "kind": "person", "prompt": "Call {{args.who}}" } });
    put(&user, "call", &person).await;
    let pay = begin(&user, "pay", "k", json!({ "amount": 5 })).await;
    let call = begin(&user, "call", "k", json!({ "who": "Ann" })).await;
    asked_of_a_person(&user, &pay, "confirmation").await;
    asked_of_a_person(&user, &call, "task").await;
    for id in [&pay, &call] {
        let reason = json!({ "reason": "no more" });
        assert_eq!(user.post(&format!("/v1/tool-executions/{id}/cancel"), &reason).await.status, 202);
        user.run_in_state(id, "cancelled").await;
        assert_eq!(execution(&user, id, "failed").await["error"]["code"], "cancelled");
    }
    nobody_is_asked(&user).await;
    let ledger = entries(&server).await;
    assert!(ledger.iter().all(|(_, row)| row.expires_at.is_some()), "nothing is open: {ledger:?}");
    assert_eq!(provider.calls().len(), 0);
    // It may be asked for anew.
    let again = begin(&user, "pay", "k", json!({ "amount": 5 })).await;
    assert_ne!(again, pay);
    asked_of_a_person(&user, &again, "confirmation").await;
}

#[tokio::test]
async fn a_persons_work_is_asked_for_answered_by_its_form_and_reminded_of() {
    let (server, user) = server().await;
    let form = json!({ "type": "object", "required": ["total"], "properties": { "total": { "type": "number" } } });
    let provider = json!({
        "kind": "person", "prompt": "Count the till of {{args.shop}}", "form": form, "assignee": "ann",
        "remind_after_ms": 1_000, "escalate_to": "bob", "expires_ms": 600_000,
    });
    put(&user, "count", &json!({ "policy": "irreversible", "provider": provider })).await;
    let id = begin(&user, "count", "k", json!({ "shop": "Bonn" })).await;
    let task = asked_of_a_person(&user, &id, "task").await;
    assert_eq!((&task["title"], &task["detail"]["assignee"]), (&json!("Count the till of Bonn"), &json!("ann")));
    let reminded = eventually("somebody else is asked", || async {
        attention(&user).await.into_iter().find(|one| one["detail"]["assignee"] == "bob")
    })
    .await;
    assert_eq!((&reminded["since"], &reminded["detail"]["reminders"]), (&task["since"], &json!(1)));
    let answer = settle(&user, &id, "call", json!({ "verb": "done", "result": { "total": "much" } })).await;
    let (detail, _) = answer.problem(422, "arguments_unfit");
    assert!(detail.contains("/total"), "{detail}");
    let server = server.crash(None).await;
    let user = server.user().await;
    settle(&user, &id, "call", json!({ "verb": "done", "result": { "total": 17.5 } })).await;
    assert_eq!(execution(&user, &id, "done").await["result"], json!({ "total": 17.5 }));
    nobody_is_asked(&user).await;
    assert!(!events(&server, "tool.task_reminded").await.is_empty());
    let declined = begin(&user, "count", "k2", json!({ "shop": "Bonn" })).await;
    asked_of_a_person(&user, &declined, "task").await;
    settle(&user, &declined, "call", json!({ "verb": "decline" })).await;
    execution(&user, &declined, "declined").await;
}
