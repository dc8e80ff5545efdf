//! Sees every batch that becomes durable, and tells the books what it says, in words of their own.
//!
//! This is the only part of the books' side that knows how rows are encoded. It also holds recovery to account: what was
//! durable must come back byte for byte, and no more than the one batch that was being written may come with it.

use std::collections::BTreeMap;

use mainspring_core::Table;
use mainspring_core::id::fingerprint;
use mainspring_core::journal::{Completion, EntryKind};
use mainspring_core::row::{
    self, DocumentRow, EventRow, IdempotencyRow, JournalRow, MessageRow, MessageState, MetaRow, RateRow, RunRow,
    TaskRow, TaskState, key,
};
use mainspring_core::write::{Op, ops};

use crate::books::Books;
use crate::books::facts::{Document, Entry, Event, Fact, Message, Rate, Request, Run, Task};
use crate::ground::Ground;

/// What one partition's log holds, as far as anybody could have been told.
#[derive(Debug, Default)]
pub struct Witness {
    partition: usize,
    /// Batches by position.
    durable: BTreeMap<u64, Vec<u8>>,
    /// The batch that was being written when its process ended.
    maybe: Option<(u64, Vec<u8>)>,
    /// The last write of each row.
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Witness {
    /// The witness of one partition's log.
    pub fn new(partition: usize) -> Witness {
        Witness { partition, ..Witness::default() }
    }

    /// The last durable position.
    pub fn position(&self) -> u64 {
        self.durable.last_key_value().map_or(0, |(position, _)| *position)
    }

    /// A batch became durable.
    pub fn durable(&mut self, position: u64, bytes: &[u8], books: &mut Books) {
        let expected = self.position() + 1;
        if position != expected {
            books.violated(format!("a batch was appended at {position}, the log stood at {expected}"));
            return;
        }
        self.maybe = None;
        self.durable.insert(position, bytes.to_vec());
        for op in ops(bytes) {
            match op {
                Ok(op) => self.enter(op, books),
                Err(error) => books.violated(format!("batch {position} does not decode: {error}")),
            }
        }
        books.batch_ends();
    }

    /// A batch was being written when its process ended: it may be there or not.
    pub fn maybe(&mut self, bytes: &[u8]) {
        self.maybe = Some((self.position() + 1, bytes.to_vec()));
    }

    /// A log was opened and showed these batches from `from` on.
    pub fn recovered(&mut self, from: u64, shown: &[(u64, Vec<u8>)], books: &mut Books) {
        let mut next = from;
        for (position, bytes) in shown {
            if *position != next {
                books.violated(format!("a recovery showed batch {position}, {next} was next"));
                return;
            }
            next += 1;
            match (self.durable.get(position), &self.maybe) {
                (Some(known), _) if known == bytes => {}
                (Some(_), _) => {
                    books.violated(format!("batch {position} came back as another one"));
                    return;
                }
                (None, Some((maybe, known))) if maybe == position && known == bytes => {
                    books.sometimes("a batch that nobody was told about survived its crash");
                    self.durable(*position, bytes, books);
                }
                (None, _) => {
                    books.violated(format!("batch {position} came back and was never written"));
                    return;
                }
            }
        }
        if next <= self.position() {
            books.violated(format!("batches {next} to {} were durable and did not come back", self.position()));
        }
        if self.maybe.take().is_some_and(|(position, _)| position == next) {
            books.sometimes("a batch that nobody was told about was lost in its crash");
        }
    }

    /// Everything is at rest and applied: the tables must be what the log says.
    pub fn compare(&self, ground: &dyn Ground, partition: u16, books: &mut Books) {
        let mut seen = 0;
        ground.each(partition, &mut |table, key, body| {
            seen += 1;
            if self.rows.get(&(table, key.to_vec())).is_none_or(|known| known != body) {
                books.violated(format!("a row of {table:?} in the tables is not what the log says"));
            }
        });
        if seen != self.rows.len() {
            books.violated(format!("the tables have {seen} rows, the log says {}", self.rows.len()));
        }
    }

    fn enter(&mut self, op: Op<'_>, books: &mut Books) {
        let place = (op.table, op.key.to_vec());
        match op.body {
            Some(body) => {
                self.rows.insert(place, body.to_vec());
            }
            None => {
                if !matches!(
                    op.table,
                    Table::Inbox
                        | Table::Idempotency
                        | Table::Worker
                        | Table::Revision
                        | Table::StreamPart
                        | Table::StreamProgress
                        | Table::Pending
                ) {
                    books.violated(format!("a row of {:?} was deleted", op.table));
                }
                self.rows.remove(&place);
            }
        }
        match fact_of(op) {
            Some(fact) => books.enter(self.partition, fact),
            None => books.violated(format!("a row of {:?} does not decode", op.table)),
        }
    }
}

fn fact_of(op: Op<'_>) -> Option<Fact> {
    let Some(body) = op.body else { return Some(Fact::Other) };
    let digest = fingerprint([body]);
    Some(match op.table {
        Table::Meta => Fact::Now(row::decode::<MetaRow>(body).ok()?.now),
        Table::Run => {
            let run: RunRow = row::decode(body).ok()?;
            Fact::Run(Run {
                tenant: key::tenant_of(op.key)?.0,
                id: key::second(op.key)?,
                workflow: run.workflow,
                state: run.state.word(),
                ended: run.state.ended(),
                key: run.key,
                priority: run.priority,
                created_at: run.created_at,
                input: run.input.map(|payload| payload.id.0),
                superseded_by: run.superseded_by.map(|by| by.0),
                child_of: run.child_of.map(|of| (of.task.run.0, of.task.index, of.name)),
                digest,
            })
        }
        Table::Task => {
            let task: TaskRow = row::decode(body).ok()?;
            let id = key::task_of(op.key)?;
            let (worker, since, until) = match task.state {
                TaskState::Running { worker, since, .. } => (Some(worker.0), since, None),
                TaskState::Queued { since } | TaskState::Suspended { since } | TaskState::Judged { since } => {
                    (None, since, None)
                }
                TaskState::Backoff { until } => (None, 0, Some(until)),
                TaskState::Blocked
                | TaskState::Parked
                | TaskState::Completed
                | TaskState::Failed
                | TaskState::Cancelled
                | TaskState::Skipped => (None, 0, None),
            };
            Fact::Task(Task {
                tenant: key::tenant_of(op.key)?.0,
                run: id.run.0,
                index: id.index,
                state: task.state.word(),
                ended: task.state.ended(),
                worker,
                since,
                until,
                attempt: task.attempt,
                invocation: task.invocation,
                acknowledged: task.acknowledged,
                entries: task.journal_len,
                pending: task.pending.iter().map(|(position, pending)| (*position, pending.deadline)).collect(),
                output: task.output.map(|payload| payload.id.0),
                fence: task.fence,
                digest,
            })
        }
        Table::Journal => {
            let entry: JournalRow = row::decode(body).ok()?;
            let id = key::task_of(op.key)?;
            Fact::Entry(Entry {
                tenant: key::tenant_of(op.key)?.0,
                run: id.run.0,
                index: id.index,
                position: key::position_of(op.key)?,
                kind: entry.kind.word(),
                label: entry.label,
                done_at: entry.done.as_ref().map(|(at, _)| *at),
                by_time: entry.done.as_ref().is_some_and(|(_, how)| match how {
                    Completion::TimedOut => true,
                    Completion::Unit => matches!(entry.kind, EntryKind::Sleep | EntryKind::Take),
                    Completion::Bool(_)
                    | Completion::Value(_)
                    | Completion::Failed(_)
                    | Completion::Cancelled(_)
                    | Completion::Messages(_)
                    | Completion::Closed
                    | Completion::Spawned(_)
                    | Completion::Child(_) => false,
                }),
                yes: entry.done.as_ref().is_some_and(|(_, how)| *how == Completion::Bool(true)),
                digest,
            })
        }
        Table::Message => {
            let message: MessageRow = row::decode(body).ok()?;
            let (state, run) = match message.state {
                MessageState::Unread => ("unread", None),
                MessageState::Received { run } => ("received", Some(run.0)),
                MessageState::Done { run } => ("done", Some(run.0)),
            };
            Fact::Message(Message {
                tenant: key::tenant_of(op.key)?.0,
                id: key::second(op.key)?,
                session: message.key,
                payload: message.payload.id.0,
                accepted_at: message.accepted_at,
                state,
                run,
            })
        }
        Table::Event => {
            let event: EventRow = row::decode(body).ok()?;
            Fact::Event(Event {
                tenant: key::tenant_of(op.key)?.0,
                seq: key::event_seq_of(op.key)?,
                name: event.name,
                data: event.data.to_vec(),
            })
        }
        Table::Rate => {
            let rate: RateRow = row::decode(body).ok()?;
            let (tenant, name) = (key::tenant_of(op.key)?.0, key::rate_of(op.key)?.to_owned());
            Fact::Rate(Rate { tenant, name, since: rate.since })
        }
        Table::Document => {
            let (document, key_of): (DocumentRow, _) = (row::decode(body).ok()?, key::document_of(op.key)?);
            Fact::Document(Document {
                tenant: key::tenant_of(op.key)?.0,
                kind: key_of.kind,
                name: key_of.name,
                version: document.version,
                body: document.body.to_vec(),
                by: document.by.map(|by| by.0),
            })
        }
        Table::Idempotency => {
            let known: IdempotencyRow = row::decode(body).ok()?;
            Fact::Request(Request {
                tenant: key::tenant_of(op.key)?.0,
                name: key::idempotency_of(op.key)?.to_owned(),
                led_to: (known.message.map(|message| message.0), known.run.0),
            })
        }
        Table::Payload => {
            Fact::Payload { tenant: key::tenant_of(op.key)?.0, id: key::second(op.key)?, bytes: body.to_vec() }
        }
        Table::Tenant
        | Table::Workflow
        | Table::Inbox
        | Table::Token
        | Table::Worker
        | Table::Child
        | Table::Log
        | Table::Revision
        | Table::Stream
        | Table::StreamPart
        | Table::StreamEntry
        | Table::StreamEntryId
        | Table::StreamGroup
        | Table::StreamProgress
        | Table::Pending => Fact::Other,
    })
}
