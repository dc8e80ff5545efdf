//! A process: its engine, and for each partition the steps the engine takes, with time passing between them and an end
//! possible at each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainspring_engine::{DecidedBatch, Driven, DurableBatch, Engine, Written};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::disk::Crash;
use crate::host::Host;
use crate::sim::Sim;

/// One process.
pub struct Process {
    /// Its number, counted from 1.
    pub number: u64,
    /// The version of the code it runs.
    pub code: u64,
    /// Its engine.
    pub engine: Engine,
    /// Whether it has ended.
    pub ended: Ended,
}

/// Whether something has ended. Not a watch channel, because that wakes those who wait in random order.
#[derive(Debug, Default)]
pub struct Ended {
    flag: AtomicBool,
    told: Notify,
}

impl Ended {
    /// Ends it. Answers whether it had ended before.
    pub fn set(&self) -> bool {
        let before = self.flag.swap(true, Ordering::Relaxed);
        self.told.notify_waiters();
        before
    }

    /// Whether it has ended.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Waits until it ends.
    pub async fn wait(&self) {
        let told = self.told.notified();
        if !self.is_set() {
            told.await;
        }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Process {
    /// Whether it has ended: nothing it still does reaches anybody.
    pub fn has_ended(&self) -> bool {
        self.ended.is_set()
    }
}

/// What a partition is in the middle of.
enum Writing {
    Nothing,
    /// A batch reaches the disk at this time.
    Append(DecidedBatch, Instant),
    /// It is asked at this time what became of a batch.
    Settle(Instant),
    /// A durable batch is let out at this time.
    Release(DurableBatch, Instant),
    /// The log takes no more.
    Stopped,
}

/// Moves one partition of a process until the process ends.
pub async fn run(host: Host, process: Arc<Process>, partition: usize, mut driven: Driven) {
    let sim = host.sim().clone();
    let mut chance = sim.fork();
    let mut writing = Writing::Nothing;
    let (mut load_at, mut apply_at): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        if host.ground().take_died(process.number) {
            sim.sometimes("a process ended in the middle of a write");
            let power = chance.permille(sim.plan().power_lost);
            host.crash(&process, if power { Crash::PowerLost } else { Crash::Killed });
        }
        if process.has_ended() || sim.has_failed() {
            driven.abandon();
            return;
        }
        let now = Instant::now();
        let soon = |chance: &mut Chance, ms: u64| now + Duration::from_millis(chance.below(ms + 1));

        if driven.wants_to_decide() {
            driven.decide();
        }
        writing = match std::mem::replace(&mut writing, Writing::Nothing) {
            Writing::Nothing if driven.wants_to_append() => {
                let batch = driven.take_batch();
                let at = soon(&mut chance, sim.plan().disk_ms);
                Writing::Append(batch, at)
            }
            Writing::Append(batch, at) if at <= now => {
                if dies(&host, &process, &mut chance, "a process ended before an append") {
                    continue;
                }
                let written = driven.append(batch);
                match after(written, &mut chance, now, &sim) {
                    Writing::Release(durable, at) => {
                        if dies(&host, &process, &mut chance, "a process ended between an append and its answers") {
                            continue;
                        }
                        Writing::Release(durable, at)
                    }
                    other => other,
                }
            }
            Writing::Settle(at) if at <= now => {
                let written = driven.settle();
                after(written, &mut chance, now, &sim)
            }
            Writing::Release(durable, at) if at <= now => {
                driven.release(durable);
                if dies(&host, &process, &mut chance, "a process ended after answers went out") {
                    continue;
                }
                Writing::Nothing
            }
            other => other,
        };
        if matches!(writing, Writing::Nothing) && driven.wants_to_append() {
            continue;
        }
        if driven.wants_to_load() && load_at.is_none() {
            load_at = Some(soon(&mut chance, sim.plan().load_ms));
        }
        if load_at.is_some_and(|at| at <= now) {
            load_at = None;
            driven.load();
            continue;
        }
        if driven.wants_to_apply() && apply_at.is_none() {
            apply_at = Some(soon(&mut chance, sim.plan().apply_ms));
        }
        if apply_at.is_some_and(|at| at <= now) {
            apply_at = None;
            driven.apply();
            if dies(&host, &process, &mut chance, "a process ended between tables and checkpoint") {
                continue;
            }
            if chance.permille(sim.plan().checkpoint) {
                driven.checkpoint();
            }
        }
        let written_at = match &writing {
            Writing::Append(_, at) | Writing::Settle(at) | Writing::Release(_, at) => Some(*at),
            Writing::Nothing | Writing::Stopped => None,
        };
        let latest = now + driven.wait();
        let wake = [written_at, load_at, apply_at].into_iter().flatten().fold(latest, Instant::min);
        tokio::select! {
            biased;
            () = process.ended.wait() => {}
            () = process.engine.submitted(partition).notified() => {}
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// Whether the process ends here.
fn dies(host: &Host, process: &Arc<Process>, chance: &mut Chance, what: &'static str) -> bool {
    let plan = host.sim().plan();
    let dies = chance.permille(plan.crash_at_step);
    if dies {
        host.sim().sometimes(what);
        let power = chance.permille(plan.power_lost);
        host.crash(process, if power { Crash::PowerLost } else { Crash::Killed });
    }
    dies
}

fn after(written: Written, chance: &mut Chance, now: Instant, sim: &Sim) -> Writing {
    match written {
        Written::Durable(durable) => Writing::Release(durable, now + Duration::from_millis(chance.below(2))),
        Written::Unknown => Writing::Settle(now + Duration::from_millis(chance.below(100))),
        Written::Stopped => {
            sim.sometimes("a partition stopped because its log could not be written");
            Writing::Stopped
        }
    }
}
