//! The key of a row: the tenant first, so that nothing is ever read across tenants, then what orders it in time.

use alloc::vec::Vec;

use crate::document::DocumentKey;
use crate::id::{MessageId, PayloadId, RunId, TaskId, TenantId, TokenId, VersionId, WorkerId};
use crate::stream::Place;

fn join(tenant: TenantId, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    key.extend_from_slice(&tenant.to_bytes());
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// Of a tenant.
pub fn tenant(tenant: TenantId) -> Vec<u8> {
    join(tenant, &[])
}
/// Of a workflow version.
pub fn workflow(tenant: TenantId, version: VersionId) -> Vec<u8> {
    join(tenant, &[&version.to_bytes()])
}
/// Of a run.
pub fn run(tenant: TenantId, run: RunId) -> Vec<u8> {
    join(tenant, &[&run.to_bytes()])
}
/// Of a task.
pub fn task(tenant: TenantId, task: TaskId) -> Vec<u8> {
    join(tenant, &[&task.run.to_bytes(), &task.index.to_be_bytes()])
}
/// Of a journal entry.
pub fn journal(tenant: TenantId, task: TaskId, position: u32) -> Vec<u8> {
    join(tenant, &[&task.run.to_bytes(), &task.index.to_be_bytes(), &position.to_be_bytes()])
}
/// Of a message.
pub fn message(tenant: TenantId, message: MessageId) -> Vec<u8> {
    join(tenant, &[&message.to_bytes()])
}
/// Of an inbox.
pub fn inbox(tenant: TenantId, workflow: &str, key: &str) -> Vec<u8> {
    join(tenant, &[&(workflow.len() as u16).to_be_bytes(), workflow.as_bytes(), key.as_bytes()])
}
/// Of an event. Events of one scope lie together, in order, so that one range is one session's history.
pub fn event(tenant: TenantId, scope: Option<&str>, seq: u64) -> Vec<u8> {
    join(tenant, &[&scope_hash(scope).to_be_bytes(), &seq.to_be_bytes()])
}
/// The part of an event's key that stands for its scope; 0 for events that have none.
pub fn scope_hash(scope: Option<&str>) -> u64 {
    scope.map_or(0, |scope| crate::id::fingerprint([scope.as_bytes()]).max(1))
}
/// Of an idempotency key.
pub fn idempotency(tenant: TenantId, key: &str) -> Vec<u8> {
    join(tenant, &[key.as_bytes()])
}
/// Of a token.
pub fn token(tenant: TenantId, token: TokenId) -> Vec<u8> {
    join(tenant, &[&token.to_bytes()])
}
/// Of a worker.
pub fn worker(tenant: TenantId, worker: WorkerId) -> Vec<u8> {
    join(tenant, &[&worker.to_bytes()])
}
/// Of a rate limit.
pub fn rate(tenant: TenantId, name: &str) -> Vec<u8> {
    join(tenant, &[name.as_bytes()])
}
/// Of a child a task asked for. The run comes first, so that a run's children are one range.
pub fn child(tenant: TenantId, task: TaskId, name: &str) -> Vec<u8> {
    let hash = crate::id::fingerprint([name.as_bytes()]);
    join(tenant, &[&task.run.to_bytes(), &task.index.to_be_bytes(), &hash.to_be_bytes()])
}
/// Of a line of a task's log. Lines of one task lie in the order they were accepted in.
pub fn log(tenant: TenantId, task: TaskId, line: u128) -> Vec<u8> {
    join(tenant, &[&task.run.to_bytes(), &task.index.to_be_bytes(), &line.to_be_bytes()])
}
/// Of a document. Documents of one kind lie together, in the order of their names.
pub fn document(tenant: TenantId, key: &DocumentKey) -> Vec<u8> {
    join(tenant, &[&(key.kind.len() as u16).to_be_bytes(), key.kind.as_bytes(), key.name.as_bytes()])
}
/// Of a document as it stood at a version. Those of one document lie together, in order.
pub fn revision(tenant: TenantId, key: &DocumentKey, version: u64) -> Vec<u8> {
    let lengths = [(key.kind.len() as u16).to_be_bytes(), (key.name.len() as u16).to_be_bytes()];
    join(tenant, &[&lengths[0], &lengths[1], key.kind.as_bytes(), key.name.as_bytes(), &version.to_be_bytes()])
}
/// Of a payload.
pub fn payload(tenant: TenantId, payload: PayloadId) -> Vec<u8> {
    join(tenant, &[&payload.to_bytes()])
}

/// The tenant a key belongs to. `None` for keys too short to be a tenant's.
pub fn tenant_of(key: &[u8]) -> Option<TenantId> {
    Some(TenantId(u128::from_be_bytes(key.get(..16)?.try_into().ok()?)))
}
/// The second 16 bytes of a key, as a number.
pub fn second(key: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(key.get(16..32)?.try_into().ok()?))
}
/// The task of a task's or journal entry's key.
pub fn task_of(key: &[u8]) -> Option<TaskId> {
    let index = u16::from_be_bytes(key.get(32..34)?.try_into().ok()?);
    Some(TaskId { run: RunId(second(key)?), index })
}
/// The position of a journal entry's key.
pub fn position_of(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(34..38)?.try_into().ok()?))
}
/// The sequence number of an event's key.
pub fn event_seq_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(24..32)?.try_into().ok()?))
}
/// Workflow and key of an inbox's key.
pub fn inbox_of(key: &[u8]) -> Option<(&str, &str)> {
    let length = usize::from(u16::from_be_bytes(key.get(16..18)?.try_into().ok()?));
    let workflow = core::str::from_utf8(key.get(18..18 + length)?).ok()?;
    Some((workflow, core::str::from_utf8(key.get(18 + length..)?).ok()?))
}
/// Kind and name of a document's key.
pub fn document_of(key: &[u8]) -> Option<DocumentKey> {
    let length = usize::from(u16::from_be_bytes(key.get(16..18)?.try_into().ok()?));
    let kind = core::str::from_utf8(key.get(18..18 + length)?).ok()?;
    Some(DocumentKey::new(kind, core::str::from_utf8(key.get(18 + length..)?).ok()?))
}
/// The name of a rate limit's key.
pub fn rate_of(key: &[u8]) -> Option<&str> {
    core::str::from_utf8(key.get(16..)?).ok()
}
/// The text of an idempotency key's key.
pub fn idempotency_of(key: &[u8]) -> Option<&str> {
    core::str::from_utf8(key.get(16..)?).ok()
}

