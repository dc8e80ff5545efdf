//! An inbox: ordered, durable messages for one (workflow, key).
//!
//! A message for a key with no live run starts one. A run that ends with messages unread is followed by the next run
//! for them, in the same decision. No message is ever between two chairs: it is unread, received by the live run, or
//! done with the run that consumed it. The next run's id is promised as soon as a message comes that the live run will
//! not take, so that whoever sent it can be told.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::command::{Admission, Facts, Idempotency};
use crate::document::{DocumentKey, PutDocument};
use crate::effect::Effect;
use crate::id::{MessageId, RunId, TaskId};
use crate::journal::{Completion, PendingKind, Received};
use crate::machine::{Consequence, Step};
use crate::reply::{InboxView, Refusal, Reply};
use crate::row::{self, EventRow, InboxRow, MessageRow, MessageState, RunState, TaskState};
use crate::run::NewRun;
use crate::write::Table;

/// The messages of one (workflow, key) with a live run.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) row: InboxRow,
    /// Not given to the live run, by their place in the order.
    pub(crate) unread: BTreeMap<u64, (MessageId, MessageRow)>,
    /// Given to the live run, which has not ended.
    pub(crate) received: BTreeMap<u64, (MessageId, MessageRow)>,
}

impl Step<'_> {
    pub(crate) fn send_message(
        &mut self,
        workflow: &str,
        key: &str,
        payload: Bytes,
        idempotency: Option<Idempotency>,
        admission: Admission,
        facts: &Facts,
    ) -> Result<Reply, Refusal> {
        if let Some(known) = self.known_request(idempotency.as_ref(), true)?
            && let Some(message) = known.message
        {
            return Ok(Reply::Accepted { message, run: known.run, duplicate: true });
        }
        if let Some((id, _)) = &admission.once {
            self.check_key("the message's own id", id)?;
        }
        let once = admission.once.as_ref().map(|(id, ttl_ms)| (once_key(workflow, key, id), *ttl_ms));
        let known = once.as_ref().and_then(|(once, _)| self.small_document(once, facts));
        if let Some((message, run)) = known.and_then(|body| read_once(&body)) {
            return Ok(Reply::Accepted { message, run, duplicate: true });
        }
        let max = admission.messages_max.map_or(usize::MAX, |max| max as usize);
        self.check_message(workflow, key, &payload, max)?;
        self.check_groups(workflow, key, &admission.groups)?;
        // Last, because it takes what it checks.
        self.admit_uses(&admission.rates)?;
        let groups: BTreeSet<String> = admission.groups.into_iter().map(|(group, _)| group).collect();
        let (message, run) = self.put_message(workflow, key, payload, groups.into_iter().collect())?;
        self.remember_request(idempotency, Some(message), run);
        if let Some((once, ttl_ms)) = once {
            let body = write_once(message, run);
            let put = PutDocument { key: once, expect: None, body, ttl_ms: Some(ttl_ms), history: 0 };
            self.write_document(put, None, facts);
        }
        Ok(Reply::Accepted { message, run, duplicate: false })
    }

    /// Everything about a message itself that could refuse it.
    pub(crate) fn check_message(
        &self,
        workflow: &str,
        key: &str,
        payload: &Bytes,
        messages_max: usize,
    ) -> Result<(), Refusal> {
        self.check_key("the key", key)?;
        self.check_payload("the message", payload)?;
        let (_, def) = self.current_def(workflow)?;
        if !def.inbox {
            return Err(Refusal::NoInbox { name: def.name.clone() });
        }
        let max = messages_max.min(self.limits.inbox_messages_max);
        let inbox = self.t.inboxes.get(&(workflow.to_owned(), key.to_owned()));
        if inbox.map_or(0, |inbox| inbox.unread.len() + inbox.received.len()) >= max {
            return Err(Refusal::Full {
                what: "messages in this inbox",
                max,
                action: "wait until its run has answered some",
            });
        }
        if inbox.is_some() { Ok(()) } else { self.check_live_runs() }
    }

    /// Whether another inbox of these groups may get a live run.
    fn check_groups(&self, workflow: &str, key: &str, groups: &[(String, u32)]) -> Result<(), Refusal> {
        if self.t.inboxes.contains_key(&(workflow.to_owned(), key.to_owned())) {
            return Ok(());
        }
        for (group, max) in groups {
            self.check_key("the group's name", group)?;
            if self.t.groups.get(group).copied().unwrap_or(0) >= *max {
                return Err(Refusal::Crowded { group: group.clone(), max: *max });
            }
        }
        Ok(())
    }

    /// Puts a checked message into an inbox, and starts a run for it if none is live.
    pub(crate) fn put_message(
        &mut self,
        workflow: &str,
        key: &str,
        payload: Bytes,
        groups: Vec<String>,
    ) -> Result<(MessageId, RunId), Refusal> {
        let (version, def) = self.current_def(workflow)?;
        let place = (workflow.to_owned(), key.to_owned());
        let message = MessageId(self.ids.mint());
        let body = payload.clone();
        let payload = self.store_payload(payload);
        let is_new = !self.t.inboxes.contains_key(&place);
        let fresh = self.ids.mint_run();
        if is_new {
            for group in &groups {
                *self.t.groups.entry(group.clone()).or_default() += 1;
            }
        }
        let inbox = self.t.inboxes.entry(place.clone()).or_insert_with(|| Inbox {
            row: InboxRow { live: fresh, closed: false, successor: None, next_seq: 0, groups },
            unread: BTreeMap::new(),
            received: BTreeMap::new(),
        });
        let seq = inbox.row.next_seq;
        inbox.row.next_seq += 1;
        let live = inbox.row.live;
        let run = if inbox.row.closed { *inbox.row.successor.get_or_insert(fresh) } else { live };
        let row = MessageRow {
            workflow: workflow.to_owned(),
            key: key.to_owned(),
            seq,
            payload,
            accepted_at: self.now,
            state: MessageState::Unread,
        };
        self.out.put(Table::Message, &row::key::message(self.tenant, message), &row);
        inbox.unread.insert(seq, (message, row));
        self.dirty_inboxes.insert(place);
        if def.lifecycle_events.is_some() {
            let data = accepted_event(message, &body);
            let (name, scope, at) = ("message.accepted".to_owned(), Some(key.to_owned()), self.now);
            self.publish(EventRow { name, scope, at, run: Some(run), data, metadata: None }, None);
        }
        if is_new {
            let key = Some(key.to_owned());
            self.create_run(NewRun { key, ..NewRun::of(live, version, def) });
        } else {
            self.offer_messages(live, seq);
        }
        Ok((message, run))
    }

    /// Hands unread messages to the live run if it waits for some, or lets its worker know.
    fn offer_messages(&mut self, live: RunId, seq: u64) {
        let id = TaskId { run: live, index: 0 };
        if self.inbox_closed(live) {
            return;
        }
        let Some(task) = self.t.task(id) else { return };
        let waiting = task.pending.iter().find_map(|(position, pending)| match pending.kind {
            PendingKind::Receive { messages_max, .. } => Some((*position, messages_max)),
            PendingKind::Sleep | PendingKind::Event { .. } | PendingKind::Signal { .. } | PendingKind::Child { .. } => {
                None
            }
        });
        match (waiting, &task.state) {
            (Some((position, messages_max)), _) => {
                let messages = self.take_messages(live, messages_max);
                if !messages.is_empty() {
                    self.complete_entry(id, position, Completion::Messages(messages));
                }
            }
            (None, TaskState::Running { worker, .. }) => {
                self.out.effect(Effect::MessageWaits { tenant: self.tenant, worker: *worker, task: id, seq });
            }
            (None, _) => {}
        }
    }

    pub(crate) fn look_at_inbox(&self, workflow: String, key: String) -> Option<InboxView> {
        let inbox = self.t.inboxes.get(&(workflow, key))?;
        Some(InboxView {
            live: inbox.row.live,
            closed: inbox.row.closed,
            successor: inbox.row.successor,
            unread: inbox.unread.len() as u64,
            received: inbox.received.len() as u64,
        })
    }

    fn place_of(&self, run: RunId) -> Option<(String, String)> {
        let run = self.t.runs.get(&run).filter(|run| run.def.inbox)?;
        Some((run.def.name.clone(), run.row.key.clone()?))
    }

    fn inbox_of(&mut self, run: RunId) -> Option<&mut Inbox> {
        let place = self.place_of(run)?;
        self.t.inboxes.get_mut(&place).filter(|inbox| inbox.row.live == run)
    }

    pub(crate) fn inbox_closed(&mut self, run: RunId) -> bool {
        self.inbox_of(run).is_none_or(|inbox| inbox.row.closed)
    }

    pub(crate) fn messages_wait(&mut self, run: RunId) -> bool {
        self.inbox_of(run).is_some_and(|inbox| !inbox.row.closed && !inbox.unread.is_empty())
    }

    /// Messages of an inbox that its live run has not received, whether it still takes some or not.
    pub(crate) fn unread_messages(&mut self, run: RunId) -> u64 {
        self.inbox_of(run).map_or(0, |inbox| inbox.unread.len() as u64)
    }

    /// The place of the last message that waits unread for this run.
    pub(crate) fn last_unread(&mut self, run: RunId) -> Option<u64> {
        let inbox = self.inbox_of(run).filter(|inbox| !inbox.row.closed)?;
        inbox.unread.last_key_value().map(|(seq, _)| *seq)
    }

    /// Closes the inbox for its live run. Whatever the run still waits to receive will not come, and it is told so.
    pub(crate) fn close_inbox(&mut self, run: RunId) {
        let Some(place) = self.place_of(run) else { return };
        // One that is closed already stays as it is, and nobody waits for it.
        let Some(inbox) = self.inbox_of(run).filter(|inbox| !inbox.row.closed) else { return };
        inbox.row.closed = true;
        self.dirty_inboxes.insert(place);
        let task = TaskId { run, index: 0 };
        let Some(row) = self.t.task(task) else { return };
        for (position, pending) in &row.pending {
            match pending.kind {
                PendingKind::Receive { .. } => {
                    let (position, completion) = (*position, Completion::Closed);
                    self.agenda.push_back(Consequence::CompleteEntry { task, position, completion });
                }
                PendingKind::Sleep
                | PendingKind::Event { .. }
                | PendingKind::Signal { .. }
                | PendingKind::Child { .. } => {}
            }
        }
    }

    /// Gives up to `messages_max` unread messages to the live run, in order.
    pub(crate) fn take_messages(&mut self, run: RunId, messages_max: u32) -> Vec<Received> {
        let tenant = self.tenant;
        let Some(place) = self.place_of(run) else { return Vec::new() };
        let Some(inbox) = self.t.inboxes.get_mut(&place).filter(|inbox| inbox.row.live == run) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        while taken.len() < messages_max as usize {
            let Some((seq, (id, mut row))) = inbox.unread.pop_first() else { break };
            row.state = MessageState::Received { run };
            self.out.put(Table::Message, &row::key::message(tenant, id), &row);
            taken.push(Received { id, payload: row.payload, accepted_at: row.accepted_at, seq });
            inbox.received.insert(seq, (id, row));
        }
        if let Some(live) = self.t.runs.get_mut(&run)
            && !taken.is_empty()
        {
            live.row.messages += taken.len() as u32;
            self.dirty_runs.insert(run);
        }
        taken
    }

    /// The live run ended: its messages are done, or go back if it was superseded; what is unread gets a successor.
    pub(crate) fn leave_inbox(&mut self, run: RunId, how: RunState) {
        let tenant = self.tenant;
        let Some(place) = self.place_of(run) else { return };
        let Some(inbox) = self.t.inboxes.get_mut(&place).filter(|inbox| inbox.row.live == run) else { return };
        for (seq, (id, mut row)) in core::mem::take(&mut inbox.received) {
            row.state = if how == RunState::Superseded { MessageState::Unread } else { MessageState::Done { run } };
            self.out.put(Table::Message, &row::key::message(tenant, id), &row);
            if how == RunState::Superseded {
                inbox.unread.insert(seq, (id, row));
            }
        }
        self.dirty_inboxes.insert(place.clone());
        if inbox.unread.is_empty() {
            let gone = self.t.inboxes.remove(&place);
            for group in gone.into_iter().flat_map(|inbox| inbox.row.groups) {
                self.t.leave_group(&group);
            }
            if how == RunState::Superseded {
                self.publish_superseded(run, None);
            }
            return;
        }
        let successor = inbox.row.successor.take().unwrap_or_else(|| self.ids.mint_run());
        inbox.row.live = successor;
        inbox.row.closed = false;
        if how == RunState::Superseded {
            if let Some(ended) = self.t.runs.get_mut(&run) {
                ended.row.superseded_by = Some(successor);
            }
            self.publish_superseded(run, Some(successor));
        }
        let (workflow, key) = place;
        // The workflow may have a new version by now; new runs use it. Its old version is the fallback.
        let ended = self.t.runs.get(&run);
        let old = ended.map(|run| (run.row.version, run.def.clone()));
        // What took over messages belongs to one chain; what merely follows begins a new one.
        let lineage = ended
            .filter(|_| how == RunState::Superseded)
            .map(|ended| (ended.row.group.unwrap_or(run), ended.row.superseded_before + 1));
        let found = self.current_def(&workflow).ok().filter(|(_, def)| def.inbox).or(old);
        let Some((version, def)) = found else { return };
        let superseded_from = (how == RunState::Superseded).then_some(run);
        self.create_run(NewRun { key: Some(key), superseded_from, lineage, ..NewRun::of(successor, version, def) });
    }
}

