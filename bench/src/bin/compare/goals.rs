//! What was aimed at, and whether it was reached: ratios of medians.

use crate::measure::Figure;
use crate::page::short;
use crate::plan::Contender::{
    CeleryRedis, Dbos, Mainspring, MainspringFunctions, MainspringPostgres, MainspringPython, Restate2, Restate24,
};
use crate::plan::Workload::{A, B, C2, D};
use crate::plan::{Contender, Workload};
use crate::results::Results;

/// One aim.
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) aim: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

/// Restate's better configuration counts.
const RESTATE: [Contender; 2] = [Restate24, Restate2];

/// Those of which everything they need was measured.
pub(crate) fn goals(results: &Results) -> Vec<Goal> {
    let rate: fn(&Figure) -> f64 = |one| one.per_second;
    let to_the_end: fn(&Figure) -> f64 = |one| one.to_the_end.unwrap_or(0.0);
    let looked_for = Looked { results };
    let mut all = vec![
        looked_for.times("no-op, run and wait (task over the wire)", Mainspring, &RESTATE, A, 64, rate, 6.0),
        looked_for.times("no-op, run and wait (function in process)", MainspringFunctions, &RESTATE, A, 64, rate, 6.0),
        looked_for.shorter("no-op, run and wait, p50", Mainspring, &RESTATE, A, 1, 3.0),
        looked_for.times("three steps (tasks over the wire)", Mainspring, &RESTATE, B, 64, rate, 6.0),
        looked_for.times("three steps (functions in process)", MainspringFunctions, &RESTATE, B, 64, rate, 6.0),
        looked_for.times("one hot key (functions in process)", MainspringFunctions, &RESTATE, C2, 64, rate, 20.0),
        looked_for.times("ingest", Mainspring, &[CeleryRedis], D, 64, rate, 10.0),
        looked_for.times("end to end, worker in Rust", Mainspring, &[CeleryRedis], D, 64, to_the_end, 10.0),
        looked_for.times("end to end, worker in Python", MainspringPython, &[CeleryRedis], D, 64, to_the_end, 1.0),
        looked_for.times("queue, end to end", Mainspring, &[Dbos], D, 64, to_the_end, 10.0),
        looked_for.times("queue, end to end, ours on PostgreSQL", MainspringPostgres, &[Dbos], D, 64, to_the_end, 10.0),
    ];
    all.retain(Option::is_some);
    all.into_iter().flatten().collect()
}

struct Looked<'a> {
    results: &'a Results,
}

impl Looked<'_> {
    fn median(&self, of: Contender, workload: Workload, callers: usize, figure: fn(&Figure) -> f64) -> Option<f64> {
        self.results.rounds(of, workload, callers).map(|rounds| rounds.median(figure))
    }

    fn medians(
        &self,
        of: &[Contender],
        workload: Workload,
        callers: usize,
        figure: fn(&Figure) -> f64,
    ) -> Vec<(Contender, f64)> {
        of.iter().filter_map(|one| Some((*one, self.median(*one, workload, callers, figure)?))).collect()
    }

    /// Ours is at least so many times the best of the rivals.
    #[expect(clippy::too_many_arguments, reason = "each is a part of one sentence")]
    fn times(
        &self,
        what: &str,
        ours: Contender,
        rivals: &[Contender],
        workload: Workload,
        callers: usize,
        figure: fn(&Figure) -> f64,
        times: f64,
    ) -> Option<Goal> {
        let own = self.median(ours, workload, callers, figure)?;
        let all = self.medians(rivals, workload, callers, figure);
        let (rival, best) = all.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Goal {
            what: format!("{what}, {callers} callers"),
            aim: format!("{times} times {}", rival.name()),
            measured: format!("{:.1} times: {}/s over {}/s", own / best, short(own), short(best)),
            met: own >= best * times,
        })
    }

    /// Ours takes at most so large a part of the time of the best of the rivals.
    fn shorter(
        &self,
        what: &str,
        ours: Contender,
        rivals: &[Contender],
        workload: Workload,
        callers: usize,
        times: f64,
    ) -> Option<Goal> {
        let figure: fn(&Figure) -> f64 = |one| one.p50_ms;
        let own = self.median(ours, workload, callers, figure)?;
        let all = self.medians(rivals, workload, callers, figure);
        let (rival, best) = all.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Goal {
            what: format!("{what}, {callers} caller"),
            aim: format!("under 1/{times} of {}", rival.name()),
            measured: format!("1/{:.1}: {} ms under {} ms", best / own, short(own), short(best)),
            met: own * times <= best,
        })
    }
}
