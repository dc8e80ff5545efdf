//! Golden bytes: what this release writes, next year's reads. A change here is a new row version, never an edit.
//!
//! `UPDATE_EXPECT=1` prints what is written now instead of failing; it is for adding a row, not for changing one.

#![allow(clippy::print_stdout, reason = "a test may say what it found")]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use mainspring_core::id::{MessageId, PayloadId, RunId, TaskId, TenantId, TokenId, VersionId, WorkerId};
use mainspring_core::journal::{ChildEnd, Completion, EntryKind, Pending, PendingKind, Received};
use mainspring_core::row::{
    self, BadRow, EventRow, IdempotencyRow, InboxRow, JournalRow, MessageRow, MessageState, MetaRow, OnParentEnd,
    Parent, PayloadRef, RunRow, RunState, TaskRow, TaskState, TenantRow, TokenRow, WorkflowRow, decode, encode, key,
};
use mainspring_core::workflow::{KeyRule, KeyStrategy, RetryRule, TaskDef, WorkflowDef};
use mainspring_core::write::{Op, ops};
use mainspring_core::{Out, Table};
use serde::Serialize;
use serde::de::DeserializeOwned;

const TENANT: TenantId = TenantId(0x0191_0000_0000_7000_8000_0000_0000_0001);
const RUN: RunId = RunId(0x0191_0000_0000_7000_8000_0000_0000_0002);
const OTHER: RunId = RunId(0x0191_0000_0000_7000_8000_0000_0000_0003);
const MESSAGE: MessageId = MessageId(0x0191_0000_0000_7000_8000_0000_0000_0004);
const PAYLOAD: PayloadRef = PayloadRef { id: PayloadId(0x0191_0000_0000_7000_8000_0000_0000_0005), bytes: 300 };
const WORKER: WorkerId = WorkerId(0x0191_0000_0000_7000_8000_0000_0000_0006);
const TOKEN: TokenId = TokenId(0x0191_0000_0000_7000_8000_0000_0000_0007);
const VERSION: VersionId = VersionId(0x0191_0000_0000_7000_8000_0000_0000_0008);
const TASK: TaskId = TaskId { run: RUN, index: 2 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pins a row's bytes, and that they are read back, and that damaged ones are not.
fn pin<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, row: &T, expected: &str) {
    let mut bytes = Vec::new();
    encode(row, &mut bytes);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        println!("{name} {}", hex(&bytes));
        return;
    }
    assert_eq!(hex(&bytes), expected, "{name}: the bytes have changed; write a new row version and read the old one");
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(row), "{name} is read back");

    for length in 0..bytes.len() {
        assert_eq!(decode::<T>(&bytes[..length]), Err(BadRow::Undecodable), "{name} cut after {length} bytes");
    }
    let mut newer = bytes.clone();
    newer[0] = row::ROW_VERSION + 1;
    assert_eq!(decode::<T>(&newer), Err(BadRow::Newer { found: row::ROW_VERSION + 1 }), "{name} of a newer release");
    let mut older = bytes.clone();
    older[0] = 0;
    assert_eq!(decode::<T>(&older), Err(BadRow::Undecodable), "{name} of no release");
    bytes.push(0);
    assert_eq!(decode::<T>(&bytes), Err(BadRow::Undecodable), "{name} with something behind it");
}

fn workflow() -> WorkflowDef {
    WorkflowDef {
        name: "job".into(),
        tasks: vec![TaskDef {
            name: "step".into(),
            action: "act".into(),
            parents: vec![0, 300],
            durable: true,
            retry: RetryRule { attempts_max: 3, backoff_ms: 100, backoff_percent: 200, backoff_max_ms: 1_000 },
            schedule_timeout_ms: Some(5_000),
            execution_timeout_ms: None,
        }],
        key: Some(KeyRule { runs_max: 2, strategy: KeyStrategy::CancelInProgress }),
        inbox: false,
        event_triggers: vec!["order".into()],
        default_priority: 7,
        lifecycle_events: Some("job".into()),
    }
}

fn pending(entry: EntryKind, deadline: Option<u64>, kind: PendingKind) -> Pending {
    Pending { entry, label: "e".into(), fingerprint: 9, requested_at: 10, deadline, kind }
}

