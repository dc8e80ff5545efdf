//! Endpoints that fail (H-65 to H-71).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainspring_flows::egress::Policy;
use mainspring_flows::webhooks::delivery::Outcome;
use mainspring_flows::webhooks::{Choices, Order, State};

use crate::endpoint::{Endpoint, Manner};
use crate::house::{House, Setup, dir, outcomes, quick};
use crate::peers::Dns;

#[test]
fn what_may_help_is_tried_again_and_the_rest_is_given_up() {
    for (status, expected) in [
        (503, vec![Outcome::Retrying, Outcome::Delivered]),
        (408, vec![Outcome::Retrying, Outcome::Delivered]),
        (404, vec![Outcome::Dead]),
        (400, vec![Outcome::Dead]),
    ] {
        let dir = dir();
        let endpoint = Endpoint::new(move |_, nth| Manner::Status(if nth == 0 { status } else { 200 }));
        let house = House::open(dir.path());
        let (made, secret) = house.subscribe(&endpoint, Choices { waits_ms: quick(3), ..Choices::default() });
        house.emit("step", 1);
        let attempts = house.attempts(&made.id, expected.len());
        assert_eq!(outcomes(&attempts), expected, "{status}");
        assert_eq!(attempts[0].status, Some(status));
        let got = endpoint.got();
        assert!(got.iter().all(|one| one.id == got[0].id && one.body == got[0].body && one.is_signed_with(&secret)));
    }
}

/// H-66: 429 with Retry-After is waited for as long as it says.
#[test]
fn an_endpoint_that_asks_for_time_gets_it() {
    let dir = dir();
    let endpoint = Endpoint::new(|_, nth| match nth {
        0 => Manner::With(429, "retry-after", "2".to_owned()),
        _ => Manner::Status(200),
    });
    let house = House::open(dir.path());
    let (made, _) = house.subscribe(&endpoint, Choices { waits_ms: quick(3), ..Choices::default() });
    house.emit("step", 1);
    let got = endpoint.wait_for(2);
    assert!(got[1].at - got[0].at >= Duration::from_secs(2));
    let attempts = house.attempts(&made.id, 2);
    assert_eq!(outcomes(&attempts), [Outcome::Retrying, Outcome::Delivered]);
    assert!(attempts[0].next_at.unwrap() >= attempts[0].at + 2_000);
}

#[test]
fn an_endpoint_that_is_gone_is_not_called_again() {
    let (dir, endpoint) = (dir(), Endpoint::new(|_, _| Manner::Status(410)));
    let house = House::open(dir.path());
    let (made, _) = house.subscribe(&endpoint, Choices { order: Order::Endpoint, ..Choices::default() });
    for n in 0..10 {
        house.emit("step", n);
    }
    house.until(|| async { house.run_find(&made.id).await.state == State::Disabled });
    assert!(house.run(house.webhooks.find(&made.id)).unwrap().1.reason.unwrap().contains("410"));
    assert_eq!(house.attempts(&made.id, 1).len(), 1);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(endpoint.count(), 1, "the others wait");
    // It says that it is back: what waited arrives, in order.
    endpoint.behave(|_, _| Manner::Status(200));
    house.run(house.webhooks.resume(&made.id)).unwrap();
    let order: Vec<u64> = endpoint.wait_for(10)[1..].iter().map(|one| one.n()).collect();
    assert_eq!(order, (1..10).collect::<Vec<_>>());
}

