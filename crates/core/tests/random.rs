//! A random load over many seeds. A failure names its seed; `SEED=n cargo test -p mainspring-core --test random` runs
//! that one alone.

#![allow(clippy::print_stdout, reason = "a test may say what it found")]

mod harness;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use harness::load::{Load, tally};

/// Enough that each kind of fault meets each kind of work, and little enough for every build.
const SEEDS: u64 = 120;
const STEPS: usize = 700;

/// What the books count.
const SEEN: [&str; 16] = [
    "known by their own ids",
    "remembered by their own ids",
    "of a group",
    "refused by a group",
    "refused by a rate limit",
    "steps begun",
    "entries together",
    "interrupted",
    "looks at a fence",
    "written",
    "written under a fence",
    "conflicts",
    "held up by a message",
    "fences that had fallen",
    "commits done",
    "commits not done",
];

fn run(seed: u64) -> BTreeMap<&'static str, usize> {
    let mut load = Load::new(seed);
    load.disturb(STEPS);
    load.come_to_rest();
    tally(&load)
}

#[test]
fn nothing_is_lost_doubled_or_mixed_up() {
    let only = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().expect("SEED is a number"));
    let seeds = only.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut total: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(tally) => tally.into_iter().for_each(|(state, count)| *total.entry(state).or_default() += count),
            Err(_) => panic!("failed with SEED={seed}"),
        }
    }
    println!("runs by how they ended, and what else came to pass: {total:?}");
    // A load in which nothing happens would prove nothing.
    let ends = ["completed", "failed", "cancelled", "superseded"].map(|what| (what, 100));
    for (what, least) in ends.into_iter().chain(SEEN.map(|what| (what, 10))) {
        assert!(only.is_some() || total.get(what).is_some_and(|count| *count > least), "hardly any are {what}");
    }
}
