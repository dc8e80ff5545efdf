//! What trips have booked at agencies outside: nothing may stand of one that failed or was cancelled, and everything of one
//! that completed.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Run;

/// The agencies' own records.
#[derive(Debug, Default)]
pub(crate) struct Bookings {
    /// What stands, by run.
    stand: BTreeMap<u128, BTreeSet<&'static str>>,
    /// Runs with bookings that were parked once: cancelling such a run ends it as it is.
    parked: BTreeSet<u128>,
    /// How each trip ended.
    ended: BTreeMap<u128, &'static str>,
}

impl Bookings {
    /// Something is booked, or unbooked.
    pub(crate) fn at_the_agency(&mut self, run: u128, name: &'static str, books: bool) {
        let stand = self.stand.entry(run).or_default();
        if books {
            stand.insert(name);
        } else {
            stand.remove(name);
        }
    }

    pub(super) fn enter_run(&mut self, run: &Run, marks: &mut BTreeSet<&'static str>) {
        if run.workflow != "trip" {
            return;
        }
        match run.state {
            "parked" => drop(self.parked.insert(run.id)),
            "completed" | "failed" | "cancelled" => {
                if run.state == "cancelled" && self.stand.contains_key(&run.id) {
                    marks.insert("a trip was cancelled after it had booked something");
                }
                self.ended.insert(run.id, run.state);
            }
            _ => {}
        }
    }

    /// At the end, when everything has settled.
    pub(super) fn check(&self, violations: &mut Vec<String>) {
        for (run, state) in &self.ended {
            let stand = self.stand.get(run).map_or(0, BTreeSet::len);
            let wanted = if *state == "completed" { 3 } else { 0 };
            if stand != wanted && !self.parked.contains(run) {
                violations.push(format!("trip {run:x} {state} and {stand} of its bookings stand"));
            }
        }
    }
}
