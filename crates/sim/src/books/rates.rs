//! Rate limits: in each window no more is given out than there is, by a count of what is given out.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Entry, Rate};
use super::tasks::Tasks;

/// A limit of the simulation as it was meant.
struct Rule {
    name: &'static str,
    units: u32,
    window_ms: u64,
    /// The tasks that take one unit, by workflow and index. `None`: functions take from it, by a journal entry.
    task: Option<(&'static str, u16)>,
}

const RULES: [Rule; 3] = [
    Rule { name: "calls", units: 3, window_ms: 700, task: Some(("limited", 0)) },
    Rule { name: "brought", units: 2, window_ms: 500, task: Some(("checked", 0)) },
    Rule { name: TAKEN.0, units: TAKEN.1, window_ms: TAKEN.2, task: None },
];
/// What functions take from: name, units, and milliseconds.
pub(crate) const TAKEN: (&str, u32, u64) = ("taken", 2, 600);

#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// When the present window began, and how often was taken in it.
    windows: BTreeMap<(u128, &'static str), (u64, u32)>,
    /// Given out and not counted yet: of which workflow a run is, its row says, which may come later in a batch.
    fresh: Vec<(u128, u128, u16)>,
    /// Taken by functions and not counted yet: whose, and from which limit.
    taken: Vec<(u128, &'static str)>,
}

impl Rates {
    /// A task was given to a worker.
    pub(super) fn given_out(&mut self, task: (u128, u128, u16)) {
        self.fresh.push(task);
    }

    /// An entry of a journal, and whether it was known to be done.
    pub(super) fn enter_entry(&mut self, entry: &Entry, known: bool) {
        let rule = RULES.iter().find(|rule| rule.task.is_none() && rule.name == entry.label);
        if let Some(rule) = rule.filter(|_| entry.kind == "take" && entry.yes && !known) {
            self.taken.push((entry.tenant, rule.name));
        }
    }

    pub(super) fn enter(&mut self, rate: Rate, violations: &mut Vec<String>, marks: &mut BTreeSet<&'static str>) {
        let Some(Rule { name, window_ms, .. }) = RULES.iter().find(|rule| rule.name == rate.name) else { return };
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
            let of = Some((row.workflow.as_str(), index));
            if let Some(rule) = RULES.iter().find(|rule| rule.task == of) {
                self.taken.push((tenant, rule.name));
            }
        }
        self.fresh = unknown;
        for (tenant, name) in std::mem::take(&mut self.taken) {
            let Some(Rule { units: limit, .. }) = RULES.iter().find(|rule| rule.name == name) else { continue };
            let Some(window) = self.windows.get_mut(&(tenant, name)) else {
                violations.push(format!("limit {name:?} was taken from and is not recorded"));
                continue;
            };
            window.1 += 1;
            if window.1 > *limit {
                violations.push(format!("{} of {limit} of {name:?} were taken from {} on", window.1, window.0));
            }
        }
    }
}