/// H-67: the name leads to an allowed address when it is verified, and elsewhere when it is called.
#[test]
fn a_name_that_leads_inside_is_refused_counted_and_shown() {
    let (dir, endpoint) = (dir(), Endpoint::good());
    let moved = Arc::new(AtomicBool::new(false));
    let (runtime, leads) = (tokio::runtime::Runtime::new().unwrap(), moved.clone());
    let dns = runtime.block_on(Dns::answering(move |_, _| {
        let address = if leads.load(Ordering::SeqCst) { "127.0.0.2" } else { "127.0.0.1" };
        vec![address.parse().unwrap()]
    }));
    let allow = vec!["127.0.0.1/32".parse().unwrap()];
    let policy = Policy { http: true, ports: Vec::new(), allow, ..Policy::default() };
    let setup = Setup { policy: Some(policy), name_servers: vec![dns.address], blind: false };
    let house = House::open_with(dir.path(), setup.clone());
    let id = house.run(async {
        let url = format!("http://rebind.example:{}/hook", endpoint.port());
        let choices = Choices { url, waits_ms: quick(1), ..Choices::default() };
        let (made, _) = house.webhooks.create(choices).await.unwrap();
        house.webhooks.verify(&made.id).await.unwrap();
        made.id
    });
    // Without the connection that was made when the name was good: that one may be used.
    house.kill();
    moved.store(true, Ordering::SeqCst);
    let house = House::open_with(dir.path(), setup);
    house.emit("step", 1);
    let attempts = house.attempts(&id, 2);
    assert_eq!(outcomes(&attempts), [Outcome::Retrying, Outcome::Dead]);
    assert!(attempts[0].error.as_ref().unwrap().contains("may not be called"), "{attempts:?}");
    assert_eq!(endpoint.count(), 0);
    let health = house.run(house.webhooks.health(&id)).unwrap();
    assert_eq!(health.refused, 2, "counted");
    assert!(health.last_failure.unwrap().contains("may not be called"), "and shown");
}

/// H-68: a redirect into the machine is an answer like any other refusal.
#[test]
fn a_redirect_is_not_followed() {
    let (dir, inner) = (dir(), Endpoint::good());
    let location = inner.url();
    let endpoint = Endpoint::new(move |_, _| Manner::With(302, "location", location.clone()));
    let house = House::open(dir.path());
    let (made, _) = house.subscribe(&endpoint, Choices { waits_ms: quick(3), ..Choices::default() });
    house.emit("step", 1);
    let attempts = house.attempts(&made.id, 1);
    assert_eq!((outcomes(&attempts), attempts[0].status), (vec![Outcome::Dead], Some(302)));
    assert_eq!((endpoint.count(), inner.count()), (1, 0));
}

/// H-69: failures that happen together are each counted, and the threshold is exact.
#[test]
fn failures_at_the_same_time_are_all_counted() {
    let dir = dir();
    let endpoint = Endpoint::new(|_, _| Manner::After(Duration::from_millis(50), 400));
    let house = House::open(dir.path());
    let (made, _) = house.subscribe(&endpoint, Choices { concurrency: 9, ..Choices::default() });
    for n in 0..9 {
        house.emit("step", n);
    }
    house.attempts(&made.id, 9);
    let health = house.run(house.webhooks.health(&made.id)).unwrap();
    assert_eq!((health.streak, health.tries, health.spared_until), (9, (9, 9), None));
    // One that succeeds begins the count anew, and the next nine do not make it spared.
    endpoint.behave(|_, _| Manner::Status(200));
    house.emit("step", 9);
    house.attempts(&made.id, 10);
    assert_eq!(house.run(house.webhooks.health(&made.id)).unwrap().streak, 0);
    endpoint.behave(|_, _| Manner::Status(400));
    for n in 10..20 {
        house.emit("step", n);
    }
    house.attempts(&made.id, 20);
    let health = house.run(house.webhooks.health(&made.id)).unwrap();
    assert_eq!(health.streak, 10);
    assert!(health.spared_until.is_some(), "at ten, not before");
    // What is known of it outlasts the process.
    house.kill();
    let house = House::open(dir.path());
    assert_eq!(house.run(house.webhooks.health(&made.id)).unwrap().streak, 10);
}