/// Of a stream.
pub fn stream(tenant: TenantId, name: &str) -> Vec<u8> {
    join(tenant, &[name.as_bytes()])
}
/// Of a partition of a stream.
pub fn stream_part(tenant: TenantId, stream: u32, generation: u32, partition: u16) -> Vec<u8> {
    join(tenant, &[&stream.to_be_bytes(), &generation.to_be_bytes(), &partition.to_be_bytes()])
}
/// Of an entry. Those of one partition lie together, in order.
pub fn stream_entry(tenant: TenantId, stream: u32, place: Place) -> Vec<u8> {
    let (generation, partition, seq) =
        (place.generation.to_be_bytes(), place.partition.to_be_bytes(), place.seq.to_be_bytes());
    join(tenant, &[&stream.to_be_bytes(), &generation, &partition, &seq])
}
/// Of a publisher's id for an entry.
pub fn stream_entry_id(tenant: TenantId, stream: u32, id: &str) -> Vec<u8> {
    join(tenant, &[&stream.to_be_bytes(), id.as_bytes()])
}
/// Of a group of a stream.
pub fn stream_group(tenant: TenantId, stream: u32, group: &str) -> Vec<u8> {
    join(tenant, &[&stream.to_be_bytes(), group.as_bytes()])
}
/// Of a group's progress in a partition. That of all groups in one partition lies together.
pub fn stream_progress(tenant: TenantId, stream: u32, generation: u32, partition: u16, group: &str) -> Vec<u8> {
    let part = [generation.to_be_bytes().as_slice(), &partition.to_be_bytes()].concat();
    join(tenant, &[&stream.to_be_bytes(), &part, group.as_bytes()])
}
/// What follows the tenant in a stream's key.
pub fn stream_of(key: &[u8]) -> Option<&str> {
    core::str::from_utf8(key.get(16..)?).ok()
}
/// The number of the stream in the key of anything that is a stream's.
pub fn stream_number_of(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(16..20)?.try_into().ok()?))
}
/// Generation and partition of the key of a partition, an entry or a progress.
pub fn stream_part_of(key: &[u8]) -> Option<(u32, u16)> {
    let generation = u32::from_be_bytes(key.get(20..24)?.try_into().ok()?);
    Some((generation, u16::from_be_bytes(key.get(24..26)?.try_into().ok()?)))
}
/// The place in the key of an entry.
pub fn stream_place_of(key: &[u8]) -> Option<Place> {
    let (generation, partition) = stream_part_of(key)?;
    let seq = u64::from_be_bytes(key.get(26..34)?.try_into().ok()?);
    Some(Place { generation, partition, seq })
}
/// The name of the group in its key.
pub fn stream_group_of(key: &[u8]) -> Option<&str> {
    core::str::from_utf8(key.get(20..)?).ok()
}
/// The name of the group in the key of its progress.
pub fn stream_progress_of(key: &[u8]) -> Option<&str> {
    core::str::from_utf8(key.get(26..)?).ok()
}
