//! Rate limits: so much in a time. A window that is over is full again; what is not enough for now waits for the next.
//!
//! A line of tasks whose first finds too little left leaves its queue and comes back when the window is over, so that
//! waiting for a limit costs nothing meanwhile.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::id::Ms;
use crate::machine::{Consequence, Step};
use crate::place::Wants;
use crate::reply::{Refusal, Reply};
use crate::row::{self, RateRow};
use crate::timer::TimerKey;
use crate::write::Table;

/// What one attempt takes from a limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RateUse {
    /// Which limit.
    pub name: String,
    /// How much of it.
    pub units: u32,
    /// The limit as the task itself says it: how much there is in a window of how many milliseconds. `None`: as it was
    /// put there.
    pub sets: Option<(u32, u64)>,
}

/// A limit with the lines that wait for it.
#[derive(Debug)]
pub(crate) struct Rate {
    pub(crate) row: RateRow,
    /// Action and wants of each line.
    pub(crate) waiting: BTreeSet<(String, Arc<Wants>)>,
}

impl Rate {
    /// Says nothing that its next use would not say.
    fn idle(&self, now: Ms) -> bool {
        !self.row.put && self.row.over(now) && self.waiting.is_empty()
    }
}

/// Limits looked at when one comes in, to see whether they can go: more than come in.
const RATES_SEEN_AT_ONCE: usize = 64;

impl RateRow {
    /// What is left now.
    pub fn left_at(&self, now: Ms) -> u32 {
        if self.over(now) { self.limit } else { self.left }
    }

    fn over(&self, now: Ms) -> bool {
        now >= self.since.saturating_add(self.window_ms)
    }

    fn turn(&mut self, now: Ms) {
        if self.over(now) {
            self.left = self.limit;
            self.since = now;
        }
    }

    /// Another limit: what was taken in this window stays taken.
    fn set(&mut self, limit: u32, window_ms: u64, now: Ms) {
        if (self.limit, self.window_ms) == (limit, window_ms) {
            return;
        }
        // Of a window that is over nothing is left to count, also if the new one is longer.
        self.turn(now);
        let taken = self.limit.saturating_sub(self.left);
        self.limit = limit;
        self.window_ms = window_ms;
        self.left = limit.saturating_sub(taken);
    }
}