/// H-70: what waits is sent by the settings as they are when it is sent.
#[test]
fn what_waits_is_sent_as_things_are_by_then() {
    let (dir, old, new) = (dir(), Endpoint::good(), Endpoint::good());
    let house = House::open(dir.path());
    let (made, first) = house.subscribe(&old, Choices::default());
    house.run(house.webhooks.pause(&made.id)).unwrap();
    for n in 0..100 {
        house.emit("step", n);
    }
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(old.count(), 0, "held");
    let (_, second) = house.run(house.webhooks.rotate(&made.id, 0)).unwrap();
    let change = serde_json::json!({ "url": new.url() });
    let changed = house.run(house.webhooks.change(&made.id, change.as_object().unwrap())).unwrap();
    assert_eq!(changed.state, State::Pending, "another address is verified again");
    assert!(house.run(house.webhooks.resume(&made.id)).is_err());
    house.run(house.webhooks.verify(&made.id)).unwrap();
    let got = new.wait_for(100);
    assert_eq!(old.count(), 0);
    assert!(got.iter().all(|one| one.is_signed_with(&second) && !one.is_signed_with(&first)));
    let mut all: Vec<u64> = got.iter().map(|one| one.n()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
}

/// H-71: one endpoint hangs with more queued than may be under way; another gets all of its own.
#[test]
fn an_endpoint_that_hangs_delays_nobody_else() {
    let (dir, hanging, good) = (dir(), Endpoint::new(|_, _| Manner::Hang), Endpoint::good());
    let house = House::open(dir.path());
    let choices = Choices { timeout_ms: 1_000, waits_ms: quick(2), rate_per_minute: 0, ..Choices::default() };
    let (slow, _) = house.subscribe(&hanging, choices.clone());
    house.subscribe(&good, choices);
    for n in 0..1_200 {
        house.emit("step", n);
    }
    let got = good.wait_for(1_200);
    let mut all: Vec<u64> = got.iter().map(|one| one.n()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..1_200).collect::<Vec<_>>());
    assert!(hanging.count() < 60, "it was spared after a few: {}", hanging.count());
    // It comes back: nothing of what it is owed was dropped, though more waited than may be under way.
    hanging.behave(|_, _| Manner::Status(200));
    house.run(house.webhooks.resume(&slow.id)).unwrap();
    loop {
        let came: std::collections::BTreeSet<u64> = hanging.got().iter().map(|one| one.n()).collect();
        let dead = house.run(house.webhooks.dead_letters(&slow.id, None, 200)).unwrap().0.len();
        if came.len() + dead >= 1_200 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A thousand endpoints, a hundred of which take the request and never answer: all the others get all of theirs while not
/// one of the hundred has come to its end.
#[test]
fn of_a_thousand_endpoints_a_hundred_that_hang_delay_no_other() {
    let (dir, hanging, good) = (dir(), Endpoint::new(|_, _| Manner::Hang), Endpoint::good());
    let house = House::open(dir.path());
    let choices = Choices { timeout_ms: 60_000, rate_per_minute: 0, ..Choices::default() };
    let mut hang = Vec::new();
    for nth in 0..1_000 {
        let endpoint = if nth % 10 == 0 { &hanging } else { &good };
        let (made, _) = house.subscribe(endpoint, choices.clone());
        if nth % 10 == 0 {
            hang.push(made.id);
        }
    }
    for n in 0..3 {
        house.emit("step", n);
    }
    let got = good.wait_for(2_700);
    let distinct: std::collections::BTreeSet<&str> = got.iter().map(|one| one.id.as_str()).collect();
    assert_eq!((got.len(), distinct.len()), (2_700, 2_700), "each its own, once");
    hanging.wait_for(300);
    for id in &hang {
        assert!(house.run(house.webhooks.attempts(id, None, 10)).unwrap().0.is_empty(), "none of these has ended");
    }
}

impl House {
    async fn run_find(&self, id: &str) -> mainspring_flows::webhooks::Subscription {
        self.webhooks.find(id).await.unwrap().1
    }
}
