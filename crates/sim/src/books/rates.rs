//! Rate limits: in each window no more is given out than there is, by a count of what is given out.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Rate;
use super::tasks::Tasks;

/// Limits of the simulation as they were meant: name, units, window in milliseconds, and the tasks that take one unit.
const RULES: [(&str, u32, u64, (&str, u16)); 2] =
    [("calls", 3, 700, ("limited", 0)), ("brought", 2, 500, ("checked", 0))];

#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// When the present window began, and how often was taken in it.
    windows: BTreeMap<(u128, &'static str), (u64, u32)>,
    /// Given out and not counted yet: of which workflow a run is, its row says, which may come later in a batch.
    fresh: Vec<(u128, u128, u16)>,
}

impl Rates {
    /// A task was given to a worker.
    pub(super) fn given_out(&mut self, task: (u128, u128, u16)) {
        self.fresh.push(task);
    }

    pub(super) fn enter(&mut self, rate: Rate, violations: &mut Vec<String>, marks: &mut BTreeSet<&'static str>) {
        let Some((name, _, window_ms, _)) = RULES.iter().find(|(name, ..)| *name == rate.name) else { return };
        let window = self.windows.entry((rate.tenant, name)).or_insert((rate.since, 0));
        if window.0 != rate.since {
            marks.insert("a rate limit was full again");
            if rate.since < window.0 + window_ms {
                violations.push(format!("limit {name:?} was full again at {}, after {}", rate.since, window.0));
            }
            *window = (rate.since, 0);
        }
    }

    /// Counts what was given out.
    pub(super) fn settle(&mut self, tasks: &Tasks, violations: &mut Vec<String>) {
        let mut unknown = Vec::new();
        for (tenant, run, index) in std::mem::take(&mut self.fresh) {
            let Some(row) = tasks.run(run) else {
                unknown.push((tenant, run, index));
                continue;
            };
            let rule = RULES.iter().find(|(.., (workflow, of))| *workflow == row.workflow && *of == index);
            let Some((name, limit, ..)) = rule else { continue };
            let Some(window) = self.windows.get_mut(&(tenant, *name)) else {
                violations.push(format!("run {run:x} was given out and its limit {name:?} is not recorded"));
                continue;
            };
            window.1 += 1;
            if window.1 > *limit {
                violations.push(format!("{} of {limit} of {name:?} were taken from {} on", window.1, window.0));
            }
        }
        self.fresh = unknown;
    }
}