fn task(state: TaskState) -> TaskRow {
    TaskRow {
        state,
        attempt: 2,
        invocation: 5,
        failures: 1,
        losses: 0,
        journal_len: 6,
        pending: BTreeMap::from([
            (0, pending(EntryKind::Sleep, Some(11), PendingKind::Sleep)),
            (1, pending(EntryKind::Receive, None, PendingKind::Receive { messages_max: 3, close_on_timeout: true })),
            (2, pending(EntryKind::WaitEvent, None, PendingKind::Event { name: "n".into(), scope: Some("s".into()) })),
            (3, pending(EntryKind::WaitSignal, None, PendingKind::Signal { name: "go".into() })),
            (4, pending(EntryKind::Spawn, None, PendingKind::Child { run: OTHER })),
        ]),
        signals: VecDeque::from([("go".to_owned(), PAYLOAD)]),
        output: None,
        error: Some("oh".into()),
        queued_at: Some(1),
        started_at: Some(2),
        finished_at: None,
    }
}

#[test]
fn rows_of_the_partition_and_the_tenant() {
    pin("meta", &MetaRow { now: 1_700_000_000_000, event_seq: 300 }, META);
    pin("tenant", &TenantRow { name: "acme".into(), created_at: 1_700_000_000_000 }, TENANT_ROW);
    pin("workflow", &WorkflowRow { def: workflow(), current: true, created_at: 1 }, WORKFLOW);
    let scopes = vec!["admin".into(), "send".into()];
    let token = TokenRow { name: "t".into(), scopes, created_at: 1, expires_at: 2, revoked_at: Some(3) };
    pin("token", &token, TOKEN_ROW);
}

#[test]
fn rows_of_a_run() {
    let run = RunRow {
        workflow: "job".into(),
        version: VERSION,
        state: RunState::Superseded,
        key: Some("k".into()),
        priority: 7,
        input: Some(PAYLOAD),
        output: None,
        error: Some("why".into()),
        parent: Some(Parent { task: TASK, position: 4, on_end: OnParentEnd::Abandon }),
        superseded_from: None,
        superseded_by: Some(OTHER),
        created_at: 1,
        started_at: Some(2),
        finished_at: Some(3),
        tasks: 1,
        messages: 2,
    };
    pin("run", &run, RUN_ROW);
    let running = TaskState::Running { worker: WORKER, local: true, since: 3, deadline: Some(4) };
    pin("task", &task(running), TASK_ROW);
    let messages = vec![Received { id: MESSAGE, payload: PAYLOAD, seq: 7, accepted_at: 5 }];
    let entry = JournalRow {
        kind: EntryKind::Receive,
        label: "l".into(),
        fingerprint: u64::MAX,
        requested_at: 4,
        done: Some((6, Completion::Messages(messages))),
    };
    pin("journal", &entry, JOURNAL);
}

#[test]
fn rows_of_messages_events_and_keys() {
    let message = MessageRow {
        workflow: "turn".into(),
        key: "alice".into(),
        seq: 3,
        payload: PAYLOAD,
        accepted_at: 5,
        state: MessageState::Done { run: RUN },
    };
    pin("message", &message, MESSAGE_ROW);
    pin("inbox", &InboxRow { live: RUN, closed: true, successor: Some(OTHER), next_seq: 4 }, INBOX);
    let data = Bytes::from_static(b"{}");
    let event = EventRow { name: "order".into(), scope: Some("alice".into()), at: 5, run: Some(RUN), data };
    pin("event", &event, EVENT);
    let idempotency = IdempotencyRow { body: u64::MAX, message: Some(MESSAGE), run: RUN, expires_at: 6 };
    pin("idempotency", &idempotency, IDEMPOTENCY);
}

