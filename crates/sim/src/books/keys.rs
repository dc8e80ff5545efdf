//! At most so many runs for one key, and those that wait get in by priority, then by arrival.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Run;

/// How a workflow of the simulation serialises its runs, as its definition was meant.
const RULES: [(&str, usize, bool); 6] = [
    // Workflow, live runs at most, whether others queue.
    ("job", 2, true),
    ("single", 1, false),
    ("newest", 1, false),
    ("heard", 1, true),
    ("deliver-reply", 1, true),
    ("turn", 1, true),
];

type Place = (u128, String, String);
/// Priority (negated), arrival, id.
type Spot = (i16, u64, u128);

#[derive(Debug, Default)]
pub(crate) struct Keys {
    live: BTreeMap<Place, BTreeMap<u128, Spot>>,
    waiting: BTreeMap<Place, BTreeMap<u128, Spot>>,
    /// Runs that got in in the present batch.
    entered: BTreeSet<(Place, u128)>,
    /// Runs that began to wait in the present batch.
    fresh: BTreeSet<u128>,
    touched: BTreeSet<Place>,
}

impl Keys {
    pub(super) fn enter(&mut self, run: &Run) {
        let Some(key) = &run.key else { return };
        if !RULES.iter().any(|(workflow, ..)| *workflow == run.workflow) {
            return;
        }
        let place = (run.tenant, run.workflow.clone(), key.clone());
        let spot = (-i16::from(run.priority), run.created_at, run.id);
        self.touched.insert(place.clone());
        let (live, waiting) =
            (self.live.entry(place.clone()).or_default(), self.waiting.entry(place.clone()).or_default());
        match run.state {
            "queued" => {
                if waiting.insert(run.id, spot).is_none() {
                    self.fresh.insert(run.id);
                }
            }
            _ if run.ended => {
                waiting.remove(&run.id);
                live.remove(&run.id);
            }
            _ => {
                waiting.remove(&run.id);
                if live.insert(run.id, spot).is_none() {
                    self.entered.insert((place, run.id));
                }
            }
        }
    }

    pub(super) fn batch_ends(&mut self, violations: &mut Vec<String>, marks: &mut BTreeSet<&'static str>) {
        for (place, run) in std::mem::take(&mut self.entered) {
            let Some(spot) = self.live.get(&place).and_then(|live| live.get(&run)) else { continue };
            let queues = RULES.iter().any(|(workflow, _, queues)| *workflow == place.1 && *queues);
            let waiting = self.waiting.get(&place).into_iter().flatten();
            let passed = waiting.filter(|(id, _)| !self.fresh.contains(id)).find(|(_, waits)| *waits < spot);
            if let Some((passed, _)) = passed
                && queues
            {
                violations.push(format!("run {run:x} got in for {place:?} before run {passed:x}, which waited first"));
            }
        }
        self.fresh.clear();
        for place in std::mem::take(&mut self.touched) {
            let max = RULES.iter().find(|(workflow, ..)| *workflow == place.1).map_or(usize::MAX, |(_, max, _)| *max);
            let live = self.live.get(&place).map_or(0, BTreeMap::len);
            if live > max {
                violations.push(format!("{live} runs live for {place:?}, {max} are allowed"));
            }
            let waiting = self.waiting.get(&place).map_or(0, BTreeMap::len);
            if waiting > 0 {
                marks.insert("a run waited for its key");
                if live < max {
                    violations.push(format!("a run waits for {place:?}, and only {live} of {max} places are taken"));
                }
            }
        }
    }
}
