//! A core with its tables and its connected workers: what a process is, less everything slow.

use std::collections::BTreeMap;

use mainspring_core::command::{Claim, Facts, Held};
use mainspring_core::id::{Ms, TenantId, WorkerId, mix};
use mainspring_core::journal::Request;
use mainspring_core::limit::Limits;
use mainspring_core::row::{MetaRow, TaskRow, TaskState, WorkerRow};
use mainspring_core::write::Table;
use mainspring_core::{Command, Core, Effect, Moment, NewWorker, Out, Refusal, Reply};

use super::check;
use super::inside;
use super::tables::{Tables, task_of, tenant_of};

/// What one command led to.
#[derive(Debug)]
pub struct Decision {
    /// The answer.
    pub answer: Result<Reply, Refusal>,
    /// The batch.
    pub writes: Vec<u8>,
    /// What the world must do.
    pub effects: Vec<Effect>,
}

/// A worker as its process knows itself.
#[derive(Debug, Clone)]
pub struct Announced {
    pub new: NewWorker,
    pub local: bool,
    pub lease_ms: Option<u64>,
    pub lease_until: Option<Ms>,
}

/// The core, what it wrote, and who is connected to it.
pub struct World {
    pub core: Core,
    pub tables: Tables,
    pub now: Ms,
    pub workers: BTreeMap<(TenantId, WorkerId), Announced>,
    pub limits: Limits,
    /// Until when workers may come back after the last restart.
    grace_until: Ms,
    seed: u64,
    decided: u64,
}

impl World {
    /// An empty world. The same seed and commands give the same decisions.
    pub fn new(limits: Limits, seed: u64) -> Self {
        World {
            core: Core::new(limits),
            tables: Tables::default(),
            now: 0,
            workers: BTreeMap::new(),
            limits,
            grace_until: 0,
            seed,
            decided: 0,
        }
    }

    fn moment(&mut self) -> Moment {
        self.decided += 1;
        let (high, low) = (mix(self.seed ^ self.decided.rotate_left(17)), mix(self.seed.wrapping_add(self.decided)));
        Moment { now: self.now, seed: (u128::from(high) << 64) | u128::from(low) }
    }

    fn commit(&mut self, answer: Result<Reply, Refusal>, mut out: Out) -> Decision {
        self.core.close_batch(&mut out);
        let decided = out.take();
        if answer.is_err() {
            assert!(decided.writes.is_empty() && decided.effects.is_empty(), "a refusal does nothing: {answer:?}");
        }
        self.tables.apply(&decided.writes);
        if !decided.writes.is_empty() {
            let meta: Option<MetaRow> = self.tables.get(Table::Meta, b"partition");
            // Without a row, a restart begins at 0.
            let recorded = meta.unwrap_or_default().now;
            assert!(recorded >= self.now, "a restart would decide at {recorded}, before {}", self.now);
        }
        Decision { answer, writes: decided.writes, effects: decided.effects }
    }

    /// Has a command decided, with the facts it needs, and its batch applied.
    pub fn submit(&mut self, tenant: TenantId, command: Command) -> Decision {
        self.submit_with(tenant, command, Facts::new())
    }

    /// Has a command decided with facts that were loaded before; what is not among them is loaded now.
    pub fn submit_with(&mut self, tenant: TenantId, command: Command, loaded: Facts) -> Decision {
        let mut facts = self.tables.facts(&self.core, tenant, &command);
        facts.extend(loaded);
        let mut out = Out::new();
        let moment = self.moment();
        let answer = self.core.handle(moment, tenant, command.clone(), &facts, &mut out);
        let decision = self.commit(answer, out);
        if decision.answer.is_ok() {
            self.note(tenant, &command);
        }
        decision
    }

    /// Keeps the workers' own view of whether they are connected.
    fn note(&mut self, tenant: TenantId, command: &Command) {
        // By the core's time: a clock that was set back makes no lease shorter.
        let now = self.core.now();
        match command {
            Command::RegisterWorker { worker, new, local, lease_ms, .. } => {
                let announced = Announced {
                    new: new.clone(),
                    local: *local,
                    lease_ms: *lease_ms,
                    lease_until: lease_ms.map(|lease| now.saturating_add(lease)),
                };
                self.workers.insert((tenant, *worker), announced);
            }
            Command::HeartbeatWorker { worker } => {
                if let Some(known) = self.workers.get_mut(&(tenant, *worker)) {
                    known.lease_until = known.lease_ms.map(|lease| now.saturating_add(lease));
                }
            }
            Command::RemoveWorker { worker } => {
                self.workers.remove(&(tenant, *worker));
            }
            _ => {}
        }
    }

