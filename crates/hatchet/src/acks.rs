//! What workers say they have in hand.
//!
//! A worker says of each task that it has begun. That matters when its connection or this process is lost: what it has
//! begun it will finish and report, what never reached it must be given out again. Writing that down for each task would
//! cost a record per task, for a case that only long tasks can be in; so it is written down for those that are still
//! running half a second later. What was begun in that last half second and is not reported soon after a loss is given
//! out again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mainspring_core::command::Claim;
use mainspring_core::{Command, TaskId, TenantId};

use crate::server::Hatchet;

/// A task that runs for longer than this is written down as begun.
const SHORT: Duration = Duration::from_millis(500);
/// How often is looked for such tasks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Tasks begun of late, with the attempt.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    begun: Mutex<HashMap<(TenantId, TaskId), (u32, Instant)>>,
}

impl Acks {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(TenantId, TaskId), (u32, Instant)>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has begun an attempt.
    pub(crate) fn begun(&self, tenant: TenantId, task: TaskId, attempt: u32) {
        let mut begun = self.lock();
        let known = begun.entry((tenant, task)).or_insert((attempt, Instant::now()));
        // Of an earlier attempt it may be heard after its end.
        if known.0 < attempt {
            *known = (attempt, Instant::now());
        }
    }

    /// The attempt is over.
    pub(crate) fn over(&self, tenant: TenantId, task: TaskId) {
        self.lock().remove(&(tenant, task));
    }

    fn running(&self) -> Vec<(TenantId, TaskId, u32)> {
        let mut begun = self.lock();
        let old = |since: &Instant| since.elapsed() >= SHORT;
        let running: Vec<_> = begun
            .iter()
            .filter(|(_, (_, since))| old(since))
            .map(|((tenant, task), (attempt, _))| (*tenant, *task, *attempt))
            .collect();
        for (tenant, task, _) in &running {
            begun.remove(&(*tenant, *task));
        }
        running
    }
}

/// Has what is still running written down, until it is stopped.
pub(crate) async fn record(hatchet: Hatchet) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (tenant, task, attempt) in hatchet.acks().running() {
            let claim = Claim { worker: None, task, attempt, invocation: None };
            // Refused if it has ended meanwhile. If it can't be recorded now, it counts as not begun, which is safe.
            hatchet.engine().submit_with(tenant, Command::Acknowledge { claim }, Box::new(|_| {}));
        }
    }
}
