//! Dead letters, and sending again (H-65).

use std::collections::BTreeSet;

use mainspring_flows::webhooks::Choices;
use mainspring_flows::webhooks::delivery::Outcome;
use mainspring_flows::webhooks::replay::{Progress, ReplayRequest, What, Which};

use crate::endpoint::{Endpoint, Manner};
use crate::house::{House, dir, quick};

fn request() -> ReplayRequest {
    serde_json::from_str("{}").unwrap()
}

impl House {
    fn replay(&self, id: &str, request: ReplayRequest, key: Option<&str>) -> Progress {
        self.run(async {
            let run = self.webhooks.replay(id, request, key.map(str::to_owned)).await.unwrap();
            self.webhooks.client().wait(run).await.unwrap()
        })
    }
}

/// H-65: what an endpoint that was down for too long did not take is kept, and sent when it is back.
#[test]
fn what_was_given_up_is_kept_and_sent_again() {
    let (dir, endpoint) = (dir(), Endpoint::new(|_, _| Manner::Status(400)));
    let house = House::open(dir.path());
    let (made, first) = house.subscribe(&endpoint, Choices { waits_ms: quick(1), ..Choices::default() });
    for n in 0..9 {
        house.emit(if n % 3 == 0 { "kind.a" } else { "kind.b" }, n);
    }
    house.attempts(&made.id, 9);
    house.until(|| async { house.webhooks.dead_letters(&made.id, None, 100).await.unwrap().0.len() == 9 });
    let (letters, next) = house.run(house.webhooks.dead_letters(&made.id, None, 4)).unwrap();
    assert_eq!(letters.len(), 4);
    let (more, _) = house.run(house.webhooks.dead_letters(&made.id, next, 100)).unwrap();
    assert_eq!(more.len(), 5, "the next page");

    // Counted, not sent.
    let dry = house.replay(&made.id, ReplayRequest { dry_run: true, ..request() }, None);
    assert_eq!((dry.matched, dry.done, endpoint.count()), (9, true, 9));
    endpoint.behave(|_, _| Manner::Status(200));
    let (_, second) = house.run(house.webhooks.rotate(&made.id, 0)).unwrap();

    // One, with the secret it had then.
    let seq = letters[0].1.owed.seq;
    let one = ReplayRequest { sequence: Some(seq), secret: Which::Original, ..request() };
    assert_eq!(house.replay(&made.id, one.clone(), Some("one")).matched, 1);
    let got = endpoint.wait_for(10)[9].clone();
    assert!(got.is_signed_with(&first) && !got.is_signed_with(&second));
    // The same request again is the same replay; another one finds nothing left.
    assert_eq!(house.replay(&made.id, one.clone(), Some("one")).matched, 1);
    assert_eq!(house.replay(&made.id, one, None).matched, 0);

    // By a filter, then the rest.
    let of_a = ReplayRequest { events: vec!["kind.a".to_owned()], ..request() };
    assert_eq!(house.replay(&made.id, of_a, None).matched, 2);
    assert_eq!(house.replay(&made.id, request(), None).matched, 6);
    let got = endpoint.wait_for(18);
    let firsts: BTreeSet<&str> = got[..9].iter().map(|one| one.id.as_str()).collect();
    let again: BTreeSet<&str> = got[9..].iter().map(|one| one.id.as_str()).collect();
    assert_eq!((firsts.len(), &firsts), (9, &again), "the same ids");
    let attempts = house.attempts(&made.id, 18);
    let replayed = attempts.iter().filter(|one| one.replay.is_some() && one.outcome == Outcome::Delivered);
    assert_eq!(replayed.count(), 9);
}

#[test]
fn everything_of_a_time_can_be_sent_again() {
    let (dir, endpoint) = (dir(), Endpoint::good());
    let house = House::open(dir.path());
    let (made, _) = house.subscribe(&endpoint, Choices::default());
    for n in 0..250 {
        house.emit("step", n);
    }
    endpoint.wait_for(250);
    let at = |n: u64| {
        let got = endpoint.got();
        let got = got.iter().find(|got| got.n() == n).unwrap();
        got.said()["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64
    };
    let (from, to) = (at(100), at(200));
    let wanted = endpoint.got().iter().filter(|got| (from..to).contains(&at(got.n()))).count() as u64;
    let range = ReplayRequest { what: What::Events, from: Some(from), to: Some(to), ..request() };
    let dry = house.replay(&made.id, ReplayRequest { dry_run: true, ..range.clone() }, None);
    assert_eq!(dry.matched, wanted);
    assert_eq!(house.replay(&made.id, range, None).matched, wanted);
    endpoint.wait_for(250 + wanted as usize);
    // A replay of everything ends, though its own deliveries are events too.
    let all = house.replay(&made.id, ReplayRequest { what: What::Events, ..request() }, None);
    assert_eq!(all.matched, 250);
}

/// Killed in the middle of a replay, it goes on, and starts nothing twice.
#[test]
fn a_replay_survives_kills() {
    let (dir, endpoint) = (dir(), Endpoint::new(|_, _| Manner::Status(400)));
    let mut house = House::open(dir.path());
    let choices = Choices { rate_per_minute: 0, concurrency: 9, ..Choices::default() };
    let (made, _) = house.subscribe(&endpoint, choices);
    // Nine at a time, so that its endpoint is not spared.
    for round in 0..40_u64 {
        endpoint.behave(|_, _| Manner::Status(400));
        for n in 0..9 {
            house.emit("step", round * 10 + n);
        }
        endpoint.wait_for((round * 10 + 9) as usize);
        endpoint.behave(|_, _| Manner::Status(200));
        house.emit("step", round * 10 + 9);
        endpoint.wait_for((round * 10 + 10) as usize);
    }
    house.until(|| async { house.webhooks.dead_letters(&made.id, None, 200).await.unwrap().1.is_some() });
    let before = endpoint.count();
    let run = house.run(house.webhooks.replay(&made.id, request(), None)).unwrap();
    for more in [1, 40, 120] {
        endpoint.wait_for(before + more);
        house.kill();
        house = House::open(dir.path());
    }
    let through: Progress = house.run(house.webhooks.client().wait(run)).unwrap();
    assert!(through.matched >= 200, "{through:?}");
    let distinct = |got: Vec<crate::endpoint::Got>| got.into_iter().map(|one| one.id).collect::<BTreeSet<_>>().len();
    let wanted = through.matched as usize;
    while distinct(endpoint.got()[before..].to_vec()) < wanted {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let attempts = endpoint.got()[before..].len();
    // What was under way at a kill is repeated: at most a few at each.
    assert!(attempts <= wanted + 3 * 9, "{attempts} for {wanted}");
}
