//! Documents: small versioned values by kind and name, written with an optimistic check.
//!
//! What a session, a turn or an effect has to remember beyond its run is a document: a session's state, a phase's
//! result that may be used again, the intent and the outcome of a side effect, how far a delivery got. Documents are not
//! resident. What *is* resident for a while is a mark of each that was written lately, so that a version loaded for a
//! decision can never be older than one this core has written.

use alloc::borrow::ToOwned;
use alloc::string::String;

use bytes::Bytes;

use crate::command::{Fact, Facts, Need};
use crate::fence::Fence;
use crate::id::{Ms, RunId};
use crate::machine::Step;
use crate::reply::{Refusal, Reply};
use crate::row::{self, DocumentRow, EventRow};
use crate::timer::TimerKey;
use crate::write::Table;

/// Marks forgotten by one timer, so that a tick stays short.
const FORGOTTEN_PER_TIMER_MAX: usize = 256;
/// Bodies up to this size stay with their mark: what a decision answers with must not need reading.
const MARKED_BODY_BYTES_MAX: usize = 64;

/// Which document of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentKey {
    /// What it is: a word of whoever writes it.
    pub kind: String,
    /// Which of that kind.
    pub name: String,
}

impl DocumentKey {
    /// A key of these parts.
    pub fn new(kind: &str, name: impl Into<String>) -> Self {
        DocumentKey { kind: kind.to_owned(), name: name.into() }
    }
}

/// A document to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutDocument {
    /// Which.
    pub key: DocumentKey,
    /// The version it must have now: 0 for one that must not exist. `None` writes over whatever is there.
    pub expect: Option<u64>,
    /// What it says, JSON by convention.
    pub body: Bytes,
    /// It is forgotten after this time without being written again. `None` keeps it.
    pub ttl_ms: Option<u64>,
    /// How many versions before this one are kept for those who look back. The same each time: what was kept by more
    /// is not removed by less.
    pub history: u32,
}

/// A document as a decision knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    version: u64,
    expires_at: Option<Ms>,
    body: Option<Bytes>,
    /// When the mark may be forgotten.
    until: Ms,
}

impl DocumentRow {
    /// Whether it counts as gone.
    pub fn expired(&self, now: Ms) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

impl crate::tenant::Tenant {
    pub(crate) fn document_need(&self, key: &DocumentKey) -> Option<Need> {
        (!self.documents.contains_key(key)).then(|| Need::Document(key.clone()))
    }
}

impl Step<'_> {
    pub(crate) fn put_document(
        &mut self,
        put: PutDocument,
        fence: Option<Fence>,
        guard: Guard,
        event: Option<(String, Option<String>, Bytes)>,
        facts: &Facts,
    ) -> Result<Reply, Refusal> {
        self.check_put(&put, fence, guard, event.as_ref(), facts)?;
        let by = fence.map(|fence| fence.task.run);
        let version = self.put_checked(put, by, fence, guard, event, facts);
        Ok(Reply::Written { version })
    }

    /// Everything that could refuse a document that is written on somebody's behalf.
    pub(crate) fn check_put(
        &mut self,
        put: &PutDocument,
        fence: Option<Fence>,
        guard: Guard,
        event: Option<&(String, Option<String>, Bytes)>,
        facts: &Facts,
    ) -> Result<(), Refusal> {
        if let Some(fence) = fence {
            self.check_fence(fence)?;
            if guard.no_message_waits && self.unread_messages(fence.task.run) > 0 && !self.inbox_closed(fence.task.run)
            {
                return Err(Refusal::MessageWaits { run: fence.task.run });
            }
        }
        self.check_document(put)?;
        self.check_version(put, facts)?;
        match event {
            Some((name, scope, data)) => self.check_event(name, scope.as_deref(), data),
            None => Ok(()),
        }
    }

    /// Writes a checked document, and does what goes with it.
    pub(crate) fn put_checked(
        &mut self,
        put: PutDocument,
        by: Option<RunId>,
        fence: Option<Fence>,
        guard: Guard,
        event: Option<(String, Option<String>, Bytes)>,
        facts: &Facts,
    ) -> u64 {
        if let Some(fence) = fence.filter(|_| guard.passes_commit_point) {
            self.close_inbox(fence.task.run);
        }
        let version = self.write_document(put, by, facts);
        if let Some((name, scope, data)) = event {
            let run = fence.map(|fence| fence.task.run).or(by);
            self.publish(EventRow { name, scope, at: self.now, run, data, metadata: None }, None);
        }
        version
    }

