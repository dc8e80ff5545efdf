//! How an endpoint is doing, and what follows: when it is spared, probed, given up. Pure.

use serde::{Deserialize, Serialize};

/// Failures in a row after which an endpoint is spared: one try at a time, at growing intervals.
pub const STREAK_MAX: u32 = 10;
/// The same for tries without any answer, which also cost a connection and its time.
pub const SILENT_MAX: u32 = 5;
/// The first interval between probes, and the longest.
const PROBE_FIRST_MS: u64 = 15_000;
const PROBE_MAX_MS: u64 = 600_000;
/// The time over which tries are counted.
const WINDOW_MS: u64 = 60 * 60 * 1_000;
/// Bytes of the last error that are kept.
const ERROR_BYTES_MAX: usize = 300;

/// How an endpoint is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Failures in a row.
    pub streak: u32,
    /// Of these, the last ones that had no answer at all.
    pub silent: u32,
    /// Since when it fails.
    pub failing_since: Option<u64>,
    /// Until when it is spared.
    pub spared_until: Option<u64>,
    /// How often in a row it was probed in vain.
    pub probes: u32,
    /// The last success.
    pub last_success_at: Option<u64>,
    /// The last failure.
    pub last_failure_at: Option<u64>,
    /// What that was.
    pub last_failure: Option<String>,
    /// Addresses behind its name that may not be called, as often as they were met.
    pub refused: u64,
    /// When the present hour of counting began, tries in it, and those that failed; then the hour before.
    pub counted_since: u64,
    /// Tries in this hour, and those that failed.
    pub tries: (u64, u64),
    /// The same of the hour before.
    pub tries_before: (u64, u64),
}

/// What a try changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// It works again: those who wait for it may go on.
    pub recovered: bool,
    /// It is spared from now on.
    pub spared: bool,
    /// It has failed for longer than it may.
    pub give_up: bool,
}

impl Health {
    /// Takes a success.
    pub fn succeed(&mut self, now: u64) -> Change {
        self.count(now, false);
        let recovered = self.spared_until.is_some();
        (self.streak, self.silent, self.probes) = (0, 0, 0);
        (self.failing_since, self.spared_until) = (None, None);
        self.last_success_at = Some(now);
        Change { recovered, ..Change::default() }
    }

    /// Takes a failure. `silent` if there was no answer; `probe` if it was the one try while the endpoint is spared.
    pub fn fail(&mut self, now: u64, error: &str, silent: bool, probe: bool, disable_after_ms: u64) -> Change {
        self.count(now, true);
        self.streak = self.streak.saturating_add(1);
        self.silent = if silent { self.silent.saturating_add(1) } else { 0 };
        let since = *self.failing_since.get_or_insert(now);
        self.last_failure_at = Some(now);
        let end = (0..=ERROR_BYTES_MAX.min(error.len())).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
        self.last_failure = Some(error[..end].to_owned());
        let mut spared = false;
        if probe {
            self.probes = self.probes.saturating_add(1);
            self.spared_until = Some(now + self.interval_ms());
        } else if self.spared_until.is_none() && (self.streak >= STREAK_MAX || self.silent >= SILENT_MAX) {
            self.probes = 0;
            self.spared_until = Some(now + self.interval_ms());
            spared = true;
        }
        let give_up = self.streak >= STREAK_MAX && now.saturating_sub(since) >= disable_after_ms;
        Change { spared, give_up, recovered: false }
    }

    /// Begins anew, as when a person says that it works again.
    pub fn forgive(&mut self) {
        (self.streak, self.silent, self.probes) = (0, 0, 0);
        (self.failing_since, self.spared_until) = (None, None);
    }

    /// The share of tries that failed lately, in percent. `None` without tries.
    pub fn failure_percent(&self) -> Option<u64> {
        let (tries, failed) = (self.tries.0 + self.tries_before.0, self.tries.1 + self.tries_before.1);
        (failed * 100).checked_div(tries)
    }

    fn interval_ms(&self) -> u64 {
        (PROBE_FIRST_MS << self.probes.min(16)).min(PROBE_MAX_MS)
    }

    fn count(&mut self, now: u64, failed: bool) {
        if now.saturating_sub(self.counted_since) >= WINDOW_MS {
            let fresh = now.saturating_sub(self.counted_since) < 2 * WINDOW_MS;
            self.tries_before = if fresh { self.tries } else { (0, 0) };
            (self.tries, self.counted_since) = ((0, 0), now);
        }
        self.tries.0 += 1;
        self.tries.1 += u64::from(failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60 * 1_000;

    #[test]
    fn an_endpoint_that_fails_is_spared_probed_and_given_up() {
        let mut health = Health::default();
        for nth in 1..STREAK_MAX {
            let change = health.fail(u64::from(nth), "500", false, false, DAY);
            assert_eq!(change, Change::default(), "after {nth}");
        }
        assert!(health.fail(10, "500", false, false, DAY).spared);
        let mut now = health.spared_until.expect("it is spared");
        let mut intervals = Vec::new();
        while now < DAY {
            let change = health.fail(now, "500", false, true, DAY);
            assert!(!change.give_up && !change.spared);
            let until = health.spared_until.expect("still");
            intervals.push(until - now);
            now = until;
        }
        assert!(intervals.is_sorted() && intervals[0] >= PROBE_FIRST_MS && intervals.last() == Some(&PROBE_MAX_MS));
        assert!(health.fail(DAY + 2, "500", false, true, DAY).give_up, "a day after the first failure");
        assert!(health.succeed(DAY + 3).recovered);
        assert_eq!((health.streak, health.spared_until, health.failing_since), (0, None, None));
        assert!(!health.succeed(DAY + 4).recovered, "once");
    }

    /// H-69: a success in between begins the count anew, and the threshold is exact.
    #[test]
    fn a_success_between_failures_begins_the_count_anew() {
        let mut health = Health::default();
        let spared: Vec<u64> = (1..=30)
            .filter(|now| match now {
                15 => health.succeed(*now).spared,
                now => health.fail(*now, "500", false, false, DAY).spared,
            })
            .collect();
        assert_eq!(spared, [10, 25]);
    }

    #[test]
    fn silence_is_spared_sooner() {
        let mut health = Health::default();
        let spared: Vec<u64> = (1..=6).filter(|now| health.fail(*now, "timeout", true, false, DAY).spared).collect();
        assert_eq!(spared, [u64::from(SILENT_MAX)]);
    }

    #[test]
    fn the_failure_rate_is_of_the_last_hour_or_two() {
        let mut health = Health::default();
        assert_eq!(health.failure_percent(), None);
        for now in 0..10 {
            health.fail(now, "500", false, false, DAY);
        }
        assert_eq!(health.failure_percent(), Some(100));
        for now in 0..10 {
            health.succeed(WINDOW_MS + now);
        }
        assert_eq!(health.failure_percent(), Some(50));
        health.succeed(4 * WINDOW_MS);
        assert_eq!(health.failure_percent(), Some(0));
    }
}