/// Every state and completion by its number: a variant put in between would change the meaning of stored rows.
#[test]
fn variants_keep_their_numbers() {
    let states = [
        TaskState::Blocked,
        TaskState::Queued { since: 1 },
        TaskState::Running { worker: WORKER, local: false, since: 1, deadline: None },
        TaskState::Suspended { since: 1 },
        TaskState::Backoff { until: 1 },
        TaskState::Parked,
        TaskState::Completed,
        TaskState::Failed,
        TaskState::Cancelled,
    ];
    let runs = [
        RunState::Queued,
        RunState::Running,
        RunState::Completed,
        RunState::Failed,
        RunState::Cancelled,
        RunState::Superseded,
        RunState::Parked,
    ];
    let ended = ChildEnd { run: OTHER, state: RunState::Failed, output: None, error: None };
    let completions = [
        Completion::Unit,
        Completion::Bool(true),
        Completion::Value(PAYLOAD),
        Completion::Failed("e".into()),
        Completion::Messages(Vec::new()),
        Completion::TimedOut,
        Completion::Closed,
        Completion::Spawned(OTHER),
        Completion::Child(ended),
    ];
    let entries = [
        EntryKind::Run,
        EntryKind::Sleep,
        EntryKind::Receive,
        EntryKind::Peek,
        EntryKind::Close,
        EntryKind::WaitEvent,
        EntryKind::WaitSignal,
        EntryKind::Spawn,
        EntryKind::Signal,
        EntryKind::Emit,
        EntryKind::Cancel,
    ];
    let messages = [MessageState::Unread, MessageState::Received { run: RUN }, MessageState::Done { run: RUN }];
    let strategies = [KeyStrategy::Queue, KeyStrategy::CancelNewest, KeyStrategy::CancelInProgress];
    let ends = [OnParentEnd::Cancel, OnParentEnd::Abandon];
    numbered(&states);
    numbered(&runs);
    numbered(&completions);
    numbered(&entries);
    numbered(&messages);
    numbered(&strategies);
    numbered(&ends);
}

fn numbered<T: Serialize + std::fmt::Debug>(variants: &[T]) {
    for (nth, variant) in variants.iter().enumerate() {
        let mut bytes = Vec::new();
        encode(variant, &mut bytes);
        assert_eq!(usize::from(bytes[1]), nth, "{variant:?} has the number it always had");
    }
}

#[test]
fn a_batch() {
    let mut out = Out::new();
    out.put(Table::Tenant, &key::tenant(TENANT), &TenantRow { name: "acme".into(), created_at: 1 });
    out.put_payload(TENANT, PAYLOAD.id, Bytes::from_static(b"hello"));
    out.put_payload(TENANT, PAYLOAD.id, Bytes::new());
    out.delete(Table::Inbox, &key::inbox(TENANT, "turn", "alice"));
    assert_eq!(out.op_count(), 4);
    let batch = out.take().writes;
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        println!("batch {}", hex(&batch));
        return;
    }
    assert_eq!(hex(&batch), BATCH);
    let (tenant, payload) = (key::tenant(TENANT), key::payload(TENANT, PAYLOAD.id));
    let expected = [
        Op { table: Table::Tenant, key: &tenant, body: Some(&[1, 4, b'a', b'c', b'm', b'e', 1]) },
        Op { table: Table::Payload, key: &payload, body: Some(b"hello") },
        Op { table: Table::Payload, key: &payload, body: Some(b"") },
        Op { table: Table::Inbox, key: &key::inbox(TENANT, "turn", "alice"), body: None },
    ];
    let found: Result<Vec<Op<'_>>, _> = ops(&batch).collect();
    assert_eq!(found.as_deref(), Ok(expected.as_slice()));

    // Cut anywhere but between two operations, it does not decode; what comes before the cut does.
    let mut ends = vec![0];
    ends.extend(expected.iter().scan(0, |at, op| {
        *at += 7 + op.key.len() + op.body.map_or(0, <[u8]>::len);
        Some(*at)
    }));
    assert_eq!(ends.last(), Some(&batch.len()));
    for length in 0..batch.len() {
        let whole = ends.iter().filter(|end| **end <= length).count() - 1;
        let found: Vec<_> = ops(&batch[..length]).collect();
        assert_eq!(found.iter().filter(|op| op.is_ok()).count(), whole, "cut after {length} bytes");
        assert_eq!(found.iter().any(Result::is_err), !ends.contains(&length), "cut after {length} bytes");
    }
    let mut unknown = batch;
    unknown[0] = 99;
    assert!(ops(&unknown).next().is_some_and(|op| op.is_err()), "a table of a newer release");
}

