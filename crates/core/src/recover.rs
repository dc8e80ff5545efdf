//! Recovery: live rows and the log's tail become a core again, and what was owed is owed again.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::effect::Effect;
use crate::id::{MessageId, RunId, TaskId, TenantId, TokenId, VersionId, WorkerId, mix};
use crate::inbox::Inbox;
use crate::journal::{Pending, PendingKind};
use crate::key::waiting_spot;
use crate::limit::Limits;
use crate::machine::{Core, Moment};
use crate::rate::Rate;
use crate::row::{
    self, BadRow, ChildRow, IdempotencyRow, InboxRow, MessageRow, MessageState, MetaRow, RateRow, Row, RunRow,
    RunState, StreamGroupRow, StreamPartRow, StreamProgressRow, StreamRow, TaskRow, TaskState, TenantRow, TokenRow,
    WorkerRow, WorkflowRow,
};
use crate::run::Run;
use crate::stream::{Group, Stream};
use crate::task::{spot_of, wants_of};
use crate::tenant::{EventWaits, Tenant};
use crate::timer::{TimerKey, Timers};
use crate::worker::Worker;
use crate::write::{Op, Out, Table};

/// Rows of one table, in key order.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Rows that do not make a core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// A row that can't be read.
    #[error("a row of table {table:?} can't be read: {cause}")]
    Row {
        /// Which table.
        table: Table,
        /// Why.
        cause: BadRow,
    },
    /// Rows that contradict each other.
    #[error("the rows contradict each other ({what}): the store is damaged, restore it from a backup")]
    Inconsistent {
        /// What is wrong.
        what: String,
    },
}

/// Makes a core of rows: first it is told what the log's tail says, as that is later, then what the tables hold.
///
/// Rows become a core as they come, and runs that wait are packed at once, so that a restart needs little more memory
/// than the core that comes of it.
#[derive(Debug)]
pub struct Recovery {
    core: Core,
    /// The tail's last word about each row, `None` for one it deletes.
    tail: BTreeMap<Table, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    /// Runs whose tasks have not all come.
    coming: BTreeMap<(TenantId, RunId), Coming>,
    /// Children by the runs that spawned them.
    children: Vec<(TenantId, RunId, RunId)>,
    /// Rows that are read once all runs are there.
    others: BTreeMap<Table, Rows>,
}

/// A run that waits for its tasks, as it was recorded.
#[derive(Debug)]
struct Coming {
    row: Box<[u8]>,
    of_tasks: u16,
    tasks: Vec<TaskRow>,
}

impl Recovery {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Self {
        Recovery {
            core: Core::new(limits),
            tail: BTreeMap::new(),
            coming: BTreeMap::new(),
            children: Vec::new(),
            others: BTreeMap::new(),
        }
    }

    /// Whether a core needs rows of this table to come back.
    pub fn wants(table: Table) -> bool {
        match table {
            Table::Meta
            | Table::Tenant
            | Table::Workflow
            | Table::Run
            | Table::Task
            | Table::Message
            | Table::Inbox
            | Table::Idempotency
            | Table::Token
            | Table::Worker
            | Table::Rate
            | Table::Child
            | Table::Stream
            | Table::StreamPart
            | Table::StreamGroup
            | Table::StreamProgress
            | Table::Pending => true,
            Table::Journal | Table::Event | Table::Payload | Table::Log | Table::Document | Table::Revision => false,
            Table::StreamEntry | Table::StreamEntryId => false,
        }
    }

    /// Takes one put or delete of the log's tail, oldest first. Rows of tables a core does not need are ignored.
    pub fn later(&mut self, op: Op<'_>) {
        if Recovery::wants(op.table) {
            self.tail.entry(op.table).or_default().insert(op.key.to_vec(), op.body.map(<[u8]>::to_vec));
        }
    }

    /// Takes one row that the tables hold, once the tail is there: table by table in the order of their numbers, each in
    /// the order of its keys.
    ///
    /// # Errors
    /// [`RecoverError`] names the table or the contradiction.
    pub fn row(&mut self, table: Table, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
        if !Recovery::wants(table) {
            return Ok(());
        }
        match self.tail.get_mut(&table).and_then(|rows| rows.remove(key)) {
            Some(Some(later)) => self.load(table, key, &later),
            Some(None) => Ok(()),
            None => self.load(table, key, body),
        }
    }

