//! A tenant: the state of everything that is one customer's, and nothing of anybody else's.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::command::{Claim, Need};
use crate::document::{DocumentKey, Mark};
use crate::id::{Ms, PayloadId, RunId, TaskId, TenantId, TokenId, VersionId};
use crate::inbox::Inbox;
use crate::key::KeyQueue;
use crate::machine::{Core, Step};
use crate::place::Wants;
use crate::rate::Rate;
use crate::reply::{Counts, Refusal, Reply};
use crate::resting::Runs;
use crate::row::{self, IdempotencyRow, PayloadRef, TaskRow, TenantRow, TokenRow, WorkflowRow};
use crate::stream::group::Handing;
use crate::stream::{IdMarks, Stream};
use crate::task::Spot;
use crate::worker::Workers;
use crate::workflow::{TaskDef, WorkflowDef};
use crate::write::{Out, Table};

/// The waits for events of one name, by scope.
pub(crate) type EventWaits = BTreeMap<Option<String>, BTreeSet<(TaskId, u32)>>;

/// Tasks waiting in order.
pub(crate) type Line = BTreeSet<Spot>;

/// The live state of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Tenant {
    pub(crate) row: Option<TenantRow>,
    pub(crate) versions: BTreeMap<VersionId, Arc<WorkflowDef>>,
    pub(crate) created: BTreeMap<VersionId, Ms>,
    pub(crate) current: BTreeMap<String, VersionId>,
    pub(crate) runs: Runs,
    pub(crate) keys: BTreeMap<(String, String), KeyQueue>,
    pub(crate) inboxes: BTreeMap<(String, String), Inbox>,
    /// Tasks waiting for a worker, by action and by what they want of it.
    pub(crate) queues: BTreeMap<String, BTreeMap<Arc<Wants>, Line>>,
    /// Lines that wait for a rate limit, and for a worker only after that.
    pub(crate) held: BTreeMap<(String, Arc<Wants>), Line>,
    pub(crate) rates: BTreeMap<String, Rate>,
    /// Where the last look for rate limits that can go ended.
    pub(crate) rates_seen: String,
    /// Rate limits that somebody waits for, in the order they are full again.
    pub(crate) refills: BTreeSet<(Ms, String)>,
    pub(crate) workers: Workers,
    /// Waits for events, by the event's name and the scope waited for (`None` for any), so that an event looks only at
    /// the waits it completes.
    pub(crate) event_waits: BTreeMap<String, EventWaits>,
    pub(crate) idempotency: BTreeMap<String, IdempotencyRow>,
    /// Idempotency keys in the order they expire.
    pub(crate) expiring: BTreeSet<(Ms, String)>,
    pub(crate) tokens: BTreeMap<TokenId, TokenRow>,
    /// Documents written lately. The others are in the tables only.
    pub(crate) documents: BTreeMap<DocumentKey, Mark>,
    /// The same in the order they may be forgotten.
    pub(crate) marked: BTreeSet<(Ms, DocumentKey)>,
    pub(crate) streams: BTreeMap<String, Stream>,
    /// What is with consumers, by stream and group. Not recorded.
    pub(crate) handing: BTreeMap<(String, String), Handing>,
    /// Ids of entries published lately. The others are in the tables only.
    pub(crate) entry_marks: IdMarks,
    /// The same in the order they may be forgotten.
    pub(crate) entry_marks_due: BTreeSet<(Ms, u32, Arc<str>)>,
    /// Inboxes with a live run, by group.
    pub(crate) groups: BTreeMap<String, u32>,
}

impl Tenant {
    pub(crate) fn task(&self, id: TaskId) -> Option<&TaskRow> {
        self.runs.get(&id.run)?.tasks.get(usize::from(id.index))
    }

    pub(crate) fn task_mut(&mut self, id: TaskId) -> Option<&mut TaskRow> {
        self.runs.get_mut(&id.run)?.tasks.get_mut(usize::from(id.index))
    }