#[test]
fn keys_of_rows() {
    let keys = [
        key::tenant(TENANT),
        key::workflow(TENANT, VERSION),
        key::run(TENANT, RUN),
        key::task(TENANT, TASK),
        key::journal(TENANT, TASK, 258),
        key::message(TENANT, MESSAGE),
        key::inbox(TENANT, "turn", "alice"),
        key::event(TENANT, Some("alice"), 258),
        key::event(TENANT, None, 258),
        key::idempotency(TENANT, "abc"),
        key::token(TENANT, TOKEN),
        key::payload(TENANT, PAYLOAD.id),
    ];
    let prefix = hex(&TENANT.to_bytes());
    let rests: Vec<String> =
        keys.iter().map(|key| hex(key).strip_prefix(&prefix).expect("the tenant comes first").to_owned()).collect();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        rests.iter().for_each(|rest| println!("key {rest}"));
        return;
    }
    assert_eq!(rests, KEYS);
    assert_eq!(key::task_of(&keys[4]), Some(TASK));
    assert_eq!(key::position_of(&keys[4]), Some(258));
    assert_eq!(key::inbox_of(&keys[6]), Some(("turn", "alice")));
    assert_eq!(key::event_seq_of(&keys[7]), Some(258));
    assert_eq!(key::idempotency_of(&keys[9]), Some("abc"));
    assert!(keys.iter().all(|key| key::tenant_of(key) == Some(TENANT)));
    let numbers: Vec<u8> = Table::ALL.iter().map(|table| *table as u8).collect();
    assert_eq!(numbers, (1..=12).collect::<Vec<u8>>(), "the tables' numbers are on disk");
}

#[test]
fn a_version_is_the_same_on_every_machine() {
    let id = workflow().version_id().to_string();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        println!("version {id}");
        return;
    }
    assert_eq!(id, VERSION_ID);
}

const META: &str = "0180d095ffbc31ac02";
const TENANT_ROW: &str = "010461636d6580d095ffbc31";
const WORKFLOW: &str =
    "01036a6f62010473746570036163740200ac02010364c801e807018827000102020001056f726465720701036a6f620101";
const TOKEN_ROW: &str = "010174020561646d696e0473656e6401020103";
const RUN_ROW: &str = "01036a6f6288808080808080808081c0838080808091030501016b070185808080808080808081c083808080809103ac0200\
    01037768790182808080808080808081c083808080809103020401000183808080808080808081c083808080809103010102\
    01030102";
const TASK_ROW: &str = "010286808080808080808081c0838080808091030103010402050100060500010165090a010b0001020165090a0001030102\
    050165090a0002016e01017303060165090a000302676f04070165090a000483808080808080808081c08380808080910301\
    02676f85808080808080808081c083808080809103ac020001026f680101010200";
const JOURNAL: &str = "0102016cffffffffffffffffff01040106040184808080808080808081c08380808080910385808080808080808081c08380\
    8080809103ac020507";
const MESSAGE_ROW: &str = "01047475726e05616c6963650385808080808080808081c083808080809103ac02050282808080808080808081c083808080\
    809103";
const INBOX: &str = "0182808080808080808081c083808080809103010183808080808080808081c08380808080910304";
const EVENT: &str = "01056f726465720105616c696365050182808080808080808081c083808080809103027b7d";
const IDEMPOTENCY: &str =
    "01ffffffffffffffffff010184808080808080808081c08380808080910382808080808080808081c08380808080910306";
const BATCH: &str = "0210000700000001910000000070008000000000000001010461636d65010c20000500000001910000000070008000000000\
    0000010191000000007000800000000000000568656c6c6f0c20000000000001910000000070008000000000000001019100\
    00000070008000000000000005081b00ffffffff0191000000007000800000000000000100047475726e616c696365";
const VERSION_ID: &str = "ed57390e-95a3-e233-3cee-93ceacbfa27a";
const KEYS: [&str; 12] = [
    "",
    "01910000000070008000000000000008",
    "01910000000070008000000000000002",
    "019100000000700080000000000000020002",
    "01910000000070008000000000000002000200000102",
    "01910000000070008000000000000004",
    "00047475726e616c696365",
    "99b502fa34586d680000000000000102",
    "00000000000000000000000000000102",
    "616263",
    "01910000000070008000000000000007",
    "01910000000070008000000000000005",
];
