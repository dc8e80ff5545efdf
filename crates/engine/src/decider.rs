//! Decides submissions, one batch at a time, without threads or clocks: whoever drives it hands both in.

use std::time::Duration;

use mainspring_core::write::Out;
use mainspring_core::{Command, Core, Effect, Facts, Moment, Need, PayloadId, Refusal, Reply, TenantId};

use crate::partition::EngineError;
use crate::world::{PartitionClock, World};

/// What a submitter is told: the reply and the log position from which it holds.
pub type Answer = Result<(Reply, u64), EngineError>;

/// Where an answer goes.
pub type Respond = Box<dyn FnOnce(Answer) + Send>;

/// A command on its way to be decided.
pub struct Submission {
    /// Whose.
    pub tenant: TenantId,
    /// What is asked.
    pub command: Command,
    /// Facts loaded for it so far.
    pub facts: Facts,
    /// When the first of them was asked for.
    pub asked_at: Option<u64>,
    /// Who wants to know.
    pub respond: Respond,
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission")
            .field("tenant", &self.tenant)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// Decisions waiting to be made durable together.
#[derive(Default)]
pub struct DecidedBatch {
    /// The encoded writes. Empty if nothing changed.
    pub writes: Vec<u8>,
    /// Commands decided in it.
    pub commands: usize,
    /// Effects to release once it is durable, in order.
    pub effects: Vec<Effect>,
    /// Payloads that came with it.
    pub payloads: Vec<(TenantId, PayloadId, bytes::Bytes)>,
    /// Answers to give once it is durable, in order.
    pub answers: Vec<(Respond, Result<Reply, Refusal>)>,
    /// Submissions that need a fact, which can be read once this batch is durable.
    pub lookups: Vec<(Submission, Vec<Need>)>,
}

impl std::fmt::Debug for DecidedBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DecidedBatch")
            .field("bytes", &self.writes.len())
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}

impl DecidedBatch {
    /// Whether there is nothing to do for it.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.answers.is_empty() && self.lookups.is_empty() && self.effects.is_empty()
    }
}

/// A core with the batch it is filling.
#[derive(Debug)]
pub struct Decider {
    core: Core,
    clock: PartitionClock,
    out: Out,
    seed: u128,
    decided: u64,
    batch: DecidedBatch,
}

impl Decider {
    /// Starts with a recovered core. `seed` is the only chance there is; the same seed and submissions give the same
    /// decisions.
    pub fn new(core: Core, seed: u128, world: &dyn World) -> Self {
        let clock = PartitionClock::new(core.now(), world);
        Decider { core, clock, out: Out::new(), seed, decided: 0, batch: DecidedBatch::default() }
    }

    /// The time to decide with.
    pub fn now(&mut self, world: &dyn World) -> u64 {
        self.clock.now(world)
    }

    /// The core being driven.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Releases what was owed when the last process ended. Called once, first.
    pub fn resume(&mut self, now: u64) {
        let moment = self.moment(now);
        self.core.resume(moment, &mut self.out);
    }

    /// Decides one submission into the current batch.
    pub fn decide(&mut self, now: u64, mut submission: Submission) {
        let fact_age_ms_max = self.core.limits().fact_age_ms_max;
        if submission.asked_at.is_some_and(|asked| now.saturating_sub(asked) > fact_age_ms_max) {
            // What was written since may be forgotten again by now, and the facts would pass for the present.
            submission.facts.clear();
            submission.asked_at = None;
        }
        let mut needs = self.core.needs(submission.tenant, &submission.command);
        needs.retain(|need| !submission.facts.contains_key(need));
        if !needs.is_empty() {
            submission.asked_at.get_or_insert(now);
            self.batch.lookups.push((submission, needs));
            return;
        }
        let moment = self.moment(now);
        let Submission { tenant, command, facts, respond, asked_at: _ } = submission;
        let answer = self.core.handle(moment, tenant, command, &facts, &mut self.out);
        self.batch.commands += 1;
        self.batch.answers.push((respond, answer));
    }

    /// Fires timers that are due.
    pub fn tick(&mut self, now: u64) {
        let moment = self.moment(now);
        self.core.tick(moment, &mut self.out);
        self.batch.commands += 1;
    }

    /// Whether timers are due.
    pub fn tick_due(&self, now: u64) -> bool {
        self.core.next_due().is_some_and(|due| due <= now)
    }

    /// How long to wait for submissions before looking at the clock again. Never very long: a clock that was set forward
    /// makes timers due that were far away when the wait began.
    pub fn wait(&self, now: u64) -> Duration {
        const LOOK_AT_CLOCK_EVERY_MS: u64 = 1_000;
        let due = self.core.next_due().map_or(u64::MAX, |due| due.saturating_sub(now));
        Duration::from_millis(due.clamp(1, LOOK_AT_CLOCK_EVERY_MS))
    }

    /// Bytes in the current batch.
    pub fn batch_bytes(&self) -> usize {
        self.out.writes().len()
    }

    /// Commands in the current batch.
    pub fn batch_commands(&self) -> usize {
        self.batch.commands
    }

    /// Closes the current batch and begins the next.
    pub fn take_batch(&mut self) -> DecidedBatch {
        self.core.close_batch(&mut self.out);
        let decided = self.out.take();
        let mut batch = std::mem::take(&mut self.batch);
        batch.writes = decided.writes;
        batch.effects = decided.effects;
        batch.payloads = decided.payloads;
        batch
    }

    /// Whether the current batch holds anything.
    pub fn has_work(&self) -> bool {
        self.out.op_count() > 0
            || self.out.effect_count() > 0
            || !self.batch.answers.is_empty()
            || !self.batch.lookups.is_empty()
    }

    fn moment(&mut self, now: u64) -> Moment {
        self.decided += 1;
        let high = mainspring_core::id::mix(self.decided ^ (self.seed >> 64) as u64);
        let low = mainspring_core::id::mix(self.decided.wrapping_add(self.seed as u64));
        Moment { now, seed: (u128::from(high) << 64) | u128::from(low) }
    }
}