/// The document that remembers a message by its sender's own id.
pub(crate) fn once_key(workflow: &str, key: &str, id: &str) -> DocumentKey {
    // With the lengths, so that no two of these can be spelt the same.
    DocumentKey::new("message", format!("{}:{}:{workflow}:{key}:{id}", workflow.len(), key.len()))
}

fn write_once(message: MessageId, run: RunId) -> Bytes {
    [message.to_bytes(), run.to_bytes()].concat().into()
}

fn read_once(body: &Bytes) -> Option<(MessageId, RunId)> {
    let number = |from: usize| Some(u128::from_be_bytes(body.get(from..from + 16)?.try_into().ok()?));
    Some((MessageId(number(0)?), RunId(number(16)?)))
}

/// The data of `message.accepted`. A short message, which is JSON by convention, goes with it, so that whoever follows
/// the session need not ask for each.
fn accepted_event(id: MessageId, body: &Bytes) -> Bytes {
    /// Longer messages are read from the tables by those who want them.
    const INLINE_BYTES_MAX: usize = 8 * 1024;
    let mut data = format!("{{\"message_id\":\"{id}\"").into_bytes();
    if (1..=INLINE_BYTES_MAX).contains(&body.len()) {
        data.extend_from_slice(b",\"message\":");
        data.extend_from_slice(body);
    }
    data.push(b'}');
    Bytes::from(data)
}
