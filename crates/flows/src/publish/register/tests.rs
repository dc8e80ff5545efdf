//! The register's decisions, one after another.

use std::collections::BTreeMap;

use super::*;
use crate::publish::job::Status;

fn job(id: &str, action: Action, version: u64) -> Job {
    Job {
        id: id.to_owned(),
        agent: "orders".to_owned(),
        stages: Vec::new(),
        action,
        version,
        from_version: None,
        status: Status::Running,
        description: None,
        force: false,
        by: String::new(),
        requested_at: 0,
        started_at: None,
        completed_at: None,
        error: None,
        findings: Vec::new(),
        findings_total: 0,
        sources: BTreeMap::new(),
        bundles: BTreeMap::new(),
        epoch: None,
        fingerprint: String::new(),
    }
}

const PUBLISH: Action = Action::Publish { canary: None };

fn rollback(target_version: u64) -> Action {
    Action::Rollback { target_version, keep_pinned: false }
}

/// Takes a job and moves the pointer with it.
fn done(register: &Register, id: &str, action: Action) -> Register {
    let taken = register.take(id, &action).expect("taken");
    let moved = taken.register.swap(&job(id, action, taken.version), "d", 5).expect("moved");
    moved.register
}

#[test]
fn numbers_are_never_given_out_twice_also_after_a_rollback_or_a_failure() {
    let mut register = Register::default();
    for nth in 1..=7 {
        register = done(&register, &format!("p{nth}"), PUBLISH);
    }
    register = done(&register, "r", rollback(4));
    assert_eq!((register.current(), register.latest, register.epoch), (Some(4), 7, 8));
    let failed = register.take("p8", &PUBLISH).expect("taken");
    assert_eq!(failed.version, 8);
    let register = failed.register.leave("p8").expect("it was in the line").register;
    assert_eq!(done(&register, "p9", PUBLISH).current(), Some(9));
}

#[test]
fn a_second_one_is_refused_waits_or_takes_the_place() {
    let with = |concurrency| Register { rules: Rules { concurrency, ..Rules::default() }, ..Register::default() };
    let first = with(Concurrency::Refuse).take("a", &PUBLISH).expect("taken").register;
    let refused = first.take("b", &PUBLISH).expect_err("refused");
    assert_eq!(refused, NotTaken::InProgress { publish_id: "a".to_owned(), version: 1 });

    let first = with(Concurrency::Queue).take("a", &PUBLISH).expect("taken").register;
    let second = first.take("b", &PUBLISH).expect("taken");
    assert_eq!((second.version, second.waits), (2, true));
    let early = second.register.swap(&job("b", PUBLISH, 2), "d", 5);
    assert_eq!(early, Err(NotMoved::Overtaken), "its turn has not come");
    let moved = second.register.swap(&job("a", PUBLISH, 1), "d", 5).expect("moved");
    assert_eq!(moved.next.as_deref(), Some("b"), "and it begins in the same decision");
    let left = second.register.leave("b").expect("it left");
    assert_eq!(left.next, None, "nobody waited for one that waited");

    let first = with(Concurrency::LatestWins).take("a", &PUBLISH).expect("taken").register;
    let second = first.take("b", &PUBLISH).expect("taken");
    assert_eq!((second.superseded.as_slice(), second.waits), (["a".to_owned()].as_slice(), false));
    assert_eq!(second.register.swap(&job("a", PUBLISH, 1), "d", 5), Err(NotMoved::Overtaken));
}

#[test]
fn a_pointer_moves_once_for_each_job() {
    let taken = Register::default().take("a", &PUBLISH).expect("taken").register;
    let moved = taken.swap(&job("a", PUBLISH, 1), "d", 5).expect("moved").register;
    assert_eq!(moved.swap(&job("a", PUBLISH, 1), "d", 6), Err(NotMoved::Overtaken));
    let later = done(&moved, "b", PUBLISH);
    assert_eq!(later.swap(&job("a", PUBLISH, 1), "d", 7), Err(NotMoved::Overtaken), "and never back");
}

#[test]
fn a_rollback_withdraws_what_it_leaves_and_goes_back_only() {
    let register = done(&done(&Register::default(), "a", PUBLISH), "b", PUBLISH);
    assert!(matches!(register.take("r", &rollback(2)), Err(NotTaken::Impossible(_))));
    let back = done(&register, "r", rollback(1));
    assert_eq!((back.current(), back.withdrawn.contains(&2)), (Some(1), true));
    let kept = done(&register, "r", Action::Rollback { target_version: 1, keep_pinned: true });
    assert!(kept.withdrawn.is_empty());
}

#[test]
fn a_canary_is_promoted_or_ended() {
    let register = done(&Register::default(), "a", PUBLISH);
    let share = Share { percent: 10, sessions: Vec::new() };
    let register = done(&register, "b", Action::Publish { canary: Some(share.clone()) });
    assert_eq!((register.current(), register.canary.as_ref().map(|canary| canary.version)), (Some(1), Some(2)));
    let promoted = done(&register, "c", Action::Promote);
    assert_eq!((promoted.current(), promoted.canary.as_ref()), (Some(2), None));
    let ended = done(&register, "c", Action::EndCanary);
    assert_eq!((ended.current(), ended.canary.is_none(), ended.withdrawn.contains(&2)), (Some(1), true, true));
    let again = done(&ended, "d", Action::Canary { version: 2, share });
    assert!(again.withdrawn.is_empty());
    assert!(matches!(
        register.take("x", &Action::Canary { version: 1, share: Share::default() }),
        Err(NotTaken::Impossible(_))
    ));
    assert!(matches!(promoted.take("x", &Action::Promote), Err(NotTaken::Impossible(_))));
}

#[test]
fn what_is_given_up_is_neither_new_nor_in_use() {
    let mut register = Register { rules: Rules { keep_versions: 2, ..Rules::default() }, ..Register::default() };
    for nth in 1..=6 {
        register = done(&register, &format!("p{nth}"), PUBLISH);
    }
    register = done(&register, "r", rollback(2));
    let all: Vec<u64> = (1..=6).collect();
    // All were current until 5.
    assert_eq!(register.given_up(&all, 10, 100), Vec::<u64>::new());
    assert_eq!(register.given_up(&all, 1_000, 100), [1, 3, 4]);
    let waiting = register.take("c", &Action::Canary { version: 3, share: Share::default() }).expect("taken").register;
    assert_eq!(waiting.given_up(&all, 1_000, 100), [1, 4]);
}
