//! The machine: takes a command, runs the noun it concerns, drains what follows from it, and records what changed.
//!
//! Each command becomes a [`Step`]: a borrow of exactly one tenant's state. A rule therefore has no way to touch another
//! tenant. Consequences (an ended run frees its key, which starts another, which wants a worker ...) are put on the
//! step's agenda and drained in order, so that cascades neither recurse nor depend on who called whom.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use crate::command::{Command, Facts, Need};
use crate::id::{Ids, Ms, RunId, TaskId, TenantId, mix};
use crate::inbox::once_key;
use crate::journal::{Completion, Request, last_place};
use crate::limit::Limits;
use crate::reply::{Counts, Refusal, Reply};
use crate::row::{self, MetaRow, PayloadRef, RunState};
use crate::tenant::Tenant;
use crate::timer::{TimerKey, Timers};
use crate::write::{Out, Table};

/// The time and the chance a command is decided with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the Unix epoch. The core never goes back behind a time it has decided with.
    pub now: Ms,
    /// Unique to the command; all ids it mints derive from it.
    pub seed: u128,
}

/// One partition's live state.
#[derive(Debug)]
pub struct Core {
    pub(crate) limits: Limits,
    pub(crate) meta: MetaRow,
    pub(crate) meta_dirty: bool,
    /// The time the meta row was last recorded with.
    pub(crate) recorded_now: Ms,
    /// How many decisions were taken at the present time.
    pub(crate) nth_now: u16,
    pub(crate) tenants: BTreeMap<TenantId, Tenant>,
    pub(crate) timers: Timers,
}

/// Something that follows from a decision and is decided with it.
#[derive(Debug)]
pub(crate) enum Consequence {
    EndRun { run: RunId, end: End },
    CancelRun { run: RunId, reason: String },
    BeginRun(RunId),
    CompleteEntry { task: TaskId, position: u32, completion: Completion },
    Assign(String),
}

/// How a run ends.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) state: RunState,
    pub(crate) output: Option<PayloadRef>,
    pub(crate) error: Option<String>,
}

/// One command's borrow of one tenant.
pub(crate) struct Step<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) t: &'a mut Tenant,
    pub(crate) timers: &'a mut Timers,
    pub(crate) meta: &'a mut MetaRow,
    pub(crate) meta_dirty: &'a mut bool,
    pub(crate) limits: Limits,
    pub(crate) now: Ms,
    pub(crate) ids: Ids,
    pub(crate) out: &'a mut Out,
    pub(crate) agenda: VecDeque<Consequence>,
    /// Runs started by events in this decision, and how long the chain is that led to each.
    pub(crate) triggered: BTreeMap<RunId, u32>,
    pub(crate) dirty_runs: BTreeSet<RunId>,
    pub(crate) dirty_tasks: BTreeSet<TaskId>,
    pub(crate) dirty_inboxes: BTreeSet<(String, String)>,
}

impl Core {
    /// An empty partition.
    pub fn new(limits: Limits) -> Self {
        Core {
            limits,
            meta: MetaRow::default(),
            meta_dirty: false,
            recorded_now: 0,
            nth_now: 0,
            tenants: BTreeMap::new(),
            timers: Timers::default(),
        }
    }

    /// The limits this core holds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// When [`Core::tick`] has something to do.
    pub fn next_due(&self) -> Option<Ms> {
        self.timers.next_due()
    }

    /// The facts a command needs that are not resident. Pure: asking changes nothing. A fact must not be older than
    /// `fact_age_ms_max` when the command is decided; otherwise it is to be loaded again.
    ///
    /// Facts are loaded from what is durable, so the engine loads them only after everything decided so far is.
    pub fn needs(&self, tenant: TenantId, command: &Command) -> Vec<Need> {
        let Some(tenant) = self.tenants.get(&tenant) else { return Vec::new() };
        let documents = match command {
            Command::Journal { claim, position, before, request: Request::Commit { commit } }
                if tenant.journal_need(claim, last_place(*position, before)).is_none() =>
            {
                commit.documents.as_slice()
            }
            Command::PutDocument { put, .. } => core::slice::from_ref(put),
            Command::StartRecorded { record, .. } => core::slice::from_ref(&record.put),
            Command::Advance { puts, .. } => puts,
            _ => &[],
        };
        let documents = documents.iter().filter_map(|put| tenant.document_need(&put.key));
        let before = match command {
            Command::Journal { claim, position, before, .. } => {
                let places = (*position..last_place(*position, before)).take(self.limits.entries_before_max);
                places.filter_map(|place| tenant.journal_need(claim, place)).collect()
            }
            _ => Vec::new(),
        };
        if let Command::Stream { name, ask } = command {
            return tenant.stream_needs(name, ask);
        }
        before.into_iter().chain(Core::need(tenant, command)).chain(documents).collect()
    }

