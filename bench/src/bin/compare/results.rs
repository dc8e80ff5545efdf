//! Everything that was measured in one invocation, as it is kept in `figures.json`, and medians of it.

use std::collections::BTreeMap;

use mainspring_bench::latency::median;
use serde::{Deserialize, Serialize};

use crate::measure::Figure;
use crate::plan::{Contender, Workload};

/// All of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The command that gave them.
    pub(crate) command: String,
    /// When, in UTC.
    pub(crate) date: String,
    /// What it was measured on, name by name.
    pub(crate) machine: BTreeMap<String, String>,
    /// What was measured, in which version.
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) starts: Vec<Start>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) recoveries: Vec<Recovery>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

/// One start of a contender, and how it is when nobody asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    /// From the start of the server until it answered.
    pub(crate) ready_ms: f64,
    /// Resident memory of servers, and of workers, before the first request.
    pub(crate) server_bytes: u64,
    pub(crate) worker_bytes: u64,
    /// Processor time of servers in hundredths of a core, meanwhile.
    pub(crate) server_percent: f64,
}

/// A server killed with live runs, and started again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Recovery {
    pub(crate) contender: Contender,
    /// Runs that sleep.
    pub(crate) live_runs: u64,
    /// How long it took to begin them.
    pub(crate) begun_in_seconds: f64,
    /// Resident memory of servers before the kill.
    pub(crate) server_bytes: u64,
    /// From the second start until a run that does nothing was answered.
    pub(crate) answered_after_seconds: f64,
}

/// The rounds of one contender, workload and number of callers together.
#[derive(Debug, Clone)]
pub(crate) struct Rounds<'a> {
    of: Vec<&'a Figure>,
}

impl Results {
    /// `None` if none was measured.
    pub(crate) fn rounds(&self, contender: Contender, workload: Workload, callers: usize) -> Option<Rounds<'_>> {
        let same =
            |figure: &&Figure| (figure.contender, figure.workload, figure.callers) == (contender, workload, callers);
        let of: Vec<&Figure> = self.figures.iter().filter(same).collect();
        (!of.is_empty()).then_some(Rounds { of })
    }

    /// Contenders that were measured with a workload, in order.
    pub(crate) fn contenders(&self, workload: Workload) -> Vec<Contender> {
        let mut all: Vec<Contender> =
            self.figures.iter().filter(|figure| figure.workload == workload).map(|figure| figure.contender).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Workloads that were measured, in order.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let mut all: Vec<Workload> = self.figures.iter().map(|figure| figure.workload).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Numbers of callers that a workload was measured with, in order.
    pub(crate) fn callers(&self, workload: Workload) -> Vec<usize> {
        let mut all: Vec<usize> =
            self.figures.iter().filter(|figure| figure.workload == workload).map(|figure| figure.callers).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Rounds<'_> {
    /// The median of what `figure` gives of each round.
    pub(crate) fn median(&self, figure: impl Fn(&Figure) -> f64) -> f64 {
        median(self.of.iter().map(|one| figure(one)))
    }

    /// The lowest and the highest.
    pub(crate) fn spread(&self, figure: impl Fn(&Figure) -> f64) -> (f64, f64) {
        let all = self.of.iter().map(|one| figure(one));
        all.fold((f64::INFINITY, 0.0), |(low, high), one| (low.min(one), high.max(one)))
    }

    pub(crate) fn errors(&self) -> u64 {
        self.of.iter().flat_map(|one| one.errors.values()).sum()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.of.iter().map(|one| one.lost).sum()
    }
}