    fn load(&mut self, table: Table, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
        match table {
            Table::Meta => {
                self.core.meta = read::<MetaRow>(table, body)?;
                self.core.recorded_now = self.core.meta.now;
            }
            Table::Tenant => {
                self.core.tenants.entry(tenant_of(key)?).or_default().row = Some(read::<TenantRow>(table, body)?);
            }
            Table::Workflow => load_workflow(&mut self.core, key, body)?,
            Table::Run => self.load_run(key, body)?,
            Table::Task => self.load_task(key, body)?,
            _ => {
                self.others.entry(table).or_default().insert(key.to_vec(), body.to_vec());
            }
        }
        Ok(())
    }

    fn load_run(&mut self, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
        let row = read::<RunRow>(Table::Run, body)?;
        if row.state.ended() {
            return Ok(());
        }
        let id = (tenant_of(key)?, RunId(second(key)?));
        if let Some(parent) = row.parent {
            self.children.push((id.0, parent.task.run, id.1));
        }
        self.coming.insert(id, Coming { row: body.into(), of_tasks: row.tasks, tasks: Vec::new() });
        Ok(())
    }

    fn load_task(&mut self, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
        let task = row::key::task_of(key).ok_or_else(|| inconsistent("a task's key"))?;
        let id = (tenant_of(key)?, task.run);
        let Some(run) = self.coming.get_mut(&id) else { return Ok(()) };
        // Rows come in key order, so a run's tasks come in the order of their index.
        if run.tasks.len() != usize::from(task.index) {
            return Err(inconsistent("a run with a missing task"));
        }
        run.tasks.reserve_exact(usize::from(run.of_tasks).saturating_sub(run.tasks.len()));
        run.tasks.push(read::<TaskRow>(Table::Task, body)?);
        if run.tasks.len() < usize::from(run.of_tasks) {
            return Ok(());
        }
        let Some(Coming { row, tasks, .. }) = self.coming.remove(&id) else { return Ok(()) };
        let row = read::<RunRow>(Table::Run, &row)?;
        let Core { tenants, timers, limits, .. } = &mut self.core;
        let tenant = tenants.entry(id.0).or_default();
        let def =
            tenant.versions.get(&row.version).cloned().ok_or_else(|| inconsistent("a run without its version"))?;
        let run = Run::new(row, def, tasks);
        derive_run(tenant, timers, id.0, id.1, &run);
        tenant.runs.insert(id.1, run);
        tenant.runs.rest(core::iter::once(id.1), limits.runs_awake_max);
        Ok(())
    }

    /// Builds the core. Call [`Core::resume`] before anything else is decided.
    ///
    /// # Errors
    /// [`RecoverError`] names the table or the contradiction.
    pub fn finish(mut self) -> Result<Core, RecoverError> {
        for (table, rows) in core::mem::take(&mut self.tail) {
            for (key, body) in rows {
                if let Some(body) = body {
                    self.load(table, &key, &body)?;
                }
            }
        }
        let Recovery { mut core, coming, children, others: mut rows, .. } = self;
        if !coming.is_empty() {
            return Err(inconsistent("a run with a missing task"));
        }
        let mut take = |table: Table| rows.remove(&table).unwrap_or_default();
        for (key, body) in take(Table::Pending) {
            load_pending(&mut core, &key, &body)?;
        }
        for (key, body) in take(Table::Child) {
            load_child(&mut core, &key, &body)?;
        }
        for (tenant, parent, child) in children {
            let awake_max = core.limits.runs_awake_max;
            let Some(runs) = core.tenants.get_mut(&tenant).map(|tenant| &mut tenant.runs) else { continue };
            if let Some(run) = runs.get_mut(&parent) {
                run.children.insert(child);
            }
            runs.rest(core::iter::empty(), awake_max);
        }
        for (key, body) in take(Table::Worker) {
            // What it has in hand is known from its tasks.
            let (id, row) = (WorkerId(second(&key)?), read::<WorkerRow>(Table::Worker, &body)?);
            let workers = &mut core.tenants.entry(tenant_of(&key)?).or_default().workers;
            let Worker { running, taken, local, .. } = workers.remove(id).unwrap_or_default();
            workers.insert(id, Worker { running, taken, local, ..Worker::enrolled(row) });
        }
        for (key, body) in take(Table::Rate) {
            let name = row::key::rate_of(&key).ok_or_else(|| inconsistent("a rate limit's key"))?;
            let rate = Rate { row: read::<RateRow>(Table::Rate, &body)?, waiting: BTreeSet::new() };
            core.tenants.entry(tenant_of(&key)?).or_default().rates.insert(name.into(), rate);
        }
        for (key, body) in take(Table::Inbox) {
            load_inbox(&mut core, &key, &body)?;
        }
        for (key, body) in take(Table::Message) {
            load_message(&mut core, &key, &body)?;
        }
        for (key, body) in take(Table::Idempotency) {
            let name = row::key::idempotency_of(&key).ok_or_else(|| inconsistent("an idempotency key's key"))?;
            let row = read::<IdempotencyRow>(Table::Idempotency, &body)?;
            core.tenants.entry(tenant_of(&key)?).or_default().idempotency.insert(name.into(), row);
        }
        for (key, body) in take(Table::Token) {
            let id = TokenId(second(&key)?);
            let row = read::<TokenRow>(Table::Token, &body)?;
            if row.expires_at > core.meta.now {
                core.tenants.entry(tenant_of(&key)?).or_default().tokens.insert(id, row);
            }
        }
        let [streams, parts, groups, progress] =
            [Table::Stream, Table::StreamPart, Table::StreamGroup, Table::StreamProgress].map(&mut take);
        load_streams(&mut core, streams, parts, groups, progress)?;
        set_expiries(&mut core);
        Ok(core)
    }
}

