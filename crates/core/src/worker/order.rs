//! A tenant's workers, and the order in which they are given tasks.
//!
//! Workers that offer the same actions are a *pool*. Of each pool those that may be given tasks stand in order of their
//! free slots, so whoever is given the next is found without looking at the others, and a worker moves only in the orders
//! of its own pool.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;
use core::ops::Deref;

use crate::id::WorkerId;
use crate::place::Wants;
use crate::worker::Worker;

/// A worker by how much it has free. The greatest is given the next task: the lowest id among equals.
type Free = (u32, Reverse<WorkerId>);

/// The workers of a tenant. They are read as the map they are; what changes them keeps the orders right.
#[derive(Default)]
pub(crate) struct Workers {
    all: BTreeMap<WorkerId, Worker>,
    orders: Orders,
}

/// As the map they are: the orders follow from it.
impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)
    }
}

impl Deref for Workers {
    type Target = BTreeMap<WorkerId, Worker>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl Workers {
    /// Adds a worker, in the place of the one that has its id.
    pub(crate) fn insert(&mut self, id: WorkerId, worker: Worker) {
        self.remove(id);
        self.all.insert(id, worker);
        self.change(id, |_| ());
    }

    pub(crate) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        let mut worker = self.all.remove(&id)?;
        if let Some(standing) = worker.standing.take() {
            self.orders.leave(id, &worker, &standing);
        }
        Some(worker)
    }

    /// Changes what is known of a worker, but for its actions and the kinds of its slots: with others it is inserted anew.
    pub(crate) fn change<T>(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        let worker = self.all.get_mut(&id)?;
        let changed = change(worker);
        worker.standing = match (worker.standing.take(), worker.takes_tasks()) {
            (None, false) => None,
            (None, true) => Some(self.orders.join(id, worker)),
            (Some(mut standing), true) => {
                self.orders.follow(id, worker, &mut standing);
                Some(standing)
            }
            (Some(standing), false) => {
                self.orders.leave(id, worker, &standing);
                None
            }
        };
        Some(changed)
    }

    /// Whether anybody who offers an action has any slot free.
    pub(crate) fn any_room(&self, action: &str) -> bool {
        let mut orders = self.orders.of(action).flat_map(|pool| pool.orders.values());
        orders.any(|order| order.last().is_some_and(|(free, _)| *free > 0))
    }

    /// The worker a task goes to, among those that have room: the one wished for, then the one that fulfils most wishes,
    /// then the one with the most free slots; the lowest id among equals.
    pub(crate) fn free_for(&self, action: &str, wants: &Wants) -> Option<WorkerId> {
        let fits = |id: WorkerId| {
            let worker =
                self.all.get(&id).filter(|worker| worker.offers(action) && worker.has_room_for(&wants.slots))?;
            Some((wants.rank(id, worker)?, worker))
        };
        if let Some((wished, or_none)) = wants.worker {
            if fits(wished).is_some() {
                return Some(wished);
            }
            if or_none {
                return None;
            }
        }
        let kind = wants.slots.keys().next();
        let pools = self.orders.of(action);
        if let (true, Some(kind)) = (wants.labels.is_empty(), kind) {
            let first = |pool: &Pool| {
                let order = pool.orders.get(kind)?;
                order.iter().rev().take_while(|(free, _)| *free > 0).find(|(_, id)| fits(id.0).is_some()).copied()
            };
            return pools.filter_map(first).max().map(|(_, id)| id.0);
        }
        // Labels differ from worker to worker, so each has to be looked at.
        let free = |worker: &Worker| kind.map_or(0, |kind| worker.free(kind));
        pools
            .flat_map(|pool| &pool.members)
            .filter_map(|id| fits(*id).map(|(rank, worker)| (rank, free(worker), Reverse(*id))))
            .max()
            .map(|(_, _, id)| id.0)
    }
}

/// Where a worker stands: in which pool, and with how much free of each kind of its slots.
#[derive(Debug)]
pub(crate) struct Standing {
    pool: u64,
    free: Vec<u32>,
}

/// The pools of those who may be given tasks.
#[derive(Debug, Default)]
struct Orders {
    pools: BTreeMap<u64, Pool>,
    /// By what they offer.
    numbers: BTreeMap<BTreeSet<String>, u64>,
    /// By each action they offer.
    offering: BTreeMap<String, BTreeSet<u64>>,
    next: u64,
}

#[derive(Debug, Default)]
struct Pool {
    members: BTreeSet<WorkerId>,
    /// By kind of slots.
    orders: BTreeMap<String, BTreeSet<Free>>,
}

impl Orders {
    fn of(&self, action: &str) -> impl Iterator<Item = &Pool> {
        self.offering.get(action).into_iter().flatten().filter_map(|number| self.pools.get(number))
    }

    fn join(&mut self, id: WorkerId, worker: &Worker) -> Standing {
        let number = match self.numbers.get(&worker.actions) {
            Some(number) => *number,
            None => self.found(&worker.actions),
        };
        let pool = self.pools.entry(number).or_default();
        pool.members.insert(id);
        let mut free = Vec::new();
        for kind in worker.slots.keys() {
            let units = worker.free(kind);
            pool.orders.entry(kind.clone()).or_default().insert((units, Reverse(id)));
            free.push(units);
        }
        Standing { pool: number, free }
    }