impl Step<'_> {
    pub(crate) fn put_rate(&mut self, name: &str, limit: u32, window_ms: u64) -> Result<Reply, Refusal> {
        self.check_key("the limit's name", name)?;
        if window_ms == 0 {
            return Err(Refusal::Empty { what: "the limit's window" });
        }
        self.check_room_for_rate(name)?;
        self.set_rate(name, limit, window_ms, true);
        Ok(Reply::Done)
    }

    fn check_room_for_rate(&self, name: &str) -> Result<(), Refusal> {
        if !self.t.rates.contains_key(name) && self.t.rates.len() >= self.limits.rates_max {
            return Err(Refusal::Full {
                what: "rate limits of this tenant",
                max: self.limits.rates_max,
                action: "use fewer keys, or wait until some have not been used for a window",
            });
        }
        Ok(())
    }

    /// Checks what is taken from a limit.
    pub(crate) fn check_use(&self, rate_use: &RateUse) -> Result<(), Refusal> {
        self.check_key("the limit's name", &rate_use.name)
    }

    /// Makes sure that the limits a task brings along may exist, before it is queued for them.
    pub(crate) fn admit_rates(&mut self, uses: &[RateUse]) -> Result<(), Refusal> {
        for rate_use in uses {
            self.check_key("the limit's name", &rate_use.name)?;
            if let Some((limit, window_ms)) = rate_use.sets {
                self.forget_idle_rates();
                self.check_room_for_rate(&rate_use.name)?;
                self.set_rate(&rate_use.name, limit, window_ms.max(1), false);
            }
        }
        Ok(())
    }

    /// Puts a limit, or changes it; whoever waits for it looks again.
    fn set_rate(&mut self, name: &str, limit: u32, window_ms: u64, put: bool) {
        let now = self.now;
        match self.t.rates.get_mut(name) {
            Some(rate) => {
                let before = rate.row.clone();
                rate.row.put |= put;
                if (before.limit, before.window_ms) != (limit, window_ms) {
                    rate.row.set(limit, window_ms, now);
                    self.release_line(name);
                }
                if self.t.rates.get(name).is_some_and(|rate| rate.row == before) {
                    return;
                }
            }
            None => {
                let row = RateRow { limit, window_ms, left: limit, since: now, put };
                self.t.rates.insert(name.to_owned(), Rate { row, waiting: BTreeSet::new() });
            }
        }
        self.record_rate(name);
    }

    fn record_rate(&mut self, name: &str) {
        if let Some(rate) = self.t.rates.get(name) {
            self.out.put(Table::Rate, &row::key::rate(self.tenant, name), &rate.row);
        }
    }

    /// Takes what an attempt needs from all its limits, or from none of them: then it answers which one is short.
    pub(crate) fn take_rates(&mut self, uses: &[RateUse]) -> Result<(), String> {
        let now = self.now;
        for rate_use in uses {
            // One that was forgotten meanwhile comes back. Others stay as the last verdict made them, or two kinds of
            // tasks that see one limit differently would change it back and forth.
            if let Some((limit, window_ms)) = rate_use.sets
                && !self.t.rates.contains_key(&rate_use.name)
            {
                self.set_rate(&rate_use.name, limit, window_ms.max(1), false);
            }
        }
        let units = units_by_name(uses);
        for (name, units) in &units {
            // A limit nobody has put there limits nothing.
            let Some(rate) = self.t.rates.get(*name) else { continue };
            if rate.row.left_at(now) < *units {
                return Err((*name).to_owned());
            }
        }
        for (name, units) in units {
            let Some(rate) = self.t.rates.get_mut(name) else { continue };
            rate.row.turn(now);
            rate.row.left = rate.row.left.saturating_sub(units);
            self.record_rate(name);
        }
        Ok(())
    }

    /// Takes what is needed from limits at once, or refuses and takes nothing.
    pub(crate) fn admit_uses(&mut self, uses: &[RateUse]) -> Result<(), Refusal> {
        if uses.is_empty() {
            return Ok(());
        }
        let now = self.now;
        for rate_use in uses {
            self.check_use(rate_use)?;
        }
        let units = units_by_name(uses);
        let fresh = units.keys().filter(|name| !self.t.rates.contains_key(**name)).count();
        let full = fresh > 0 && self.t.rates.len() + fresh > self.limits.rates_max;
        if full && !self.t.rates.values().any(|rate| rate.idle(now)) {
            return Err(Refusal::Full {
                what: "rate limits of this tenant",
                max: self.limits.rates_max,
                action: "use fewer keys, or wait until some have not been used for a window",
            });
        }
        for (name, units) in units {
            let Some(row) = self.rate_as_used(name, uses).filter(|row| row.left_at(now) < units) else { continue };
            // More than there ever is stays short.
            let from = if row.over(now) { now } else { row.since };
            let retry_after_ms = from.saturating_add(row.window_ms).saturating_sub(now).max(1);
            let (limit, window_ms) = (row.limit, row.window_ms);
            return Err(Refusal::TooFast { name: name.to_owned(), limit, window_ms, retry_after_ms });
        }
        self.forget_idle_rates();
        for rate_use in uses {
            if let Some((limit, window_ms)) = rate_use.sets {
                self.set_rate(&rate_use.name, limit, window_ms.max(1), false);
            }
        }
        let taken = self.take_rates(uses);
        assert!(taken.is_ok(), "what was found sufficient is: {taken:?}");
        Ok(())
    }

    /// A limit as it is once these uses have set it. `None`: nobody has put it there.
    fn rate_as_used(&self, name: &str, uses: &[RateUse]) -> Option<RateRow> {
        let mut row = self.t.rates.get(name).map(|rate| rate.row.clone());
        for (limit, window_ms) in uses.iter().filter(|rate_use| rate_use.name == name).filter_map(|of| of.sets) {
            let window_ms = window_ms.max(1);
            match &mut row {
                Some(row) => row.set(limit, window_ms, self.now),
                None => row = Some(RateRow { limit, window_ms, left: limit, since: self.now, put: false }),
            }
        }
        row
    }

    /// Limits that are full again and awaited by nobody say nothing that the next use would not say: beyond half of what
    /// may be kept they go.
    fn forget_idle_rates(&mut self) {
        if self.t.rates.len() < self.limits.rates_max / 2 {
            return;
        }
        // From where the last look ended, so that looking costs the same however many there are.
        let now = self.now;
        let after = (Bound::Excluded(core::mem::take(&mut self.t.rates_seen)), Bound::Unbounded);
        let seen = self.t.rates.range(after).take(RATES_SEEN_AT_ONCE);
        let seen: Vec<(String, bool)> = seen.map(|(name, rate)| (name.clone(), rate.idle(now))).collect();
        if seen.len() == RATES_SEEN_AT_ONCE {
            self.t.rates_seen = seen.last().map(|(name, _)| name.clone()).unwrap_or_default();
        }
        for (name, _) in seen.into_iter().filter(|(_, idle)| *idle) {
            self.t.rates.remove(&name);
            self.out.delete(Table::Rate, &row::key::rate(self.tenant, &name));
        }
    }

    /// Sets a line aside until the limit that is short is full again.
    pub(crate) fn hold_line(&mut self, action: &str, wants: &Arc<Wants>, short: &str) {
        let Some(line) = self.t.take_line(action, wants) else { return };
        self.t.held.insert((action.to_owned(), wants.clone()), line);
        let Some(rate) = self.t.rates.get_mut(short) else { return };
        // More than there ever is stays short: it is looked at once in each window, in case the limit is raised.
        let wait_from = if rate.row.over(self.now) { self.now } else { rate.row.since };
        let due = wait_from.saturating_add(rate.row.window_ms);
        if rate.waiting.is_empty() {
            self.add_refill(due, short);
        }
        if let Some(rate) = self.t.rates.get_mut(short) {
            rate.waiting.insert((action.to_owned(), wants.clone()));
        }
    }

    /// One timer stands for the earliest refill that somebody waits for.
    fn add_refill(&mut self, due: Ms, name: &str) {
        let earliest = self.t.refills.first().map(|(due, _)| *due);
        if earliest.is_none_or(|earliest| due < earliest) {
            if let Some(earliest) = earliest {
                self.timers.unset(earliest, self.tenant, TimerKey::Refill);
            }
            self.timers.set(due, self.tenant, TimerKey::Refill);
        }
        self.t.refills.insert((due, name.to_owned()));
    }

    pub(crate) fn refill(&mut self) {
        while let Some((due, name)) = self.t.refills.first().cloned() {
            if due > self.now {
                break;
            }
            self.t.refills.pop_first();
            self.release_line(&name);
        }
        if let Some((due, _)) = self.t.refills.first() {
            self.timers.set(*due, self.tenant, TimerKey::Refill);
        }
    }

    /// Puts the lines that wait for a limit back into their queues.
    fn release_line(&mut self, name: &str) {
        let Some(rate) = self.t.rates.get_mut(name) else { return };
        for place in core::mem::take(&mut rate.waiting) {
            let Some(line) = self.t.held.remove(&place) else { continue };
            let (action, wants) = place;
            self.t.queues.entry(action.clone()).or_default().entry(wants).or_default().extend(line);
            self.agenda.push_back(Consequence::Assign(action));
        }
    }

    pub(crate) fn explain_rates(&self, uses: &[RateUse]) -> Option<String> {
        units_by_name(uses).into_iter().find_map(|(name, units)| {
            let rate = self.t.rates.get(name)?;
            let (left, limit) = (rate.row.left_at(self.now), rate.row.limit);
            if left >= units {
                return None;
            }
            if limit < units {
                return Some(format!("for {units} of rate limit {name:?}, which never has more than {limit}"));
            }
            let wait = rate.row.since.saturating_add(rate.row.window_ms).saturating_sub(self.now);
            Some(format!(
                "for {units} of rate limit {name:?}, of which {left} of {limit} are left; it is full again in {wait} ms"
            ))
        })
    }
}

/// What is taken of each limit: definition and verdict may both name one.
fn units_by_name(uses: &[RateUse]) -> BTreeMap<&str, u32> {
    let mut units: BTreeMap<&str, u32> = BTreeMap::new();
    for rate_use in uses {
        let sum = units.entry(&rate_use.name).or_default();
        *sum = sum.saturating_add(rate_use.units);
    }
    units
}
