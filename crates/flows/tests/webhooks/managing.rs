//! Making, verifying and changing subscriptions.

use mainspring_flows::webhooks::{Choices, State, WebhookError};

use crate::endpoint::Endpoint;
use crate::house::{House, dir};
use crate::peers::{Peer, http_answer};

#[test]
fn nothing_is_sent_before_an_endpoint_shows_that_it_wants_it() {
    let (dir, endpoint) = (dir(), Endpoint::good());
    let house = House::open(dir.path());
    let choices = Choices { url: endpoint.url(), ..Choices::default() };
    let (made, _) = house.run(house.webhooks.create(choices)).unwrap();
    assert_eq!(made.state, State::Pending);
    house.emit("before", 1);
    assert!(matches!(house.run(house.webhooks.test(&made.id)), Err(WebhookError::State(_))));
    assert!(matches!(house.run(house.webhooks.resume(&made.id)), Err(WebhookError::State(_))));
    assert!(matches!(house.run(house.webhooks.pause(&made.id)), Err(WebhookError::State(_))));
    house.run(house.webhooks.verify(&made.id)).unwrap();
    house.emit("after", 2);
    assert_eq!(endpoint.wait_for(1)[0].said()["type"], "after");
    assert_eq!(house.attempts(&made.id, 1).len(), 1);
}

#[test]
fn an_endpoint_that_does_not_echo_is_not_verified() {
    let dir = dir();
    let house = House::open(dir.path());
    for answer in [http_answer(200, "", ""), http_answer(200, "", r#"{"challenge": "x"}"#), http_answer(500, "", "")] {
        let peer = house.run(Peer::answering(answer));
        let choices = Choices { url: peer.url(), ..Choices::default() };
        let (made, _) = house.run(house.webhooks.create(choices)).unwrap();
        let refused = house.run(house.webhooks.verify(&made.id));
        assert!(matches!(refused, Err(WebhookError::Unverified(_))), "{refused:?}");
        assert_eq!(house.run(house.webhooks.find(&made.id)).unwrap().1.state, State::Pending);
    }
}

#[test]
fn a_change_holds_from_its_place_in_the_log_on() {
    let (dir, endpoint) = (dir(), Endpoint::good());
    let mut house = House::open(dir.path());
    let (made, _) = house.subscribe(&endpoint, Choices { events: vec!["one".to_owned()], ..Choices::default() });
    let other = Endpoint::good();
    house.subscribe(&other, Choices::default());
    // Matched late, by a process that finds everything as it is in the end.
    house.kill();
    house = House::open_with(dir.path(), crate::house::Setup { blind: true, ..Default::default() });
    house.emit("one", 1);
    house.emit("two", 2);
    let change = serde_json::json!({ "events": ["two"] });
    house.run(house.webhooks.change(&made.id, change.as_object().unwrap())).unwrap();
    house.emit("one", 3);
    house.emit("two", 4);
    house.run(house.webhooks.delete(&made.id)).unwrap();
    house.emit("two", 5);
    house.kill();
    house = House::open(dir.path());
    // It is gone by now, so nothing is sent; but what was owed to it was found, each by what held at its place. What
    // another was owed by the last event shows that all were matched.
    other.wait_for(5);
    let runs = house.run(async {
        let tenant = crate::house::TENANT;
        let engine = house.webhooks.client().engine();
        engine.wait_applied(tenant, engine.durable_position(tenant), std::time::Duration::from_secs(30)).await;
        let filter = mainspring_engine::RunFilter { workflow: Some("deliver-webhook".to_owned()), state: None };
        house
            .webhooks
            .client()
            .engine()
            .read(tenant, move |reader| reader.runs(tenant, &filter, None, 100))
            .await
            .unwrap()
    });
    let of_it = |key: &Option<String>| key.as_ref().is_some_and(|key| key.starts_with(&made.id));
    let count = runs.rows.iter().filter(|(_, run)| of_it(&run.key)).count();
    assert_eq!(count, 2, "one before the change, one after it, none after the end");
    assert_eq!(endpoint.count(), 0);
}

#[test]
fn what_can_not_be_used_is_refused_with_its_name() {
    let dir = dir();
    let house =
        House::open_with(dir.path(), crate::house::Setup { policy: Some(Default::default()), ..Default::default() });
    let create = |choices: Choices| house.run(house.webhooks.create(choices)).expect_err("it is refused").to_string();
    let url = |url: &str| Choices { url: url.to_owned(), ..Choices::default() };
    for inner in [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://169.254.169.254/",
        "https://a:b@example.com/",
        "https://example.com:22/",
    ] {
        assert!(create(url(inner)).starts_with("url: "), "{inner}");
    }
    let filter = Choices { filter: Some("nonsense".to_owned()), ..url("https://example.com/") };
    assert!(create(filter).starts_with("filter: "));
    assert!(create(Choices { concurrency: 0, ..url("https://example.com/") }).starts_with("concurrency: "));
}

#[test]
fn a_secret_is_rotated_with_an_overlap() {
    let (dir, endpoint) = (dir(), Endpoint::good());
    let house = House::open(dir.path());
    let (made, first) = house.subscribe(&endpoint, Choices::default());
    let (_, second) = house.run(house.webhooks.rotate(&made.id, 60_000)).unwrap();
    house.emit("during", 1);
    let got = &endpoint.wait_for(1)[0];
    assert!(got.is_signed_with(&first) && got.is_signed_with(&second));
    let (_, third) = house.run(house.webhooks.rotate(&made.id, 0)).unwrap();
    house.emit("after", 2);
    let got = &endpoint.wait_for(2)[1];
    assert!(got.is_signed_with(&third) && !got.is_signed_with(&second) && !got.is_signed_with(&first));
    // Another process has the same secrets.
    house.kill();
    let house = House::open(dir.path());
    house.emit("later", 3);
    assert!(endpoint.wait_for(3)[2].is_signed_with(&third));
}