    fn need(tenant: &Tenant, command: &Command) -> Option<Need> {
        match command {
            Command::Journal { claim, position, before, .. } => {
                tenant.journal_need(claim, last_place(*position, before))
            }
            Command::SendMessage { workflow, key, admission, .. } => {
                let (id, _) = admission.once.as_ref()?;
                tenant.document_need(&once_key(workflow, key, id))
            }
            Command::Complete { claim, .. } | Command::Fail { claim, .. } | Command::Supersede { claim, .. } => {
                tenant.ended_task_need(claim)
            }
            Command::ReplayRun { run, .. } => (!tenant.runs.contains_key(run)).then_some(Need::Whole(*run)),
            Command::CancelTask { task, .. } | Command::PutLog { task, .. } => {
                (!tenant.runs.contains_key(&task.run)).then_some(Need::Run(task.run))
            }
            Command::CancelRun { run, .. }
            | Command::ResumeRun { run }
            | Command::SignalRun { run, .. }
            | Command::Explain { run } => (!tenant.runs.contains_key(run)).then_some(Need::Run(*run)),
            Command::PutTenant { .. }
            | Command::PutWorkflow { .. }
            | Command::StartRun { .. }
            | Command::StartRuns { .. }
            | Command::StartRecorded { .. }
            | Command::EnrolWorker { .. }
            | Command::ConnectWorker { .. }
            | Command::DisconnectWorker { .. }
            | Command::UpdateWorker { .. }
            | Command::Acknowledge { .. }
            | Command::Judge { .. }
            | Command::ExtendTimeout { .. }
            | Command::ReleaseSlots { .. }
            | Command::PutRate { .. }
            | Command::PutDocument { .. }
            | Command::Advance { .. }
            | Command::LookAtFence { .. }
            | Command::PassCommitPoint { .. }
            | Command::Interrupt { .. }
            | Command::EmitEvent { .. }
            | Command::RegisterWorker { .. }
            | Command::HeartbeatWorker { .. }
            | Command::RemoveWorker { .. }
            | Command::Suspend { .. }
            | Command::Park { .. }
            | Command::PutToken { .. }
            | Command::RevokeToken { .. }
            | Command::LookAtInbox { .. }
            | Command::LookAtKey { .. }
            | Command::LookAtWorkers
            | Command::Stream { .. }
            | Command::LookAtStreams
            | Command::Count => None,
        }
    }

    /// Decides one command for one tenant.
    ///
    /// What it records and asks for is added to `out`; the reply may be given once that is durable.
    ///
    /// # Errors
    /// A [`Refusal`]; then nothing was recorded and nothing changed.
    pub fn handle(
        &mut self,
        moment: Moment,
        tenant: TenantId,
        command: Command,
        facts: &Facts,
        out: &mut Out,
    ) -> Result<Reply, Refusal> {
        self.advance(moment.now);
        if let Command::PutTenant { name } = &command {
            self.put_tenant(tenant, name, out)?;
            return Ok(Reply::Done);
        }
        let recorded = out.op_count();
        let mut step = self.step(moment, tenant, out).ok_or(Refusal::NoTenant)?;
        let answer = step.decide(command, facts);
        match &answer {
            Ok(_) => step.settle(),
            Err(refusal) => assert!(step.out.op_count() == recorded, "a refusal records nothing: {refusal:?}"),
        }
        answer
    }

    /// The latest time decided with.
    pub fn now(&self) -> Ms {
        self.meta.now
    }

    /// Fires the timers that are due, up to the limits of one tick. Call again while [`Core::next_due`] is not later than now.
    pub fn tick(&mut self, moment: Moment, out: &mut Out) {
        self.advance(moment.now);
        let recorded = out.writes().len();
        for nth in 0..self.limits.timers_per_tick_max {
            if out.writes().len() - recorded > self.limits.tick_bytes_max {
                break;
            }
            let Some((due, tenant, key)) = self.timers.pop_due(self.meta.now) else { break };
            let seed = moment.seed ^ u128::from(mix(nth as u64));
            let Some(mut step) = self.step(Moment { now: moment.now, seed }, tenant, out) else { continue };
            step.fire(due, key);
            step.settle();
        }
    }

