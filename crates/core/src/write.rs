//! What a decision records: puts and deletes of whole rows, encoded once into the buffer that becomes the log's batch.

use alloc::vec::Vec;

use crate::effect::Effect;
use crate::id::{PayloadId, TenantId};
use crate::row;
use bytes::Bytes;

/// The tables. The numbers are on disk and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Per partition, one row.
    Meta = 1,
    /// Tenants.
    Tenant = 2,
    /// Workflow versions.
    Workflow = 3,
    /// Runs.
    Run = 4,
    /// Tasks.
    Task = 5,
    /// Journal entries.
    Journal = 6,
    /// Messages.
    Message = 7,
    /// Inboxes with a live run.
    Inbox = 8,
    /// Events.
    Event = 9,
    /// Idempotency keys.
    Idempotency = 10,
    /// API tokens.
    Token = 11,
    /// Payloads: the bytes as they came, without a version byte.
    Payload = 12,
    /// Workers reached over a wire.
    Worker = 13,
    /// Rate limits.
    Rate = 14,
    /// Children that tasks asked for by name.
    Child = 15,
    /// Lines of tasks' logs.
    Log = 16,
    /// Documents, as they stand.
    Document = 17,
    /// Documents, as they stood before.
    Revision = 18,
    /// Streams.
    Stream = 19,
    /// Partitions of streams.
    StreamPart = 20,
    /// Entries of streams.
    StreamEntry = 21,
    /// Where the entry with a publisher's id is.
    StreamEntryId = 22,
    /// Groups that read streams.
    StreamGroup = 23,
    /// How far groups have come.
    StreamProgress = 24,
    /// Journal entries that are not complete, of tasks with many.
    Pending = 25,
}

impl Table {
    /// All tables, in the order of their numbers.
    pub const ALL: [Table; 25] = [
        Table::Meta,
        Table::Tenant,
        Table::Workflow,
        Table::Run,
        Table::Task,
        Table::Journal,
        Table::Message,
        Table::Inbox,
        Table::Event,
        Table::Idempotency,
        Table::Token,
        Table::Payload,
        Table::Worker,
        Table::Rate,
        Table::Child,
        Table::Log,
        Table::Document,
        Table::Revision,
        Table::Stream,
        Table::StreamPart,
        Table::StreamEntry,
        Table::StreamEntryId,
        Table::StreamGroup,
        Table::StreamProgress,
        Table::Pending,
    ];

    /// The table with this number.
    pub fn from_number(number: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|table| *table as u8 == number)
    }
}

/// One put or delete, borrowed from a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op<'a> {
    /// Which table.
    pub table: Table,
    /// Which row.
    pub key: &'a [u8],
    /// The row's new bytes, or `None` to delete it.
    pub body: Option<&'a [u8]>,
}

/// A batch that does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch does not decode at byte {at}: written by a newer release, or damaged")]
pub struct BadBatch {
    /// The offset of the first operation that could not be read.
    pub at: usize,
}

const DELETE: u32 = u32::MAX;
const HEADER: usize = 1 + 2 + 4;

/// Writes and effects of the decisions since the last take.
#[derive(Debug, Default)]
pub struct Out {
    writes: Vec<u8>,
    ops: usize,
    effects: Vec<Effect>,
    payloads: Vec<(TenantId, PayloadId, Bytes)>,
}

impl Out {
    /// An empty buffer.
    pub fn new() -> Self {
        Out::default()
    }

    /// Records a row's new content.
    pub fn put<T: crate::row::Row>(&mut self, table: Table, key: &[u8], row: &T) {
        self.header(table, key, 0);
        let body_at = self.writes.len();
        row::encode(row, &mut self.writes);
        let length = (self.writes.len() - body_at) as u32;
        let length_at = body_at - key.len() - 4;
        self.writes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Records a payload as it came.
    pub fn put_payload(&mut self, tenant: TenantId, id: PayloadId, payload: Bytes) {
        let key = row::key::payload(tenant, id);
        self.header(Table::Payload, &key, payload.len() as u32);
        self.writes.extend_from_slice(&payload);
        self.payloads.push((tenant, id, payload));
    }

    /// Records that a row is gone.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.header(table, key, DELETE);
    }

    /// Asks the world for something, once the writes are durable.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// The encoded batch so far. Decode it with [`ops`].
    pub fn writes(&self) -> &[u8] {
        &self.writes
    }

    /// How many puts and deletes there are so far.
    pub fn op_count(&self) -> usize {
        self.ops
    }

    /// How many effects there are so far.
    pub fn effect_count(&self) -> usize {
        self.effects.len()
    }

    /// Takes everything out, leaving this buffer empty.
    pub fn take(&mut self) -> Decided {
        self.ops = 0;
        Decided {
            writes: core::mem::take(&mut self.writes),
            effects: core::mem::take(&mut self.effects),
            payloads: core::mem::take(&mut self.payloads),
        }
    }

    fn header(&mut self, table: Table, key: &[u8], body: u32) {
        assert!(key.len() <= usize::from(u16::MAX), "keys are bounded by their limits");
        self.ops += 1;
        self.writes.push(table as u8);
        self.writes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.writes.extend_from_slice(&body.to_le_bytes());
        self.writes.extend_from_slice(key);
    }
}

/// What was decided since the last take.
#[derive(Debug, Default)]
pub struct Decided {
    /// The encoded batch.
    pub writes: Vec<u8>,
    /// What to do once it is durable, in order.
    pub effects: Vec<Effect>,
    /// The payloads that came with it, so that whoever dispatches need not read them back.
    pub payloads: Vec<(TenantId, PayloadId, Bytes)>,
}

/// The puts and deletes of an encoded batch, in order.
pub fn ops(batch: &[u8]) -> impl Iterator<Item = Result<Op<'_>, BadBatch>> {
    let mut at = 0;
    core::iter::from_fn(move || {
        if at >= batch.len() {
            return None;
        }
        match op_at(batch, at) {
            Some((op, next)) => {
                at = next;
                Some(Ok(op))
            }
            None => {
                let bad = BadBatch { at };
                at = batch.len();
                Some(Err(bad))
            }
        }
    })
}

fn op_at(batch: &[u8], at: usize) -> Option<(Op<'_>, usize)> {
    let header = batch.get(at..at + HEADER)?;
    let table = Table::from_number(header[0])?;
    let key_len = usize::from(u16::from_le_bytes([header[1], header[2]]));
    let body_len = u32::from_le_bytes([header[3], header[4], header[5], header[6]]);
    let key_at = at + HEADER;
    let body_at = key_at + key_len;
    let key = batch.get(key_at..body_at)?;
    if body_len == DELETE {
        return Some((Op { table, key, body: None }, body_at));
    }
    let next = body_at.checked_add(body_len as usize)?;
    Some((Op { table, key, body: Some(batch.get(body_at..next)?) }, next))
}