impl Core {
    /// Releases what was owed when the process ended: attempts of workers that lived in it are tried again, other
    /// workers get a grace time to come back, and verdicts that were not given are asked for again.
    pub fn resume(&mut self, moment: Moment, out: &mut Out) {
        // Ids minted in this millisecond before the restart must stay before those minted after it.
        self.advance(moment.now.max(self.meta.now.saturating_add(1)));
        let grace_until = self.meta.now.saturating_add(self.limits.worker_grace_ms);
        let tenants: Vec<TenantId> = self.tenants.keys().copied().collect();
        for (nth, tenant) in tenants.into_iter().enumerate() {
            let seed = moment.seed ^ u128::from(mix(nth as u64));
            let Some(mut step) = self.step(Moment { now: moment.now, seed }, tenant, out) else { continue };
            let mut lost = Vec::new();
            let workers: Vec<WorkerId> = step.t.workers.keys().copied().collect();
            for worker in workers {
                if step.t.workers.get(&worker).is_some_and(|known| known.local) {
                    lost.extend(step.t.workers.remove(worker).into_iter().flat_map(|known| known.running));
                    continue;
                }
                let (now, forget_ms) = (step.now, step.limits.worker_forget_ms);
                let until = step.t.workers.change(worker, |known| {
                    known.away_since = Some(now);
                    // An enrolled worker with nothing in hand is only remembered.
                    let idle = known.running.is_empty() && known.row.is_some();
                    let lease = if idle { forget_ms } else { known.lease_ms.unwrap_or(0) };
                    let until = grace_until.max(now.saturating_add(lease));
                    known.lease_until = Some(until);
                    known.given_up = idle;
                    until
                });
                if let Some(until) = until {
                    step.timers.set(until, tenant, TimerKey::WorkerLease(worker));
                }
            }
            for (&run, live) in step.t.runs.awake() {
                let judged =
                    live.tasks.iter().enumerate().filter(|(_, task)| matches!(task.state, TaskState::Judged { .. }));
                for (index, _) in judged {
                    step.out.effect(Effect::Judge { tenant, task: TaskId { run, index: index as u16 } });
                }
            }
            for task in lost {
                step.lose(task, "the process that ran it ended");
            }
            step.settle();
        }
    }
}

fn inconsistent(what: &str) -> RecoverError {
    RecoverError::Inconsistent { what: what.to_string() }
}

fn read<T: Row>(table: Table, body: &[u8]) -> Result<T, RecoverError> {
    row::decode(body).map_err(|cause| RecoverError::Row { table, cause })
}

fn tenant_of(key: &[u8]) -> Result<TenantId, RecoverError> {
    row::key::tenant_of(key).ok_or_else(|| inconsistent("a key too short for a tenant"))
}

fn second(key: &[u8]) -> Result<u128, RecoverError> {
    row::key::second(key).ok_or_else(|| inconsistent("a key too short for an id"))
}