    /// Records what belongs to the partition rather than to a tenant. Called once per batch.
    pub fn close_batch(&mut self, out: &mut Out) {
        // Whatever is recorded was decided at some time, and a restart must not decide at an earlier one.
        let later = out.op_count() > 0 && self.meta.now > self.recorded_now;
        if self.meta_dirty || later {
            self.meta_dirty = false;
            self.recorded_now = self.meta.now;
            out.put(Table::Meta, b"partition", &self.meta);
        }
    }

    /// Counts what is live, over all tenants.
    pub fn counts(&self) -> Counts {
        self.tenants.values().map(Tenant::counts).fold(Counts::default(), |sum, one| sum + one)
    }

    pub(crate) fn step<'a>(&'a mut self, moment: Moment, tenant: TenantId, out: &'a mut Out) -> Option<Step<'a>> {
        self.nth_now += 1;
        if self.nth_now > Ids::NTH_MAX {
            // More decisions than ids can put in order at one time: the next belong to the next millisecond.
            self.advance(self.meta.now + 1);
        }
        let (now, nth) = (self.meta.now, self.nth_now);
        Some(Step {
            tenant,
            t: self.tenants.get_mut(&tenant)?,
            timers: &mut self.timers,
            meta: &mut self.meta,
            meta_dirty: &mut self.meta_dirty,
            limits: self.limits,
            now,
            ids: Ids::new(now, nth, moment.seed),
            out,
            agenda: VecDeque::new(),
            triggered: BTreeMap::new(),
            dirty_runs: BTreeSet::new(),
            dirty_tasks: BTreeSet::new(),
            dirty_inboxes: BTreeSet::new(),
        })
    }

    /// A clock that jumps back must not make anything happen twice or in the wrong order, so time only goes forward.
    pub(crate) fn advance(&mut self, now: Ms) {
        if now > self.meta.now {
            self.meta.now = now;
            self.nth_now = 0;
        }
    }
}