    /// Fires all timers that are due.
    pub fn tick(&mut self) -> Decision {
        let mut out = Out::new();
        for _ in 0..1_000 {
            if self.core.next_due().is_none_or(|due| due > self.now) {
                break;
            }
            let moment = self.moment();
            self.core.tick(moment, &mut out);
        }
        assert!(self.core.next_due().is_none_or(|due| due > self.now), "timers do not come to an end");
        let now = self.core.now();
        self.workers.retain(|_, worker| worker.lease_until.is_none_or(|until| until > now));
        self.commit(Ok(Reply::Done), out)
    }

    /// The process ends and another begins from the rows; no worker is connected to it.
    pub fn crash(&mut self) -> Decision {
        self.core = self.tables.recover(self.limits);
        self.grace_until = self.now + self.limits.worker_grace_ms + 1;
        let mut out = Out::new();
        let moment = self.moment();
        self.core.resume(moment, &mut out);
        self.commit(Ok(Reply::Done), out)
    }

    /// What a worker has in hand, as the rows say.
    pub fn held_by(&self, tenant: TenantId, worker: WorkerId) -> Vec<Held> {
        let tasks = self.tables.all::<TaskRow>(Table::Task).filter(|(key, _)| tenant_of(key) == tenant);
        tasks
            .filter(|(_, task)| matches!(task.state, TaskState::Running { worker: holder, .. } if holder == worker))
            .map(|(key, task)| Held { task: task_of(key), invocation: task.invocation })
            .collect()
    }

    /// Announces a connected worker again, under what is left of its lease, with all it has in hand.
    pub fn announce_again(&mut self, tenant: TenantId, worker: WorkerId) -> Decision {
        let known = self.workers[&(tenant, worker)].clone();
        let command = Command::RegisterWorker {
            worker,
            new: known.new.clone(),
            local: known.local,
            lease_ms: known.lease_until.map(|until| until.saturating_sub(self.now)),
            holds: self.held_by(tenant, worker),
        };
        let decision = self.submit(tenant, command);
        // The worker's own idea of its lease is not changed by a restart.
        self.workers.insert((tenant, worker), known);
        decision
    }

    /// Enrolled workers that are connected.
    pub fn connected(&self) -> Vec<(TenantId, WorkerId)> {
        let parse = |(tenant, worker): (String, String)| Some((tenant.parse().ok()?, worker.parse().ok()?));
        inside::connected(&self.core).into_iter().filter_map(parse).collect()
    }

    /// A pending entry must not be loaded, as it could complete meanwhile; a complete one must be.
    fn check_needs(&self) {
        for (key, task) in self.tables.tasks() {
            let TaskState::Running { worker, .. } = task.state else { continue };
            let (tenant, id) = (tenant_of(key), task_of(key));
            let (worker, invocation) = (Some(worker), Some(task.invocation));
            let claim = Claim { worker, task: id, attempt: task.attempt, invocation };
            for position in 0..task.journal_len {
                let command = Command::Journal { claim, position, before: Vec::new(), request: Request::Peek };
                let needed = !self.core.needs(tenant, &command).is_empty();
                assert_eq!(needed, !task.pending.contains_key(&position), "{id}.{position} is needed wrongly");
            }
        }
    }

    /// Checks every law there is.
    pub fn check(&self) {
        check::check_rows(&self.tables);
        check::check_inside(&self.core, &self.tables);
        let leases = self.workers.values().any(|worker| worker.lease_until.is_some());
        let leases = leases || self.tables.all::<WorkerRow>(Table::Worker).next().is_some();
        let leases = leases || inside::awaits_refill(&self.core) || inside::has_marks(&self.core);
        self.check_needs();
        let grace = self.now <= self.grace_until;
        check::check_recovered(&self.core, &self.tables.recover(self.limits), leases || grace);
    }
}
