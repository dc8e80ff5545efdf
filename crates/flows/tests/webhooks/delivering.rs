//! Events that arrive, as they should.

use std::collections::BTreeMap;

use mainspring_flows::webhooks::delivery::Outcome;
use mainspring_flows::webhooks::{Choices, Order, message};

use crate::endpoint::{Endpoint, Manner};
use crate::house::{House, SESSION, dir, outcomes, quick};

#[test]
fn an_event_arrives_signed_and_on_record() {
    let (dir, endpoint) = (dir(), Endpoint::good());
    let house = House::open(dir.path());
    let headers = BTreeMap::from([("x-secret".to_owned(), "hush".to_owned())]);
    let (made, secret) = house.subscribe(&endpoint, Choices { headers, ..Choices::default() });
    let seq = house.emit("turn.completed", 7);
    let got = &endpoint.wait_for(1)[0];
    assert!(got.is_signed_with(&secret));
    assert_eq!(got.id, message::delivery_id(&made.id, seq));
    assert_eq!(got.headers["x-secret"], "hush");
    let said = got.said();
    assert_eq!(
        (&said["type"], &said["data"]["n"], &said["agent_id"]),
        (&"turn.completed".into(), &7.into(), &"orders".into())
    );
    assert!(!String::from_utf8_lossy(&got.body).contains("anna"), "a session's key names a person");
    let attempts = house.attempts(&made.id, 1);
    assert_eq!(outcomes(&attempts), [Outcome::Delivered]);
    let one = &attempts[0];
    assert_eq!((one.status, one.answer.as_deref(), one.seq), (Some(200), Some("answer 0"), seq));
    assert!(one.remote.as_deref().is_some_and(|remote| remote.starts_with("127.0.0.1:")));
    // Nothing that was given to us in confidence is anywhere in what is stored.
    let stored = serde_json::to_string(&house.run(house.webhooks.find(&made.id)).unwrap().1).unwrap();
    assert!(!stored.contains("hush") && !stored.contains(&secret.0), "{stored}");
}

#[test]
fn only_what_is_wanted_is_delivered() {
    let (dir, endpoint) = (dir(), Endpoint::good());
    let house = House::open(dir.path());
    let choices = |events: &[&str], agents: Option<&str>, filter: Option<&str>| Choices {
        events: events.iter().map(|&one| one.to_owned()).collect(),
        agents: agents.map(|one| vec![one.to_owned()]),
        filter: filter.map(str::to_owned),
        ..Choices::default()
    };
    let wants = [
        ("all", choices(&["*"], None, None)),
        ("by prefix", choices(&["tool.*"], None, None)),
        ("exact", choices(&["tool.done"], None, None)),
        ("of the agent", choices(&["*"], Some("orders"), None)),
        ("of another agent", choices(&["*"], Some("other"), None)),
        ("filtered", choices(&["*"], None, Some("n>4"))),
    ];
    let ids: BTreeMap<&str, String> =
        wants.into_iter().map(|(what, choices)| (what, house.subscribe(&endpoint, choices).0.id)).collect();
    house.emit("tool.done", 1);
    house.emit("turn.completed", 5);
    house.emit_in("tool.late", None, 2);
    house.emit_in("other", Some("somewhere"), 9);
    // Read in order, so what this is owed shows that all before it was matched.
    house.emit("last", 5);
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    endpoint.wait_for(5 + 2 + 1 + 3 + 3);
    std::thread::sleep(std::time::Duration::from_millis(300));
    for got in endpoint.got() {
        let what = ids.iter().find(|(_, id)| got.id.contains(*id)).unwrap().0;
        found.entry(what).or_default().push(got.said()["type"].as_str().unwrap().to_owned());
    }
    let sorted = |what: &str| {
        let mut names = found.get(what).cloned().unwrap_or_default();
        names.sort();
        names
    };
    assert_eq!(sorted("all"), ["last", "other", "tool.done", "tool.late", "turn.completed"]);
    assert_eq!(sorted("by prefix"), ["tool.done", "tool.late"]);
    assert_eq!(sorted("exact"), ["tool.done"]);
    assert_eq!(sorted("of the agent"), ["last", "tool.done", "turn.completed"]);
    assert!(sorted("of another agent").is_empty());
    assert_eq!(sorted("filtered"), ["last", "other", "turn.completed"]);
}

#[test]
fn a_test_event_goes_to_one_whatever_it_wants() {
    let (dir, endpoint, other) = (dir(), Endpoint::good(), Endpoint::good());
    let house = House::open(dir.path());
    let choices = Choices { events: vec!["tool.done".to_owned()], ..Choices::default() };
    let (made, secret) = house.subscribe(&endpoint, choices);
    house.subscribe(&other, Choices::default());
    house.run(house.webhooks.test(&made.id)).unwrap();
    let got = &endpoint.wait_for(1)[0];
    assert!(got.is_signed_with(&secret) && got.said()["type"] == "webhook.test");
    // The other gets everything, and gets what comes next and not this.
    house.emit("tool.done", 1);
    assert_eq!(other.wait_for(1)[0].said()["type"], "tool.done");
}

/// Each session's events in order, whatever fails in between; sessions beside each other.
#[test]
fn order_is_kept_where_it_is_asked_for() {
    for (order, sessions) in [(Order::Session, 5), (Order::Endpoint, 5)] {
        let dir = dir();
        // Every third request fails, so that much is tried again.
        let endpoint = Endpoint::new(|_, nth| Manner::Status(if nth % 3 == 1 { 503 } else { 200 }));
        let house = House::open(dir.path());
        // One rate for all, so that failing does not make the endpoint spared: every streak is of one.
        let choices = Choices { order, concurrency: 4, waits_ms: quick(20), ..Choices::default() };
        let (made, _) = house.subscribe(&endpoint, choices);
        for n in 0..40 {
            house.emit_in("step", Some(&SESSION.replace("anna", &format!("anna{}", n % sessions))), n);
        }
        house.until(|| async {
            let (attempts, _) = house.webhooks.attempts(&made.id, None, 200).await.unwrap();
            attempts.iter().filter(|one| one.outcome == Outcome::Delivered).count() == 40
        });
        let attempts = house.attempts(&made.id, 40);
        assert!(attempts.len() > 40, "some were tried again");
        let taken: std::collections::BTreeSet<u64> =
            attempts.iter().filter(|one| one.outcome == Outcome::Delivered).map(|one| one.seq).collect();
        assert_eq!(taken.len(), 40, "each once");
        let requests: Vec<(u64, u64)> = endpoint.got().iter().map(|got| (got.n() % sessions, got.n())).collect();
        let groups: Vec<Vec<u64>> = match order {
            Order::Endpoint => vec![requests.iter().map(|(_, n)| *n).collect()],
            _ => (0..sessions)
                .map(|session| requests.iter().filter(|(of, _)| *of == session).map(|(_, n)| *n).collect())
                .collect(),
        };
        for group in groups {
            assert!(group.is_sorted(), "{order:?}: repeats stand beside each other, and nothing is early: {group:?}");
        }
    }
}