    pub(crate) fn check_document(&self, put: &PutDocument) -> Result<(), Refusal> {
        self.check_label("the document's kind", &put.key.kind)?;
        self.check_key("the document's name", &put.key.name)?;
        let (found, max) = (put.body.len(), self.limits.document_bytes_max);
        if found > max { Err(Refusal::TooLarge { what: "the document", found, max }) } else { Ok(()) }
    }

    /// Whether a document has the version that is expected of it.
    pub(crate) fn check_version(&self, put: &PutDocument, facts: &Facts) -> Result<(), Refusal> {
        let found = self.version_of(&put.key, facts);
        match put.expect {
            Some(expected) if expected != found => Err(Refusal::VersionConflict {
                kind: put.key.kind.clone(),
                name: put.key.name.clone(),
                found,
                expected,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// The version a document has: 0 if there is none, or it has expired.
    fn version_of(&self, key: &DocumentKey, facts: &Facts) -> u64 {
        match self.t.documents.get(key) {
            Some(mark) if mark.expires_at.is_some_and(|at| at <= self.now) => 0,
            Some(mark) => mark.version,
            None => self.fact_of(key, facts).filter(|row| !row.expired(self.now)).map_or(0, |row| row.version),
        }
    }

    fn fact_of<'f>(&self, key: &DocumentKey, facts: &'f Facts) -> Option<&'f DocumentRow> {
        match facts.get(&Need::Document(key.clone())) {
            Some(Fact::Document(row)) => Some(row),
            _ => None,
        }
    }

    /// A small document that has not expired.
    pub(crate) fn small_document(&self, key: &DocumentKey, facts: &Facts) -> Option<Bytes> {
        match self.t.documents.get(key) {
            Some(mark) if mark.expires_at.is_some_and(|at| at <= self.now) => None,
            Some(mark) => mark.body.clone(),
            None => self.fact_of(key, facts).filter(|row| !row.expired(self.now)).map(|row| row.body.clone()),
        }
    }

    /// Writes a checked document and gives its version.
    pub(crate) fn write_document(&mut self, put: PutDocument, by: Option<RunId>, facts: &Facts) -> u64 {
        // Also one that has expired counts on, so that nobody takes its successor for it.
        let before = match self.t.documents.get(&put.key) {
            Some(mark) => mark.version,
            None => self.fact_of(&put.key, facts).map_or(0, |row| row.version),
        };
        let version = before + 1;
        let expires_at = put.ttl_ms.map(|ttl| self.now.saturating_add(ttl));
        let row = DocumentRow { version, body: put.body, updated_at: self.now, expires_at, by };
        self.out.put(Table::Document, &row::key::document(self.tenant, &put.key), &row);
        if put.history > 0 {
            self.out.put(Table::Revision, &row::key::revision(self.tenant, &put.key, version), &row);
            // Only the one that leaves: to find more, they would have to be read. So who writes a document keeps the same
            // number each time.
            if let Some(old) = version.checked_sub(u64::from(put.history) + 1).filter(|old| *old > 0) {
                self.out.delete(Table::Revision, &row::key::revision(self.tenant, &put.key, old));
            }
        }
        let body = (row.body.len() <= MARKED_BODY_BYTES_MAX).then_some(row.body);
        self.mark(put.key, version, expires_at, body);
        version
    }

    fn mark(&mut self, key: DocumentKey, version: u64, expires_at: Option<Ms>, body: Option<Bytes>) {
        let until = self.now.saturating_add(self.limits.document_mark_ms);
        if self.t.marked.is_empty() {
            self.timers.set(until, self.tenant, TimerKey::Marks);
        }
        if let Some(before) = self.t.documents.insert(key.clone(), Mark { version, expires_at, body, until }) {
            self.t.marked.remove(&(before.until, key.clone()));
        }
        self.t.marked.insert((until, key));
    }

    /// Forgets marks that are old enough, a bounded number at a time.
    pub(crate) fn forget_marks(&mut self) {
        for _ in 0..FORGOTTEN_PER_TIMER_MAX {
            match self.t.marked.first() {
                Some((until, _)) if *until <= self.now => {}
                Some(_) | None => break,
            }
            if let Some((_, key)) = self.t.marked.pop_first() {
                self.t.documents.remove(&key);
            }
        }
        if let Some((until, _)) = self.t.marked.first() {
            self.timers.set(*until, self.tenant, TimerKey::Marks);
        }
    }
}

/// What must hold of the turn on whose behalf a document is written, and what becomes of it. Without a fence there is no
/// such turn, and nothing is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guard {
    /// No message may wait for the run: one that does changes what should be done.
    pub no_message_waits: bool,
    /// From here on the run takes no more messages: it has done what can't be taken back.
    pub passes_commit_point: bool,
}
