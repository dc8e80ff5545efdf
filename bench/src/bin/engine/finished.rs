//! A store that holds many runs which have ended, as if an engine had carried them out long ago.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mainspring_core::row::{self, PayloadRef, RunRow, RunState, TaskRow, TaskState, key};
use mainspring_core::{PayloadId, RunId, Table, TaskId, TenantId, VersionId};
use mainspring_engine::{Embedded, LogOptions};
use mainspring_store::moving::Movable;

use crate::load::PAYLOAD;

/// Whose they are. Before that of the load, so that what is written next goes to the right end of each tree, as it does
/// for a tenant with a past of its own.
const TENANT: TenantId = TenantId(0);
/// Runs written at once.
const AT_ONCE: u64 = 20_000;
/// How long ago they ended: long enough to be the past, and too short to be cleaned up.
const AGO_MS: u64 = 24 * 3_600 * 1_000;

/// Puts them into a new store in a directory.
///
/// # Errors
/// When the store can't be written.
pub(crate) fn fill(dir: &Path, runs: u64) -> anyhow::Result<()> {
    let store = Embedded::new(dir, LogOptions::default());
    store.create(1)?;
    let mut filling = store.filling(0)?;
    let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64 - AGO_MS;
    for from in (0..runs).step_by(AT_ONCE as usize) {
        let (mut of_runs, mut of_tasks, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
        for nth in from..(from + AT_ONCE).min(runs) {
            // As the core's ids: the time first, and rising.
            let id = u128::from(at) << 80 | u128::from(nth) << 20;
            let [input, output] =
                [1, 2].map(|more| PayloadRef { id: PayloadId(id + more), bytes: PAYLOAD.len() as u32 });
            of_runs.push((key::run(TENANT, RunId(id)), encoded(&run(at, input, output))));
            let task = TaskId { run: RunId(id), index: 0 };
            of_tasks.push((key::task(TENANT, task), encoded(&ended_task(at, output))));
            payloads.extend([input, output].map(|payload| (key::payload(TENANT, payload.id), PAYLOAD.to_vec())));
        }
        filling.put(Table::Run, &of_runs)?;
        filling.put(Table::Task, &of_tasks)?;
        filling.put(Table::Payload, &payloads)?;
    }
    filling.settle()?;
    Ok(())
}

fn encoded<T: row::Row>(row: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    row::encode(row, &mut bytes);
    bytes
}

fn run(at: u64, input: PayloadRef, output: PayloadRef) -> RunRow {
    RunRow {
        workflow: "bench".to_owned(),
        version: VersionId(u128::MAX / 3),
        state: RunState::Completed,
        key: None,
        priority: 1,
        input: Some(input),
        output: Some(output),
        error: None,
        parent: None,
        superseded_from: None,
        superseded_by: None,
        created_at: at,
        started_at: Some(at),
        finished_at: Some(at),
        tasks: 1,
        messages: 0,
        metadata: None::<Bytes>,
        wishes: None,
        child_of: None,
        event: None,
        group: None,
        superseded_before: 0,
        once: false,
        guarded: false,
        asked_to_end: None,
    }
}

fn ended_task(at: u64, output: PayloadRef) -> TaskRow {
    TaskRow {
        state: TaskState::Completed,
        attempt: 1,
        invocation: 1,
        output: Some(output),
        queued_at: Some(at),
        started_at: Some(at),
        finished_at: Some(at),
        ..TaskRow::new()
    }
}
