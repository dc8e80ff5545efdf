//! The next entries of a journal: read back as far as they are there, checked, recorded.
//!
//! One command may bring several entries in a row, of which only the last is answered: then those before it are of kinds
//! that complete at once with nothing to say. They are one decision. So a function pays for one durable write where it
//! needs no answer in between, and a crash finds all of them or none.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Begun, Pending, PendingKind, Request, describe};
use crate::command::{Claim, Fact, Facts, Need};
use crate::id::TaskId;
use crate::machine::Step;
use crate::reply::{Refusal, Reply};
use crate::row::{self, JournalRow};
use crate::timer::TimerKey;
use crate::write::Table;

impl Request {
    /// Whether it may go before another in one command: it completes at once, and nobody needs to hear with what.
    pub fn may_go_before(&self) -> bool {
        match self {
            Request::Run { .. } | Request::Emit { .. } | Request::Begin { guarded: false, .. } => true,
            // A guarded one may not be begun any more, and whoever asks must hear that.
            Request::Begin { guarded: true, .. }
            | Request::Sleep { .. }
            | Request::Receive { .. }
            | Request::Peek
            | Request::Close { .. }
            | Request::WaitEvent { .. }
            | Request::WaitSignal { .. }
            | Request::Spawn { .. }
            | Request::Signal { .. }
            | Request::Take { .. }
            | Request::Commit { .. }
            | Request::Cancel { .. } => false,
        }
    }
}

/// The place of a command's last entry, where `position` is that of its first.
pub fn last_place(position: u32, before: &[Request]) -> u32 {
    position.saturating_add(u32::try_from(before.len()).unwrap_or(u32::MAX))
}