fn load_workflow(core: &mut Core, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
    let version = VersionId(second(key)?);
    let row = read::<WorkflowRow>(Table::Workflow, body)?;
    let tenant = core.tenants.entry(tenant_of(key)?).or_default();
    if row.current {
        tenant.current.insert(row.def.name.clone(), version);
    }
    tenant.created.insert(version, row.created_at);
    tenant.versions.insert(version, Arc::new(row.def));
    Ok(())
}

fn load_pending(core: &mut Core, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
    let bad = || inconsistent("a pending entry without its task");
    let (id, position) = (row::key::task_of(key).ok_or_else(bad)?, row::key::position_of(key).ok_or_else(bad)?);
    let pending = Pending { apart: true, ..read::<Pending>(Table::Pending, body)? };
    let (tenant_id, Core { tenants, timers, .. }) = (tenant_of(key)?, core);
    let tenant = tenants.get_mut(&tenant_id).ok_or_else(bad)?;
    derive_pending(&mut tenant.event_waits, timers, tenant_id, (id, position), &pending);
    tenant.task_mut(id).ok_or_else(bad)?.pending.insert(position, pending);
    Ok(())
}

fn load_child(core: &mut Core, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
    let task = row::key::task_of(key).ok_or_else(|| inconsistent("a child's key"))?;
    let tenant = core.tenants.entry(tenant_of(key)?).or_default();
    if let Some(run) = tenant.runs.get_mut(&task.run) {
        let row = read::<ChildRow>(Table::Child, body)?;
        run.named.insert((task.index, row.name), row.run);
    }
    Ok(())
}

fn load_inbox(core: &mut Core, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
    let (workflow, name) = row::key::inbox_of(key).ok_or_else(|| inconsistent("an inbox's key"))?;
    let inbox =
        Inbox { row: read::<InboxRow>(Table::Inbox, body)?, unread: BTreeMap::new(), received: BTreeMap::new() };
    let tenant = core.tenants.entry(tenant_of(key)?).or_default();
    for group in &inbox.row.groups {
        *tenant.groups.entry(group.clone()).or_default() += 1;
    }
    tenant.inboxes.insert((workflow.into(), name.into()), inbox);
    Ok(())
}

fn load_message(core: &mut Core, key: &[u8], body: &[u8]) -> Result<(), RecoverError> {
    let id = MessageId(second(key)?);
    let row = read::<MessageRow>(Table::Message, body)?;
    let tenant = core.tenants.entry(tenant_of(key)?).or_default();
    let place = (row.workflow.clone(), row.key.clone());
    if matches!(row.state, MessageState::Done { .. }) {
        return Ok(());
    }
    let inbox = tenant.inboxes.get_mut(&place).ok_or_else(|| inconsistent("a message without its inbox"))?;
    let side = if row.state == MessageState::Unread { &mut inbox.unread } else { &mut inbox.received };
    side.insert(row.seq, (id, row));
    Ok(())
}

fn load_streams(core: &mut Core, streams: Rows, parts: Rows, groups: Rows, progress: Rows) -> Result<(), RecoverError> {
    let mut names: BTreeMap<(TenantId, u32), String> = BTreeMap::new();
    for (key, body) in streams {
        let name = row::key::stream_of(&key).ok_or_else(|| inconsistent("a stream's key"))?;
        let row = read::<StreamRow>(Table::Stream, &body)?;
        let tenant = tenant_of(&key)?;
        names.insert((tenant, row.number), name.into());
        let stream = Stream { row, parts: BTreeMap::new(), groups: BTreeMap::new() };
        core.tenants.entry(tenant).or_default().streams.insert(name.into(), stream);
    }
    for (key, body) in parts {
        let part = row::key::stream_part_of(&key).ok_or_else(|| inconsistent("the key of a stream's partition"))?;
        let row = read::<StreamPartRow>(Table::StreamPart, &body)?;
        stream_mut(core, &names, &key)?.parts.insert(part, row);
    }
    for (key, body) in groups {
        let name = row::key::stream_group_of(&key).ok_or_else(|| inconsistent("the key of a stream's group"))?;
        let group = Group { row: read::<StreamGroupRow>(Table::StreamGroup, &body)?, progress: BTreeMap::new() };
        stream_mut(core, &names, &key)?.groups.insert(name.into(), group);
    }
    for (key, body) in progress {
        let bad = || inconsistent("the key of a group's progress");
        let name = row::key::stream_progress_of(&key).ok_or_else(bad)?;
        let (_, partition) = row::key::stream_part_of(&key).ok_or_else(bad)?;
        let row = read::<StreamProgressRow>(Table::StreamProgress, &body)?;
        let group = stream_mut(core, &names, &key)?.groups.get_mut(name);
        group.ok_or_else(|| inconsistent("a progress without its group"))?.progress.insert(partition, row);
    }
    Ok(())
}