    /// A new pool.
    fn found(&mut self, actions: &BTreeSet<String>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.numbers.insert(actions.clone(), number);
        for action in actions {
            self.offering.entry(action.clone()).or_default().insert(number);
        }
        number
    }

    /// Has a worker stand where what it has free puts it.
    fn follow(&mut self, id: WorkerId, worker: &Worker, standing: &mut Standing) {
        let Some(pool) = self.pools.get_mut(&standing.pool) else { return };
        for (kind, before) in worker.slots.keys().zip(&mut standing.free) {
            let now = worker.free(kind);
            if *before == now {
                continue;
            }
            if let Some(order) = pool.orders.get_mut(kind) {
                order.remove(&(*before, Reverse(id)));
                order.insert((now, Reverse(id)));
            }
            *before = now;
        }
    }

    fn leave(&mut self, id: WorkerId, worker: &Worker, standing: &Standing) {
        let Some(pool) = self.pools.get_mut(&standing.pool) else { return };
        pool.members.remove(&id);
        for (kind, free) in worker.slots.keys().zip(&standing.free) {
            if let Some(order) = pool.orders.get_mut(kind) {
                order.remove(&(*free, Reverse(id)));
                if order.is_empty() {
                    pool.orders.remove(kind);
                }
            }
        }
        if !pool.members.is_empty() {
            return;
        }
        self.pools.remove(&standing.pool);
        self.numbers.remove(&worker.actions);
        for action in &worker.actions {
            if let Some(pools) = self.offering.get_mut(action) {
                pools.remove(&standing.pool);
                if pools.is_empty() {
                    self.offering.remove(action);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned;
    use alloc::format;
    use alloc::sync::Arc;

    use super::*;
    use crate::id::{RunId, TaskId};
    use crate::place::{Comparator, LabelValue, LabelWish};

    /// Numbers that are the same every time.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % end
        }

        fn action(&mut self) -> String {
            format!("action-{}", self.below(4))
        }

        fn kind(&mut self) -> String {
            format!("kind-{}", self.below(2))
        }

        fn worker(&mut self) -> Worker {
            Worker {
                actions: (0..self.below(3)).map(|_| self.action()).collect(),
                slots: (0..self.below(3)).map(|_| (self.kind(), self.below(4) as u32)).collect(),
                labels: (0..self.below(2)).map(|_| ("zone".to_owned(), self.zone())).collect(),
                connected: self.below(4) > 0,
                paused: self.below(6) == 0,
                ..Worker::default()
            }
        }

        fn zone(&mut self) -> LabelValue {
            LabelValue::Number(self.below(3) as i64)
        }

        fn wants(&mut self) -> Wants {
            let wish = LabelWish {
                value: self.zone(),
                comparator: Comparator::Equal,
                required: self.below(2) == 0,
                weight: self.below(5) as i32,
            };
            Wants {
                slots: (0..self.below(3)).map(|_| (self.kind(), 1 + self.below(2) as u32)).collect(),
                labels: (0..self.below(2)).map(|_| ("zone".to_owned(), wish.clone())).collect(),
                worker: (self.below(4) == 0).then(|| (WorkerId(u128::from(self.below(12))), self.below(2) == 0)),
                rates: Vec::new(),
            }
        }
    }

    /// What is found is what looking at all of them finds, whatever became of them.
    #[test]
    fn the_one_found_is_the_best_of_all() {
        let mut chance = Chance(11);
        let mut workers = Workers::default();
        let (mut found, mut none) = (0, 0);
        for step in 0..60_000_u64 {
            let id = WorkerId(u128::from(chance.below(12)));
            match chance.below(8) {
                0 => workers.insert(id, chance.worker()),
                1 => drop(workers.remove(id)),
                2 => drop(workers.change(id, |worker| worker.connected = !worker.connected)),
                3 => drop(workers.change(id, |worker| worker.paused = !worker.paused)),
                4 => drop(workers.change(id, |worker| worker.taken.clear())),
                _ => {
                    let task = TaskId { run: RunId(u128::from(step)), index: 0 };
                    let slots = chance.wants().slots;
                    workers.change(id, |worker| worker.take(task, &slots));
                }
            }
            let (action, wants) = (chance.action(), Arc::new(chance.wants()));
            let kind = wants.slots.keys().next().map_or("", String::as_str);
            let room = workers.iter().filter(|(_, worker)| worker.offers(&action) && worker.has_room_for(&wants.slots));
            let best = room
                .filter_map(|(id, worker)| Some((wants.rank(*id, worker)?, worker.free(kind), Reverse(*id))))
                .max()
                .map(|(_, _, id)| id.0);
            assert_eq!(workers.free_for(&action, &wants), best, "step {step}: {action} {wants:?}");
            let any = workers.values().any(|worker| {
                worker.offers(&action) && worker.takes_tasks() && worker.slots.keys().any(|kind| worker.free(kind) > 0)
            });
            assert_eq!(workers.any_room(&action), any, "step {step}: {action}");
            if best.is_some() { found += 1 } else { none += 1 }
        }
        assert!(found > 5_000 && none > 5_000, "{found} found, {none} not");
        for id in 0..12 {
            workers.remove(WorkerId(id));
        }
        let Orders { pools, numbers, offering, .. } = workers.orders;
        assert!(pools.is_empty() && numbers.is_empty() && offering.is_empty(), "nobody is left, and no pool");
    }
}
