//! Reading: by id from what is not applied yet and then from the tables; listings from the tables, which may lag.

mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use mainspring_core::id::{PayloadId, RunId, TaskId, TenantId};
use mainspring_core::journal::Pending;
use mainspring_core::row::{self, DocumentRow, EventRow, JournalRow, LogRow, MessageRow, RunRow, TaskRow};
use mainspring_core::{DocumentKey, Fact, MessageId, Need, Table};

use crate::backend::{Range, Rows, end_of};
use crate::tables::TablesError;
use crate::unapplied::Unapplied;

/// Runs examined for one page of a filtered listing, so that a rare filter over a long history stays bounded.
const RUNS_EXAMINED_MAX: usize = 20_000;

/// Bytes of the events one listing over all scopes holds; older ones are left out.
const EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Events read at once for it: each may have megabytes.
const EVENTS_AT_ONCE: usize = 16;

/// Bytes of events one look into a tenant's feed gives.
const FEED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Keys and bodies, as they are stored.
pub type RawRows = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads one partition. Cheap to clone; calls block, so async callers use a blocking thread.
#[derive(Debug, Clone)]
pub struct Reader {
    unapplied: Arc<Unapplied>,
    rows: Arc<dyn Rows>,
}

/// Which runs a listing shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only of this workflow.
    pub workflow: Option<String>,
    /// Only in this state, by its word.
    pub state: Option<String>,
}

/// A page of a listing, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins, if there may be one.
    pub next: Option<RunId>,
}

impl Reader {
    /// A reader of tables in front of which stands `unapplied`.
    pub fn new(rows: Arc<dyn Rows>, unapplied: Arc<Unapplied>) -> Self {
        Reader { unapplied, rows }
    }

    /// The position the tables stand at.
    pub fn applied(&self) -> u64 {
        self.unapplied.applied()
    }

    /// What is durable and not applied yet.
    pub fn unapplied(&self) -> &Unapplied {
        &self.unapplied
    }

