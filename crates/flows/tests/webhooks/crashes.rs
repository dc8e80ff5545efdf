//! Processes that end in the middle (H-63, H-64).

use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use mainspring_flows::webhooks::{Choices, Order};

use crate::endpoint::{Endpoint, Manner};
use crate::house::{House, Setup, dir, quick};

/// H-63: the process ends after an event was accepted and before anybody has matched it.
#[test]
fn an_event_accepted_is_a_delivery_owed() {
    let (dir, endpoint) = (dir(), Endpoint::good());
    let house = House::open(dir.path());
    let (_, secret) = house.subscribe(&endpoint, Choices::default());
    house.kill();
    // Nobody matches here.
    let house = House::open_with(dir.path(), Setup { blind: true, ..Setup::default() });
    for n in 0..20 {
        house.emit("step", n);
    }
    house.kill();
    assert_eq!(endpoint.count(), 0);
    let house = House::open(dir.path());
    let got = endpoint.wait_for(20);
    assert!(got.iter().all(|one| one.is_signed_with(&secret)));
    let mut all: Vec<u64> = got.iter().map(|one| one.n()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
    drop(house);
}

/// H-64: the endpoint has taken it, and the process ends before it knows.
#[test]
fn a_repeat_after_a_crash_has_the_same_id_and_body() {
    let dir = dir();
    let (came, coming) = mpsc::channel();
    let came = Mutex::new(came);
    let endpoint = Endpoint::new(move |_, nth| {
        let _ = came.lock().unwrap().send(());
        if nth == 0 { Manner::Hang } else { Manner::Status(200) }
    });
    let house = House::open(dir.path());
    let (made, secret) = house.subscribe(&endpoint, Choices::default());
    house.emit("step", 1);
    coming.recv_timeout(Duration::from_secs(60)).unwrap();
    house.kill();
    let house = House::open(dir.path());
    let got = endpoint.wait_for(2);
    assert_eq!((&got[0].id, &got[0].body), (&got[1].id, &got[1].body));
    assert!(got[1].is_signed_with(&secret));
    // The first try was never heard of again, so it is not on record; the delivery is, once.
    assert_eq!(house.attempts(&made.id, 1).len(), 1);
}

/// Killed again and again while much is under way: each event arrives, in order, and what arrives twice says so.
#[test]
fn kills_lose_nothing_and_keep_the_order() {
    let dir = dir();
    let endpoint = Endpoint::new(|_, nth| match nth % 7 {
        3 => Manner::Status(500),
        5 => Manner::After(Duration::from_millis(30), 200),
        _ => Manner::Status(200),
    });
    let mut house = House::open(dir.path());
    let choices = Choices { order: Order::Endpoint, waits_ms: quick(20), ..Choices::default() };
    let (_, secret) = house.subscribe(&endpoint, choices);
    let mut n = 0;
    for _ in 0..6 {
        for _ in 0..15 {
            house.emit("step", n);
            n += 1;
        }
        // Not at rest: some are delivered, some are not.
        let before = endpoint.count();
        endpoint.wait_for(before + 3);
        house.kill();
        house = House::open(dir.path());
    }
    while !(0..n).all(|one| endpoint.got().iter().any(|got| got.n() == one)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let got = endpoint.got();
    assert!(got.iter().all(|one| one.is_signed_with(&secret)));
    let order: Vec<u64> = got.iter().map(|one| one.n()).collect();
    assert!(order.is_sorted(), "repeats stand beside each other: {order:?}");
}
