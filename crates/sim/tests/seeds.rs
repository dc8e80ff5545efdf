//! A handful of seeds, each twice: that the simulator itself works, in the ordinary test run. `cargo xtask sim` runs many.

use mainspring_sim::ground::On;
use mainspring_sim::run::simulate;

#[test]
fn a_few_seeds_keep_every_promise_and_repeat_themselves() {
    for seed in 1..=12 {
        let (outcome, again) = (simulate(seed, true, &On::Memory), simulate(seed, true, &On::Memory));
        let last = &outcome.lines[outcome.lines.len().saturating_sub(30)..];
        assert_eq!(outcome.violation, None, "seed {seed}:\n{}", last.join("\n"));
        assert_eq!(outcome, again, "seed {seed} went another way the second time");
        assert!(outcome.counts.messages > 0 && outcome.counts.runs > 0, "seed {seed} did nothing");
    }
}