/// The stream in whose number a row lies.
fn stream_mut<'c>(
    core: &'c mut Core,
    names: &BTreeMap<(TenantId, u32), String>,
    key: &[u8],
) -> Result<&'c mut Stream, RecoverError> {
    let none = || inconsistent("a row of a stream that is not there");
    let tenant = tenant_of(key)?;
    let number = row::key::stream_number_of(key).ok_or_else(none)?;
    let name = names.get(&(tenant, number)).ok_or_else(none)?;
    core.tenants.get_mut(&tenant).and_then(|tenant| tenant.streams.get_mut(name)).ok_or_else(none)
}

/// Fills in what follows from a run and its tasks: queues, keys, workers' hands, waits, timers.
fn derive_run(tenant: &mut Tenant, timers: &mut Timers, tenant_id: TenantId, run_id: RunId, run: &Run) {
    if let (Some(_), Some(key)) = (run.def.key, &run.row.key) {
        let queue = tenant.keys.entry((run.def.name.clone(), key.clone())).or_default();
        match run.row.state {
            RunState::Queued => {
                queue.waiting.insert(waiting_spot(run_id, &run.row));
            }
            _ => {
                queue.live.insert(run_id);
            }
        }
    }
    for (index, task) in run.tasks.iter().enumerate() {
        let id = TaskId { run: run_id, index: index as u16 };
        let def = &run.def.tasks[index];
        match &task.state {
            TaskState::Queued { since } => {
                let (spot, wants) = (spot_of(run, id, *since), Arc::new(wants_of(run, id.index)));
                let lines = tenant.queues.entry(def.action.clone()).or_default();
                lines.entry(wants).or_default().insert(spot);
                if let Some(timeout) = def.schedule_timeout_ms {
                    timers.set(since.saturating_add(timeout), tenant_id, TimerKey::ScheduleTimeout(id));
                }
            }
            TaskState::Running { worker, local, deadline, .. } => {
                if !tenant.workers.contains_key(worker) {
                    tenant.workers.insert(*worker, Worker::default());
                }
                tenant.workers.change(*worker, |known| {
                    known.local = *local;
                    if task.slots_released {
                        known.running.insert(id);
                    } else {
                        known.take(id, &def.slots);
                    }
                });
                if let Some(deadline) = deadline {
                    timers.set(*deadline, tenant_id, TimerKey::ExecutionTimeout(id));
                }
            }
            TaskState::Backoff { until } => timers.set(*until, tenant_id, TimerKey::Backoff(id)),
            TaskState::Blocked
            | TaskState::Judged { .. }
            | TaskState::Suspended { .. }
            | TaskState::Parked
            | TaskState::Completed
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Skipped => {}
        }
        for (position, pending) in &task.pending {
            derive_pending(&mut tenant.event_waits, timers, tenant_id, (id, *position), pending);
        }
    }
}

fn derive_pending(
    event_waits: &mut BTreeMap<String, EventWaits>,
    timers: &mut Timers,
    tenant: TenantId,
    entry: (TaskId, u32),
    pending: &Pending,
) {
    if let Some(deadline) = pending.deadline {
        timers.set(deadline, tenant, TimerKey::Entry(entry.0, entry.1));
    }
    if let PendingKind::Event { name, scope } = &pending.kind {
        event_waits.entry(name.clone()).or_default().entry(scope.clone()).or_default().insert(entry);
    }
}

fn set_expiries(core: &mut Core) {
    for (&tenant_id, tenant) in &mut core.tenants {
        let expiring: BTreeSet<_> = tenant.idempotency.iter().map(|(key, row)| (row.expires_at, key.clone())).collect();
        if let Some((due, _)) = expiring.first() {
            core.timers.set(*due, tenant_id, TimerKey::Idempotency);
        }
        tenant.expiring = expiring;
    }
}