    /// A journal entry that was asked for before and is complete is read back; it is not resident.
    ///
    /// A pending one is resident and must not be read back: it could complete while it is being loaded, and what was
    /// loaded would then look like an entry that does not fit the code.
    pub(crate) fn journal_need(&self, claim: &Claim, position: u32) -> Option<Need> {
        let task = self.task(claim.task)?;
        let complete = position < task.journal_len && !task.pending.contains_key(&position);
        complete.then_some(Need::Journal(claim.task, position))
    }

    /// A repeated completion of a task whose run has ended is recognised by its row.
    pub(crate) fn ended_task_need(&self, claim: &Claim) -> Option<Need> {
        (!self.runs.contains_key(&claim.task.run)).then_some(Need::Task(claim.task))
    }

    /// Takes a whole line out of its queue.
    pub(crate) fn take_line(&mut self, action: &str, wants: &Arc<Wants>) -> Option<Line> {
        let lines = self.queues.get_mut(action)?;
        let line = lines.remove(wants);
        if lines.is_empty() {
            self.queues.remove(action);
        }
        line
    }

    /// Takes one task out of the line it waits in, wherever that is.
    pub(crate) fn leave_line(&mut self, action: &str, wants: &Arc<Wants>, spot: &Spot) {
        if let Some(line) = self.queues.get_mut(action).and_then(|lines| lines.get_mut(wants)) {
            line.remove(spot);
            if line.is_empty() {
                self.take_line(action, wants);
            }
            return;
        }
        let place = (action.to_owned(), wants.clone());
        if let Some(line) = self.held.get_mut(&place) {
            line.remove(spot);
            if line.is_empty() {
                self.held.remove(&place);
            }
        }
    }