impl Step<'_> {
    pub(crate) fn journal(
        &mut self,
        claim: Claim,
        position: u32,
        before: Vec<Request>,
        request: Request,
        facts: &Facts,
    ) -> Result<Reply, Refusal> {
        let next = self.claimed(&claim)?.journal_len;
        let run = self.t.runs.get(&claim.task.run).ok_or(Refusal::NoRun { run: claim.task.run })?;
        if !run.def.tasks[usize::from(claim.task.index)].durable {
            return Err(Refusal::NotDurable { task: claim.task });
        }
        if position > next {
            return Err(Refusal::JournalGap { position, next });
        }
        self.check_before(&before)?;
        let last = last_place(position, &before);
        for (place, request) in (position..next).zip(&before) {
            self.journal_again(claim.task, place, request, facts)?;
        }
        if last < next {
            return self.journal_again(claim.task, last, &request, facts);
        }
        let known = (next - position) as usize;
        let new: Vec<_> = before.into_iter().skip(known).collect();
        new.iter().try_for_each(|request| self.check_request(claim.task, request))?;
        self.check_request(claim.task, &request)?;
        if !new.is_empty() {
            self.check_together(claim.task, &new, &request)?;
        }
        for (place, request) in (next..).zip(new) {
            self.add_entry(claim.task, place, request, facts);
        }
        Ok(self.add_entry(claim.task, last, request, facts))
    }

    /// An entry that exists already: the same question gets the same answer, another question is a mismatch.
    fn journal_again(
        &mut self,
        task: TaskId,
        position: u32,
        request: &Request,
        facts: &Facts,
    ) -> Result<Reply, Refusal> {
        let (kind, label, fingerprint) = request.identity();
        let mismatch =
            |expected: String| Refusal::JournalMismatch { position, expected, found: describe(kind, &label) };
        let pending = self.t.task(task).and_then(|row| row.pending.get(&position));
        if let Some(pending) = pending {
            if (pending.entry, pending.fingerprint) != (kind, fingerprint) {
                return Err(mismatch(describe(pending.entry, &pending.label)));
            }
            let child = match &pending.kind {
                PendingKind::Child { run } => Some(*run),
                PendingKind::Sleep
                | PendingKind::Receive { .. }
                | PendingKind::Event { .. }
                | PendingKind::Signal { .. } => None,
            };
            return Ok(Reply::EntryPending { child });
        }
        match facts.get(&Need::Journal(task, position)) {
            Some(Fact::Journal(JournalRow { kind: k, fingerprint: f, done: Some((_, completion)), .. }))
                if (*k, *f) == (kind, fingerprint) =>
            {
                Ok(Reply::EntryDone(completion.clone()))
            }
            Some(Fact::Journal(row)) => Err(mismatch(describe(row.kind, &row.label))),
            _ => Err(mismatch("an entry that could not be read".to_owned())),
        }
    }

    /// What may go before another entry, and how much of it.
    fn check_before(&self, before: &[Request]) -> Result<(), Refusal> {
        let max = self.limits.entries_before_max;
        if before.len() > max {
            let what = "journal entries that go before another in one command";
            return Err(Refusal::Full { what, max, action: "send the first of them by themselves" });
        }
        if let Some(request) = before.iter().find(|request| !request.may_go_before()) {
            let (kind, label, _) = request.identity();
            return Err(Refusal::NotBefore { entry: describe(kind, &label) });
        }
        let (found, max) = (before.iter().map(Request::payload_bytes).sum(), self.limits.entries_before_bytes_max);
        if found > max {
            let what = "what goes before another journal entry in one command";
            return Err(Refusal::TooLarge { what, found, max });
        }
        Ok(())
    }

    /// Each was checked as if it came alone; they come together.
    fn check_together(&self, id: TaskId, before: &[Request], request: &Request) -> Result<(), Refusal> {
        let task = self.t.task(id).ok_or(Refusal::NoRun { run: id.run })?;
        let (known, max) = (task.journal_len as usize, self.limits.journal_entries_max as usize);
        if known + before.len() + 1 > max {
            return Err(self.journal_full());
        }
        let scope = self.t.runs.get(&id.run).and_then(|run| run.row.key.as_deref());
        let committed = match request {
            Request::Commit { commit } => commit.events.as_slice(),
            _ => &[],
        };
        let committed = committed.iter().map(|(name, data)| (name.as_str(), scope, data));
        let emitted = before.iter().chain([request]).filter_map(|request| match request {
            Request::Emit { name, scope: of, data } => Some((name.as_str(), of.as_deref().or(scope), data)),
            _ => None,
        });
        let triggered = self.check_events(emitted.chain(committed))?;
        let starts = match request {
            Request::Spawn { .. } => 1,
            // A message may start a run.
            Request::Commit { commit } => commit.runs.len() + commit.messages.len(),
            _ => 0,
        };
        if triggered == 0 {
            // The last was checked by itself.
            return Ok(());
        }
        self.check_live_runs_and(triggered + starts)
    }

    pub(super) fn journal_full(&self) -> Refusal {
        Refusal::Full {
            what: "entries in this task's journal",
            max: self.limits.journal_entries_max as usize,
            action: "end the function and continue in a new run with the state it needs",
        }
    }

    /// Records a checked entry at the next place, and does what it asks for.
    fn add_entry(&mut self, id: TaskId, position: u32, request: Request, facts: &Facts) -> Reply {
        let (entry, label, fingerprint) = request.identity();
        let now = self.now;
        let requested_at = match &request {
            Request::Run { took_ms, .. } => now.saturating_sub(*took_ms),
            Request::Sleep { .. }
            | Request::Receive { .. }
            | Request::Peek
            | Request::Close { .. }
            | Request::WaitEvent { .. }
            | Request::WaitSignal { .. }
            | Request::Spawn { .. }
            | Request::Signal { .. }
            | Request::Emit { .. }
            | Request::Begin { .. }
            | Request::Take { .. }
            | Request::Commit { .. }
            | Request::Cancel { .. } => now,
        };
        let ends_step = matches!(request, Request::Run { .. });
        let begun = self.begin_entry(id, position, request, facts);
        let done = match &begun {
            Begun::Done(completion) => Some((now, completion.clone())),
            Begun::Pending(..) => None,
        };
        let row = JournalRow { kind: entry, label: label.clone(), fingerprint, requested_at, done };
        self.out.put(Table::Journal, &row::key::journal(self.tenant, id, position), &row);
        if let Some(task) = self.t.task_mut(id) {
            task.journal_len += 1;
            // A recorded entry is progress: whatever took workers away before was not this task stuck.
            task.losses = 0;
            if ends_step {
                task.fence = None;
            }
        }
        self.dirty_task(id);
        match begun {
            Begun::Done(completion) => Reply::EntryDone(completion),
            Begun::Pending(kind, deadline) => {
                let child = match &kind {
                    PendingKind::Child { run } => Some(*run),
                    PendingKind::Sleep
                    | PendingKind::Receive { .. }
                    | PendingKind::Event { .. }
                    | PendingKind::Signal { .. } => None,
                };
                if let PendingKind::Event { name, scope } = &kind {
                    let waits = self.t.event_waits.entry(name.clone()).or_default();
                    waits.entry(scope.clone()).or_default().insert((id, position));
                }
                if let Some(deadline) = deadline {
                    self.timers.set(deadline, self.tenant, TimerKey::Entry(id, position));
                }
                if let Some(task) = self.t.task_mut(id) {
                    let apart = task.pending_with_it() >= Pending::WITH_TASK_MAX;
                    let pending = Pending { entry, label, fingerprint, requested_at: now, deadline, kind, apart };
                    if apart {
                        self.out.put(Table::Pending, &row::key::journal(self.tenant, id, position), &pending);
                    }
                    task.pending.insert(position, pending);
                }
                Reply::EntryPending { child }
            }
        }
    }
}