impl Step<'_> {
    fn decide(&mut self, command: Command, facts: &Facts) -> Result<Reply, Refusal> {
        match command {
            Command::PutTenant { .. } => unreachable!("tenants are put before a step exists"),
            Command::PutWorkflow { def } => self.put_workflow(def),
            Command::StartRun { start } => self.start_run(start),
            Command::StartRuns { starts } => self.start_runs(starts),
            Command::CancelTask { task, reason } => self.cancel_task(task, reason, facts),
            Command::ReplayRun { run, tasks } => self.replay_run(run, tasks, facts),
            Command::CancelRun { run, reason } => self.cancel_run(run, reason, facts),
            Command::ResumeRun { run } => self.resume_run(run, facts),
            Command::SendMessage { workflow, key, payload, idempotency, admission } => {
                self.send_message(&workflow, &key, payload, idempotency, *admission, facts)
            }
            Command::StartRecorded { start, record } => self.start_recorded(*start, *record, facts),
            Command::PutDocument { put, fence, guard, event } => self.put_document(put, fence, guard, event, facts),
            Command::Advance { puts, starts } => self.advance_reader(puts, starts, facts),
            Command::LookAtFence { fence } => self.look_at_fence(fence),
            Command::PassCommitPoint { fence } => self.pass_commit_point(fence),
            Command::Interrupt { claim } => self.interrupt(claim),
            Command::EmitEvent { name, scope, data, metadata, priority, fence } => {
                self.emit_event(&name, scope, data, metadata, priority, fence)
            }
            Command::SignalRun { run, name, payload } => self.signal_run(run, name, payload, facts),
            Command::RegisterWorker { worker, new, local, lease_ms, holds } => {
                self.register_worker(worker, new, local, lease_ms, &holds)
            }
            Command::EnrolWorker { worker, new, lease_ms } => self.enrol_worker(worker, new, lease_ms),
            Command::ConnectWorker { worker } => self.connect_worker(worker),
            Command::DisconnectWorker { worker, undelivered } => self.disconnect_worker(worker, &undelivered),
            Command::UpdateWorker { worker, labels, paused } => self.update_worker(worker, labels, paused),
            Command::Acknowledge { claim } => self.acknowledge(&claim),
            Command::Judge { task, verdict } => self.judge(task, verdict),
            Command::ExtendTimeout { task, by_ms } => self.extend_timeout(task, by_ms),
            Command::ReleaseSlots { task } => self.release_slots(task),
            Command::PutRate { name, limit, window_ms } => self.put_rate(&name, limit, window_ms),
            Command::PutLog { task, line } => self.put_log(task, line, facts),
            Command::HeartbeatWorker { worker } => self.heartbeat_worker(worker),
            Command::RemoveWorker { worker } => self.remove_worker(worker),
            Command::Journal { claim, position, before, request } => {
                self.journal(claim, position, before, request, facts)
            }
            Command::Suspend { claim, waiting } => self.suspend(claim, &waiting),
            Command::Complete { claim, output } => self.complete(claim, output, facts),
            Command::Supersede { claim, reason } => self.supersede(claim, reason, facts),
            Command::Fail { claim, error, retry, after_ms } => self.fail(claim, error, retry, after_ms, facts),
            Command::Park { claim, error } => self.park(claim, error),
            Command::PutToken { token, name, scopes, expires_at } => self.put_token(token, name, scopes, expires_at),
            Command::RevokeToken { token } => self.revoke_token(token),
            Command::Explain { run } => self.explain(run, facts),
            Command::LookAtInbox { workflow, key } => Ok(Reply::Inbox(self.look_at_inbox(workflow, key))),
            Command::LookAtKey { workflow, key } => Ok(Reply::OfKey(self.look_at_key(workflow, key))),
            Command::LookAtWorkers => Ok(Reply::Workers(self.look_at_workers())),
            Command::Stream { name, ask } => self.ask_stream(&name, ask, facts),
            Command::LookAtStreams => Ok(self.look_at_streams()),
            Command::Count => Ok(Reply::Counts(self.t.counts())),
        }
    }

    fn fire(&mut self, due: Ms, key: TimerKey) {
        match key {
            TimerKey::Backoff(task) => self.backoff_over(task),
            TimerKey::ScheduleTimeout(task) => self.schedule_timeout(task),
            TimerKey::ExecutionTimeout(task) => self.execution_timeout(task, due),
            TimerKey::Entry(task, position) => self.entry_due(task, position),
            TimerKey::WorkerLease(worker) => self.worker_silent(worker),
            TimerKey::Acknowledge(task, invocation) => self.not_acknowledged(task, invocation),
            TimerKey::Refill => self.refill(),
            TimerKey::Idempotency => self.expire_idempotency(),
            TimerKey::Marks => self.forget_marks(),
            TimerKey::EntryMarks => self.forget_entry_marks(),
        }
    }

    /// Drains the agenda, then records every row that changed, once, as it stands at the end.
    pub(crate) fn settle(&mut self) {
        // Assignments come last, so that one pass gives the freed slots to whoever is first in line by then.
        let mut assign: BTreeSet<String> = BTreeSet::new();
        while let Some(consequence) = self.agenda.pop_front() {
            match consequence {
                Consequence::EndRun { run, end } => self.end_run(run, end),
                Consequence::CancelRun { run, reason } => self.cancel_or_ask(run, reason),
                Consequence::BeginRun(run) => self.begin_run(run),
                Consequence::CompleteEntry { task, position, completion } => {
                    self.complete_entry(task, position, completion);
                }
                Consequence::Assign(action) => {
                    assign.insert(action);
                }
            }
        }
        self.assign(assign);
        assert!(self.agenda.is_empty(), "giving out tasks has no further consequences");
        self.record();
    }

    fn record(&mut self) {
        let (tasks, runs) = (core::mem::take(&mut self.dirty_tasks), core::mem::take(&mut self.dirty_runs));
        for &id in &tasks {
            if let Some(task) = self.t.runs.get(&id.run).and_then(|run| run.tasks.get(usize::from(id.index))) {
                self.out.put(Table::Task, &row::key::task(self.tenant, id), task);
            }
        }
        for &id in &runs {
            let Some(run) = self.t.runs.get(&id) else { continue };
            self.out.put(Table::Run, &row::key::run(self.tenant, id), &run.row);
            if run.row.state.ended() {
                // What has ended leaves memory and lives in the tables only.
                self.t.runs.remove(&id);
            }
        }
        for (workflow, key) in core::mem::take(&mut self.dirty_inboxes) {
            let row_key = row::key::inbox(self.tenant, &workflow, &key);
            match self.t.inboxes.get(&(workflow, key)) {
                Some(inbox) => self.out.put(Table::Inbox, &row_key, &inbox.row),
                None => self.out.delete(Table::Inbox, &row_key),
            }
        }
        self.t.runs.rest(tasks.into_iter().map(|task| task.run).chain(runs), self.limits.runs_awake_max);
    }
}