    /// One inbox of a group has no live run any more.
    pub(crate) fn leave_group(&mut self, group: &str) {
        if let Some(live) = self.groups.get_mut(group) {
            *live -= 1;
            if *live == 0 {
                self.groups.remove(group);
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts {
            messages_unread: self.inboxes.values().map(|inbox| inbox.unread.len() as u64).sum(),
            workers: self.workers.values().filter(|worker| worker.connected).count() as u64,
            ..Counts::default()
        };
        self.runs.count(&mut counts);
        counts
    }
}

impl Core {
    pub(crate) fn put_tenant(&mut self, id: TenantId, name: &str, out: &mut Out) -> Result<(), Refusal> {
        check_name("a tenant's name", name, self.limits.name_bytes_max)?;
        let tenant = self.tenants.entry(id).or_default();
        let created_at = tenant.row.as_ref().map_or(self.meta.now, |row| row.created_at);
        let row = TenantRow { name: name.to_owned(), created_at };
        if tenant.row.as_ref() != Some(&row) {
            out.put(Table::Tenant, &row::key::tenant(id), &row);
            tenant.row = Some(row);
        }
        Ok(())
    }
}

impl Step<'_> {
    pub(crate) fn put_workflow(&mut self, def: WorkflowDef) -> Result<Reply, Refusal> {
        def.check(self.limits.name_bytes_max)?;
        let names = def.event_triggers.iter().chain(def.tasks.iter().flat_map(|task| [&task.name, &task.action]));
        let listed = |task: &TaskDef| {
            let slots = task.slots.keys().map(|kind| kind.len() + 16).sum::<usize>();
            let labels = task.labels.keys().map(|name| name.len() + 64).sum::<usize>();
            let rates = task.rates.iter().map(|rate| rate.name.len() + 32).sum::<usize>();
            2 * task.parents.len() + slots + labels + rates
        };
        let lists: usize = def.tasks.iter().map(listed).sum();
        let source = def.source.as_ref().map_or(0, |source| source.bytes.len());
        self.check_bulk("the definition", source + lists + names.map(|name| name.len() + 16).sum::<usize>())?;
        let version = def.version_id();
        let previous = self.t.current.get(&def.name).copied();
        if previous == Some(version) {
            return Ok(Reply::Registered { version, created: false });
        }
        if previous.is_none() && self.t.current.len() >= self.limits.workflows_max {
            return Err(Refusal::Full {
                what: "workflows of this tenant",
                max: self.limits.workflows_max,
                action: "give several jobs one workflow with different inputs",
            });
        }
        let created = !self.t.versions.contains_key(&version);
        let created_at = *self.t.created.entry(version).or_insert(self.now);
        if let Some(old) = previous
            && let Some(old_def) = self.t.versions.get(&old)
        {
            let old_row = WorkflowRow {
                def: WorkflowDef::clone(old_def),
                current: false,
                created_at: self.t.created.get(&old).copied().unwrap_or(self.now),
            };
            self.out.put(Table::Workflow, &row::key::workflow(self.tenant, old), &old_row);
        }
        let row = WorkflowRow { def, current: true, created_at };
        self.out.put(Table::Workflow, &row::key::workflow(self.tenant, version), &row);
        self.t.current.insert(row.def.name.clone(), version);
        self.t.versions.insert(version, Arc::new(row.def));
        Ok(Reply::Registered { version, created })
    }

    pub(crate) fn current_def(&self, workflow: &str) -> Result<(VersionId, Arc<WorkflowDef>), Refusal> {
        let unknown = || Refusal::NoWorkflow { name: workflow.to_owned() };
        let version = self.t.current.get(workflow).copied().ok_or_else(unknown)?;
        let def = self.t.versions.get(&version).cloned().ok_or_else(unknown)?;
        Ok((version, def))
    }

    pub(crate) fn check_payload(&self, what: &'static str, payload: &Bytes) -> Result<(), Refusal> {
        let max = self.limits.payload_bytes_max;
        if payload.len() > max {
            return Err(Refusal::TooLarge { what, found: payload.len(), max });
        }
        Ok(())
    }

    /// Whether a list that comes with a command is of a size that may be kept.
    pub(crate) fn check_bulk(&self, what: &'static str, found: usize) -> Result<(), Refusal> {
        let max = self.limits.definition_bytes_max;
        if found > max { Err(Refusal::TooLarge { what, found, max }) } else { Ok(()) }
    }

    pub(crate) fn check_key(&self, what: &'static str, key: &str) -> Result<(), Refusal> {
        check_name(what, key, self.limits.key_bytes_max)
    }

    pub(crate) fn check_label(&self, what: &'static str, name: &str) -> Result<(), Refusal> {
        check_name(what, name, self.limits.name_bytes_max)
    }

    /// A reason or error as it is kept, which is not all of a long one. It is cut rather than refused, because refusing would leave an attempt running that has ended.
    pub(crate) fn kept_text(&self, mut text: String) -> String {
        text.truncate(text.floor_char_boundary(self.limits.reason_bytes_max));
        text
    }

    /// Stores a payload and gives back where. The bytes themselves never stay in the core.
    pub(crate) fn store_payload(&mut self, payload: Bytes) -> PayloadRef {
        let reference = PayloadRef { id: PayloadId(self.ids.mint()), bytes: payload.len() as u32 };
        self.out.put_payload(self.tenant, reference.id, payload);
        reference
    }

    pub(crate) fn dirty_task(&mut self, task: TaskId) {
        self.dirty_tasks.insert(task);
    }

    /// Live children of a task's run, in id order.
    pub(crate) fn children_of(&self, run: RunId) -> Vec<RunId> {
        self.t.runs.get(&run).map(|run| run.children.iter().copied().collect()).unwrap_or_default()
    }
}

pub(crate) fn check_name(what: &'static str, name: &str, max: usize) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::Empty { what });
    }
    if name.len() > max {
        return Err(Refusal::TooLarge { what, found: name.len(), max });
    }
    Ok(())
}