    /// One row's bytes.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.unapplied.get_or(table, key, || self.rows.get(table, key))
    }

    /// All rows whose key begins with `prefix`, in key order.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn prefixed(&self, table: Table, prefix: &[u8]) -> Result<RawRows, TablesError> {
        let waiting = self.unapplied.prefixed(table, prefix);
        let range = Range { table, from: prefix, to: &end_of(prefix), descending: false, limit: usize::MAX };
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = self.rows.range(range)?.into_iter().collect();
        for (key, body) in waiting {
            match body {
                Some(body) => rows.insert(key, body),
                None => rows.remove(&key),
            };
        }
        Ok(rows.into_iter().collect())
    }

    /// A run.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn run(&self, tenant: TenantId, id: RunId) -> Result<Option<RunRow>, TablesError> {
        self.row(Table::Run, &row::key::run(tenant, id))
    }

    /// A task, with the pending entries that are recorded with it: see [`Reader::with_pending`].
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<TaskRow>, TablesError> {
        self.row(Table::Task, &row::key::task(tenant, id))
    }

    /// A task as it was read, with the pending entries that are recorded apart from it.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn with_pending(&self, tenant: TenantId, id: TaskId, mut task: TaskRow) -> Result<TaskRow, TablesError> {
        for (key, body) in self.prefixed(Table::Pending, &row::key::task(tenant, id))? {
            let pending = Pending { apart: true, ..decode(Table::Pending, &body)? };
            task.pending.insert(row::key::position_of(&key).unwrap_or(u32::MAX), pending);
        }
        Ok(task)
    }

    /// All tasks of a run, in order, each as [`Reader::task`] gives it.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn tasks(&self, tenant: TenantId, run: RunId) -> Result<Vec<TaskRow>, TablesError> {
        let rows = self.prefixed(Table::Task, &row::key::run(tenant, run))?;
        rows.into_iter().map(|(_, body)| decode(Table::Task, &body)).collect()
    }

    /// A task's log, in the order it was accepted in.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn log(&self, tenant: TenantId, task: TaskId) -> Result<Vec<LogRow>, TablesError> {
        let rows = self.prefixed(Table::Log, &row::key::task(tenant, task))?;
        rows.into_iter().map(|(_, body)| decode(Table::Log, &body)).collect()
    }

    /// A message.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn message(&self, tenant: TenantId, id: MessageId) -> Result<Option<MessageRow>, TablesError> {
        self.row(Table::Message, &row::key::message(tenant, id))
    }

    /// A payload's bytes.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn payload(&self, tenant: TenantId, id: PayloadId) -> Result<Option<Vec<u8>>, TablesError> {
        self.get(Table::Payload, &row::key::payload(tenant, id))
    }

    /// A task's journal, in order.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn journal(&self, tenant: TenantId, task: TaskId) -> Result<Vec<(u32, JournalRow)>, TablesError> {
        let prefix = row::key::task(tenant, task);
        let rows = self.prefixed(Table::Journal, &prefix)?;
        rows.into_iter()
            .map(|(key, body)| Ok((row::key::position_of(&key).unwrap_or(u32::MAX), decode(Table::Journal, &body)?)))
            .collect()
    }

    /// Up to `limit` events of a scope after `after`, oldest first. May lag behind what is durable: wait for the
    /// tables first if that matters.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn events(
        &self,
        tenant: TenantId,
        scope: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, EventRow)>, TablesError> {
        let from = row::key::event(tenant, scope, after.saturating_add(1));
        let to = row::key::event(tenant, scope, u64::MAX);
        self.event_range(scope, Range { table: Table::Event, from: &from, to: &to, descending: false, limit })
    }

    /// A tenant's events of all scopes after `after`, in the order of their numbers, without a gap: the tables, and what
    /// is durable and not applied yet. At most `limit`, and fewer if they are large.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn feed(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<(u64, EventRow)>, TablesError> {
        // In this order, as in `prefixed`: an event that moves from one to the other is then seen twice, and never missed.
        let number = |key: &[u8]| row::key::event_seq_of(key).filter(|seq| *seq > after);
        let waiting = self.unapplied.prefixed(Table::Event, &tenant.to_bytes());
        let unapplied: BTreeMap<u64, Option<Vec<u8>>> =
            waiting.into_iter().filter_map(|(key, body)| Some((number(&key)?, body))).collect();
        let (mut events, mut bytes, mut from) = (Vec::new(), 0, after);
        let is_full = |events: &Vec<_>, bytes| events.len() >= limit || bytes >= FEED_BYTES_MAX;
        while !is_full(&events, bytes) {
            let mut page: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            for (key, body) in self.rows.events_after(tenant, from, limit, FEED_BYTES_MAX)? {
                page.insert(number(&key).unwrap_or(0), body);
            }
            // Up to its end a page has all that the tables have; a short one has all there are.
            let more = page.len() >= limit || page.values().map(Vec::len).sum::<usize>() >= FEED_BYTES_MAX;
            let to = if more { page.keys().next_back().copied().unwrap_or(u64::MAX) } else { u64::MAX };
            for (seq, body) in unapplied.range(from.saturating_add(1)..=to) {
                match body {
                    Some(body) => page.insert(*seq, body.clone()),
                    None => page.remove(seq),
                };
            }
            for (seq, body) in page {
                if is_full(&events, bytes) {
                    break;
                }
                bytes += body.len();
                events.push((seq, decode(Table::Event, &body)?));
            }
            from = to;
            if !more {
                break;
            }
        }
        Ok(events)
    }

    /// The latest `limit` events of a scope, newest first. May lag.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn latest_events(
        &self,
        tenant: TenantId,
        scope: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(u64, EventRow)>, TablesError> {
        self.latest_events_before(tenant, scope, u64::MAX, limit)
    }

    /// The latest `limit` events of a scope before one, newest first. May lag.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn latest_events_before(
        &self,
        tenant: TenantId,
        scope: Option<&str>,
        before: u64,
        limit: usize,
    ) -> Result<Vec<(u64, EventRow)>, TablesError> {
        let from = row::key::event(tenant, scope, 0);
        let to = row::key::event(tenant, scope, before);
        self.event_range(scope, Range { table: Table::Event, from: &from, to: &to, descending: true, limit })
    }

    /// The latest `limit` events of all scopes together, newest first, and whether all scopes were looked at: no more
    /// than `scopes_max` are. May lag.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn latest_of_all_scopes(
        &self,
        tenant: TenantId,
        limit: usize,
        scopes_max: usize,
    ) -> Result<(Vec<(u64, EventRow)>, bool), TablesError> {
        let mut latest: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut bytes = 0;
        let complete = self.each_event_scope(tenant, scopes_max, |scope| {
            let mut to = end_of(scope);
            loop {
                // Of this scope only what is newer than all that would be dropped.
                let full = latest.len() >= limit || bytes >= EVENT_BYTES_MAX;
                let oldest = if full { latest.keys().next().copied().unwrap_or(0) } else { 0 };
                let from = [scope, oldest.to_be_bytes().as_slice()].concat();
                let range =
                    Range { table: Table::Event, from: &from, to: &to, descending: true, limit: EVENTS_AT_ONCE };
                let some = self.rows.range(range)?;
                let Some((last, _)) = some.last() else { break };
                to.clone_from(last);
                for (key, body) in some {
                    bytes += body.len();
                    latest.insert(row::key::event_seq_of(&key).unwrap_or(0), body);
                }
                while latest.len() > limit || (bytes > EVENT_BYTES_MAX && latest.len() > 1) {
                    bytes -= latest.pop_first().map_or(0, |(_, body)| body.len());
                }
            }
            Ok(true)
        })?;
        let decoded = latest.into_iter().rev().map(|(seq, body)| Ok((seq, decode(Table::Event, &body)?)));
        Ok((decoded.collect::<Result<_, TablesError>>()?, complete))
    }

    /// An event by its number, of whatever scope, if that is among the first `scopes_max`. May lag.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn event(&self, tenant: TenantId, seq: u64, scopes_max: usize) -> Result<Option<EventRow>, TablesError> {
        let mut found = None;
        self.each_event_scope(tenant, scopes_max, |scope| {
            found = self.rows.get(Table::Event, &[scope, seq.to_be_bytes().as_slice()].concat())?;
            Ok(found.is_none())
        })?;
        found.map(|body| decode(Table::Event, &body)).transpose()
    }

    /// Shows what the keys of each scope's events begin with, while `each` wants more. Answers whether there are no more.
    fn each_event_scope(
        &self,
        tenant: TenantId,
        scopes_max: usize,
        mut each: impl FnMut(&[u8]) -> Result<bool, TablesError>,
    ) -> Result<bool, TablesError> {
        let mut from = tenant.to_bytes().to_vec();
        let to = end_of(&from);
        for _ in 0..scopes_max {
            let first = Range { table: Table::Event, from: &from, to: &to, descending: false, limit: 1 };
            let Some((key, _)) = self.rows.range(first)?.pop() else { return Ok(true) };
            // A key without its number, which comes last.
            let scope = &key[..key.len().saturating_sub(size_of::<u64>())];
            if !each(scope)? {
                return Ok(false);
            }
            from = end_of(scope);
        }
        Ok(false)
    }

    fn event_range(&self, scope: Option<&str>, range: Range<'_>) -> Result<Vec<(u64, EventRow)>, TablesError> {
        let rows = self.rows.range(range)?;
        let mut events = Vec::with_capacity(rows.len());
        for (key, body) in rows {
            let event: EventRow = decode(Table::Event, &body)?;
            // Two scopes may share a hash; the row tells them apart.
            if event.scope.as_deref() == scope {
                events.push((row::key::event_seq_of(&key).unwrap_or(0), event));
            }
        }
        Ok(events)
    }

    /// A tenant's runs, newest first. May lag.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn runs(
        &self,
        tenant: TenantId,
        filter: &RunFilter,
        before: Option<RunId>,
        limit: usize,
    ) -> Result<Page<(RunId, RunRow)>, TablesError> {
        let (rows, last) = self.rows.runs(tenant, before, filter, limit, RUNS_EXAMINED_MAX)?;
        let next = last.as_deref().and_then(row::key::second).map(RunId);
        let rows = rows
            .into_iter()
            .map(|(key, body)| Ok((RunId(row::key::second(&key).unwrap_or(0)), decode(Table::Run, &body)?)))
            .collect::<Result<_, TablesError>>()?;
        Ok(Page { rows, next })
    }

    /// All rows of a tenant in a small table.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn all<T: row::Row>(&self, tenant: TenantId, table: Table) -> Result<Vec<(u128, T)>, TablesError> {
        let rows = self.prefixed(table, &tenant.to_bytes())?;
        rows.into_iter().map(|(key, body)| Ok((row::key::second(&key).unwrap_or(0), decode(table, &body)?))).collect()
    }

    /// Every tenant of the partition.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn tenants(&self) -> Result<Vec<(TenantId, row::TenantRow)>, TablesError> {
        let rows = self.prefixed(Table::Tenant, &[])?;
        rows.into_iter()
            .filter_map(|(key, body)| Some((row::key::tenant_of(&key)?, body)))
            .map(|(tenant, body)| Ok((tenant, decode(Table::Tenant, &body)?)))
            .collect()
    }

    /// Loads a fact a decision needs.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn fact(&self, tenant: TenantId, need: Need) -> Result<Fact, TablesError> {
        let found = match need {
            Need::Whole(run) => self.whole(tenant, run)?,
            Need::Run(run) => self.run(tenant, run)?.map(Fact::Run),
            Need::Task(task) => self.task(tenant, task)?.map(Fact::Task),
            Need::Document(key) => self.document(tenant, &key)?.map(Fact::Document),
            Need::StreamEntryId(stream, id) => self
                .row(Table::StreamEntryId, &row::key::stream_entry_id(tenant, stream, &id))?
                .map(Fact::StreamEntryId),
            Need::StreamOldest(stream) => Some(Fact::StreamOldest(self.stream_oldest(tenant, stream)?)),
            Need::Journal(task, position) => {
                self.row(Table::Journal, &row::key::journal(tenant, task, position))?.map(Fact::Journal)
            }
        };
        Ok(found.unwrap_or(Fact::Missing))
    }

    /// A document as it stands, also one that has expired and is not removed yet.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn document(&self, tenant: TenantId, key: &DocumentKey) -> Result<Option<DocumentRow>, TablesError> {
        self.row(Table::Document, &row::key::document(tenant, key))
    }

    /// The versions of a document that are kept, newest first, with their numbers in the rows. May lag.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn revisions(
        &self,
        tenant: TenantId,
        key: &DocumentKey,
        limit: usize,
    ) -> Result<Vec<DocumentRow>, TablesError> {
        let (from, to) = (row::key::revision(tenant, key, 0), row::key::revision(tenant, key, u64::MAX));
        let range = Range { table: Table::Revision, from: &from, to: &to, limit, descending: true };
        let rows = self.rows.range(range)?;
        rows.into_iter().map(|(_, body)| decode(Table::Revision, &body)).collect()
    }

    /// All documents of a kind whose names begin with `prefix`, in the order of their names. For a few that belong
    /// together.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn documents(
        &self,
        tenant: TenantId,
        kind: &str,
        prefix: &str,
    ) -> Result<Vec<(DocumentKey, DocumentRow)>, TablesError> {
        let rows = self.prefixed(Table::Document, &row::key::document(tenant, &DocumentKey::new(kind, prefix)))?;
        rows.into_iter()
            .filter_map(|(key, body)| Some((row::key::document_of(&key)?, body)))
            .map(|(key, body)| Ok((key, decode(Table::Document, &body)?)))
            .collect()
    }

    /// Up to `limit` documents of a kind whose names begin with `prefix`, after the name `after`, in the order of their
    /// names. May lag.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn documents_after(
        &self,
        tenant: TenantId,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(DocumentKey, DocumentRow)>, TablesError> {
        let prefix = row::key::document(tenant, &DocumentKey::new(kind, prefix));
        let from = after.map_or_else(
            || prefix.clone(),
            // The first key that is greater than it.
            |after| [row::key::document(tenant, &DocumentKey::new(kind, after)), vec![0]].concat(),
        );
        let range = Range { table: Table::Document, from: &from, to: &end_of(&prefix), descending: false, limit };
        let rows = self.rows.range(range)?;
        rows.into_iter()
            .filter_map(|(key, body)| Some((row::key::document_of(&key)?, body)))
            .map(|(key, body)| Ok((key, decode(Table::Document, &body)?)))
            .collect()
    }

    /// A run with its tasks and the children they asked for.
    fn whole(&self, tenant: TenantId, id: RunId) -> Result<Option<Fact>, TablesError> {
        let Some(run) = self.run(tenant, id)? else { return Ok(None) };
        let tasks = self.tasks(tenant, id)?;
        let children = self.prefixed(Table::Child, &row::key::run(tenant, id))?.into_iter().map(|(key, body)| {
            let index = row::key::task_of(&key).map_or(0, |task| task.index);
            Ok((index, decode(Table::Child, &body)?))
        });
        Ok(Some(Fact::Whole(run, tasks, children.collect::<Result<_, TablesError>>()?)))
    }

    /// A row by its key.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn row<T: row::Row>(&self, table: Table, key: &[u8]) -> Result<Option<T>, TablesError> {
        self.get(table, key)?.map(|body| decode(table, &body)).transpose()
    }

    /// A row by its key, if the tables need not be asked: it was written or deleted lately, or is read often. Does not
    /// block.
    ///
    /// # Errors
    /// [`TablesError::Row`].
    pub fn recent_row<T: row::Row>(&self, table: Table, key: &[u8]) -> Result<Option<Option<T>>, TablesError> {
        let recent = self.unapplied.get(table, key);
        recent.map(|row| row.map(|body| decode(table, &body)).transpose()).transpose()
    }
}

fn decode<T: row::Row>(table: Table, body: &[u8]) -> Result<T, TablesError> {
    row::decode(body).map_err(|source| TablesError::Row { table, source })
}
