//! Golden bytes: what this release writes, next year's reads. A change here is a new row version, never an edit.
//! Rows of earlier versions are kept as they were written, and must be read as the rows of now with nothing said in what
//! is new.
//!
//! `UPDATE_EXPECT=1` prints what is written now instead of failing; it is for adding a row, not for changing one.

#![allow(clippy::print_stdout, reason = "a test may say what it found")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mainspring_core::id::{MessageId, PayloadId, RunId, TaskId, TenantId, TokenId, VersionId, WorkerId};
use mainspring_core::journal::{ChildEnd, Completion, EntryKind, Pending, PendingKind, Received};
use mainspring_core::place::{Comparator, LabelValue, LabelWish};
use mainspring_core::rate::RateUse;
use mainspring_core::row::{
    BadRow, ChildOf, ChildRow, DeadLetter, DocumentRow, EventRef, EventRow, Generation, IdempotencyRow, InboxRow,
    JournalRow, LogRow, MessageRow, MessageState, MetaRow, OnParentEnd, Parent, PayloadRef, RateRow, Row, RunRow,
    RunState, RunWishes, StreamEntryIdRow, StreamEntryRow, StreamGroupRow, StreamPartRow, StreamProgressRow, StreamRow,
    TaskRow, TaskState, TenantRow, TokenRow, WorkerRow, WorkflowRow, decode, encode, key,
};
use mainspring_core::stream::{Place, partition_of};
use mainspring_core::workflow::{KeyRule, KeyStrategy, RetryRule, Source, Sticky, TaskDef, When, WorkflowDef};
use mainspring_core::write::{Op, ops};
use mainspring_core::{DocumentKey, Out, Table};
use serde::Serialize;

const TENANT: TenantId = TenantId(0x0191_0000_0000_7000_8000_0000_0000_0001);
const RUN: RunId = RunId(0x0191_0000_0000_7000_8000_0000_0000_0002);
const OTHER: RunId = RunId(0x0191_0000_0000_7000_8000_0000_0000_0003);
const MESSAGE: MessageId = MessageId(0x0191_0000_0000_7000_8000_0000_0000_0004);
const PAYLOAD: PayloadRef = PayloadRef { id: PayloadId(0x0191_0000_0000_7000_8000_0000_0000_0005), bytes: 300 };
const WORKER: WorkerId = WorkerId(0x0191_0000_0000_7000_8000_0000_0000_0006);
const TOKEN: TokenId = TokenId(0x0191_0000_0000_7000_8000_0000_0000_0007);
const VERSION: VersionId = VersionId(0x0191_0000_0000_7000_8000_0000_0000_0008);
const PLACE: Place = Place { generation: 258, partition: 7, seq: 258 };
const TASK: TaskId = TaskId { run: RUN, index: 2 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pins a row's bytes, and that they are read back, and that damaged ones are not.
fn pin<T: Row + PartialEq + std::fmt::Debug>(name: &str, row: &T, expected: &str) {
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
    let (found, known) = (T::VERSION + 1, T::VERSION);
    newer[0] = found;
    assert_eq!(decode::<T>(&newer), Err(BadRow::Newer { found, known }), "{name} of a newer release");
    let mut older = bytes.clone();
    older[0] = 0;
    assert_eq!(decode::<T>(&older), Err(BadRow::Undecodable), "{name} of no release");
    bytes.push(0);
    assert_eq!(decode::<T>(&bytes), Err(BadRow::Undecodable), "{name} with something behind it");
}

/// A row as an earlier version of it was written, and what it says in the words of now.
fn was<T: Row + PartialEq + std::fmt::Debug>(name: &str, version: u8, row: &T, written: &str) {
    let bytes = bytes_of(written);
    assert_eq!(bytes[0], version, "{name}: the bytes begin with their version");
    assert!(version < T::VERSION, "{name}: version {version} is not an earlier one");
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(row), "{name} of version {version} is read");
    for length in 0..bytes.len() {
        // The zeros taken for its new fields must not stand in for what is cut off.
        assert_eq!(decode::<T>(&bytes[..length]), Err(BadRow::Undecodable), "{name} cut after {length} bytes");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(decode::<T>(&longer), Err(BadRow::Undecodable), "{name} with something behind it");
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().map(|digit| (digit as char).to_digit(16).expect("a digit") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The definition as release 0.1 knew it.
fn workflow_was() -> WorkflowDef {
    WorkflowDef {
        name: "job".into(),
        tasks: vec![TaskDef {
            action: "act".into(),
            parents: vec![0, 300],
            durable: true,
            retry: RetryRule { attempts_max: 3, backoff_ms: 100, backoff_percent: 200, backoff_max_ms: 1_000 },
            schedule_timeout_ms: Some(5_000),
            execution_timeout_ms: None,
            ..TaskDef::named("step")
        }],
        key: Some(KeyRule { runs_max: 2, strategy: KeyStrategy::CancelInProgress }),
        inbox: false,
        event_triggers: vec!["order".into()],
        default_priority: 7,
        lifecycle_events: Some("job".into()),
        sticky: None,
        not_yet: None,
        source: None,
    }
}

fn wish() -> LabelWish {
    LabelWish { value: LabelValue::Number(-3), comparator: Comparator::LessOrEqual, required: true, weight: -7 }
}

fn workflow() -> WorkflowDef {
    let before = workflow_was();
    let text = LabelWish { value: LabelValue::Text("eu".into()), comparator: Comparator::NotEqual, ..wish() };
    let task = TaskDef {
        when: When::AnotherFailed,
        judged: true,
        slots: BTreeMap::from([("gpu".to_owned(), 2)]),
        labels: BTreeMap::from([("ram".to_owned(), wish()), ("zone".to_owned(), text)]),
        rates: vec![RateUse { name: "calls".into(), units: 300, sets: Some((10, 1_000)) }],
        losses_max: Some(4),
        ..before.tasks[0].clone()
    };
    WorkflowDef {
        tasks: vec![task],
        sticky: Some(Sticky::Hard),
        not_yet: Some("a cron".into()),
        source: Some(Source { hash: 5, bytes: Bytes::from_static(b"src") }),
        ..before
    }
}

fn pending(entry: EntryKind, deadline: Option<u64>, kind: PendingKind) -> Pending {
    Pending { entry, label: "e".into(), fingerprint: 9, requested_at: 10, deadline, kind, apart: false }
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
        rates: vec![RateUse { name: "calls".into(), units: 2, sets: None }],
        grounds: Some(PAYLOAD),
        worker: Some(WORKER),
        acknowledged: 5,
        slots_released: true,
        fence: Some(300),
    }
}

fn run() -> RunRow {
    RunRow {
        metadata: Some(Bytes::from_static(b"{}")),
        wishes: Some(RunWishes { worker: Some(WORKER), labels: BTreeMap::from([("ram".to_owned(), wish())]) }),
        child_of: Some(ChildOf { task: TASK, name: "child".into(), nth: Some(300) }),
        event: Some(EventRef { seq: 300, at: 5, name: "order".into() }),
        group: Some(OTHER),
        superseded_before: 300,
        once: true,
        guarded: true,
        asked_to_end: Some("why".into()),
        ..run_was()
    }
}

#[test]
fn rows_of_the_partition_and_the_tenant() {
    pin("meta", &MetaRow { now: 1_700_000_000_000, event_seq: 300 }, META);
    pin("tenant", &TenantRow { name: "acme".into(), created_at: 1_700_000_000_000 }, TENANT_ROW);
    pin("workflow", &WorkflowRow { def: workflow(), current: true, created_at: 1 }, WORKFLOW);
    was("workflow", 1, &WorkflowRow { def: workflow_was(), current: true, created_at: 1 }, WORKFLOW_WAS);
    let scopes = vec!["admin".into(), "send".into()];
    let token = TokenRow { name: "t".into(), scopes, created_at: 1, expires_at: 2, revoked_at: Some(3) };
    pin("token", &token, TOKEN_ROW);
}

fn run_was() -> RunRow {
    RunRow {
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
        metadata: None,
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

#[test]
fn rows_of_a_run() {
    pin("run", &run(), RUN_ROW);
    let of_3 = RunRow { once: false, guarded: false, asked_to_end: None, ..run() };
    was("run", 3, &of_3, RUN_ROW_3);
    was("run", 2, &RunRow { group: None, superseded_before: 0, ..of_3 }, RUN_ROW_2);
    was("run", 1, &run_was(), RUN_ROW_WAS);
    let running = TaskState::Running { worker: WORKER, local: true, since: 3, deadline: Some(4) };
    let row = task(running);
    pin("task", &row, TASK_ROW);
    let before = TaskRow { fence: None, ..row };
    was("task", 2, &before, TASK_ROW_2);
    let before =
        TaskRow { rates: Vec::new(), grounds: None, worker: None, acknowledged: 0, slots_released: false, ..before };
    was("task", 1, &before, TASK_ROW_WAS);
    pin("child", &ChildRow { run: OTHER, name: "child".into() }, CHILD);
    let (level, message, metadata) = ("info".into(), "line".into(), Bytes::from_static(b"{}"));
    pin("log", &LogRow { attempt: 2, at: 300, level, message, metadata }, LOG);
    let messages = vec![Received { id: MESSAGE, payload: PAYLOAD, seq: 7, accepted_at: 5 }];
    let entry = JournalRow {
        kind: EntryKind::Receive,
        label: "l".into(),
        fingerprint: u64::MAX,
        requested_at: 4,
        done: Some((6, Completion::Messages(messages))),
    };
    pin("journal", &entry, JOURNAL);
    pin("pending", &pending(EntryKind::Spawn, Some(300), PendingKind::Child { run: OTHER }), PENDING);
}

#[test]
fn rows_of_workers_and_limits() {
    let worker = WorkerRow {
        name: "w".into(),
        actions: BTreeSet::from(["act".to_owned()]),
        slots: BTreeMap::from([("default".to_owned(), 100), ("gpu".to_owned(), 2)]),
        labels: BTreeMap::from([
            ("ram".to_owned(), LabelValue::Number(32)),
            ("zone".to_owned(), LabelValue::Text("eu".into())),
        ]),
        paused: true,
        lease_ms: 30_000,
        registered_at: 1,
        about: Bytes::from_static(b"sdk"),
    };
    pin("worker", &worker, WORKER_ROW);
    pin("rate", &RateRow { limit: 300, window_ms: 1_000, left: 7, since: 5, put: true }, RATE);
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
    let groups = vec!["user:alice".into(), "all".into()];
    let inbox = InboxRow { live: RUN, closed: true, successor: Some(OTHER), next_seq: 4, groups };
    pin("inbox", &inbox, INBOX);
    was("inbox", 1, &InboxRow { groups: Vec::new(), ..inbox }, INBOX_WAS);
    let data = Bytes::from_static(b"{}");
    let metadata = Some(Bytes::from_static(b"[]"));
    let event = EventRow { name: "order".into(), scope: Some("alice".into()), at: 5, run: Some(RUN), data, metadata };
    pin("event", &event, EVENT);
    was("event", 1, &EventRow { metadata: None, ..event }, EVENT_WAS);
    let idempotency = IdempotencyRow { body: u64::MAX, message: Some(MESSAGE), run: RUN, expires_at: 6 };
    pin("idempotency", &idempotency, IDEMPOTENCY);
}

#[test]
fn rows_of_documents() {
    let body = Bytes::from_static(b"{}");
    let document = DocumentRow { version: 300, body, updated_at: 5, expires_at: Some(600), by: Some(RUN) };
    pin("document", &document, DOCUMENT);
}

#[test]
fn rows_of_streams() {
    let generations =
        vec![Generation { number: 0, partitions: 8, since: 5 }, Generation { number: 1, partitions: 256, since: 300 }];
    let stream = StreamRow {
        number: 300,
        generations,
        keep_ms: 86_400_000,
        waiting_max: 1_000_000,
        waiting_bytes_max: 1 << 30,
        deliveries_max: 5,
        created_at: 5,
    };
    pin("stream", &stream, STREAM);
    let part = StreamPartRow { next: 300, bytes: 70_000, trail: vec![(3, 5), (300, 70_000)] };
    pin("part of a stream", &part, STREAM_PART);
    let text = |text: &str| Some(text.to_owned());
    let dead = DeadLetter { group: "router".into(), place: PLACE, deliveries: 5, reason: "why".into() };
    let body = Bytes::from_static(b"{}");
    let entry = StreamEntryRow { at: 5, key: text("alice"), id: text("e1"), body, dead: Some(dead) };
    pin("entry of a stream", &entry, STREAM_ENTRY);
    pin("id of an entry", &StreamEntryIdRow { place: PLACE }, STREAM_ENTRY_ID);
    pin("group", &StreamGroupRow { generation: 1, created_at: 5, seen_at: 300 }, STREAM_GROUP);
    let progress = StreamProgressRow {
        floor: 300,
        above: vec![(302, 304), (306, 400)],
        deliveries: BTreeMap::from([(300, 2), (301, 5)]),
    };
    pin("progress of a group", &progress, STREAM_PROGRESS);
}

/// Programs that add entries elsewhere choose the same partitions.
#[test]
fn a_key_keeps_its_partition() {
    let chosen = ["orders:anna:web", "orders:ben:web", "123456789", ""].map(|key| partition_of(key, 8));
    // The check value of CRC-32C is that of "123456789": e3069283.
    assert_eq!(chosen[2..], [(0xe306_9283_u32 % 8) as u16, 0]);
    assert_eq!(partition_of("123456789", 256), 0x83);
    assert_eq!(chosen, CHOSEN);
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
        TaskState::Judged { since: 1 },
        TaskState::Skipped,
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
        EntryKind::Begin,
        EntryKind::Commit,
        EntryKind::Take,
    ];
    let messages = [MessageState::Unread, MessageState::Received { run: RUN }, MessageState::Done { run: RUN }];
    let strategies = [KeyStrategy::Queue, KeyStrategy::CancelNewest, KeyStrategy::CancelInProgress];
    let ends = [OnParentEnd::Cancel, OnParentEnd::Abandon];
    let whens = [When::ParentsEnded, When::AnotherFailed];
    let stickies = [Sticky::Soft, Sticky::Hard];
    let labels = [LabelValue::Text("a".into()), LabelValue::Number(1)];
    let comparators = [
        Comparator::Equal,
        Comparator::NotEqual,
        Comparator::Greater,
        Comparator::GreaterOrEqual,
        Comparator::Less,
        Comparator::LessOrEqual,
    ];
    numbered(&whens);
    numbered(&stickies);
    numbered(&labels);
    numbered(&comparators);
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
        let bytes = postcard::to_allocvec(variant).expect("plain data");
        assert_eq!(usize::from(bytes[0]), nth, "{variant:?} has the number it always had");
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

fn document_key() -> DocumentKey {
    DocumentKey::new("session", "alice")
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
        key::worker(TENANT, WORKER),
        key::rate(TENANT, "calls"),
        key::child(TENANT, TASK, "child"),
        key::log(TENANT, TASK, 258),
        key::document(TENANT, &document_key()),
        key::revision(TENANT, &document_key(), 258),
        key::stream(TENANT, "orders"),
        key::stream_part(TENANT, 300, 258, 7),
        key::stream_entry(TENANT, 300, PLACE),
        key::stream_entry_id(TENANT, 300, "e1"),
        key::stream_group(TENANT, 300, "router"),
        key::stream_progress(TENANT, 300, 258, 7, "router"),
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
    assert_eq!(key::rate_of(&keys[13]), Some("calls"));
    assert_eq!(key::document_of(&keys[16]), Some(document_key()));
    assert_eq!((key::task_of(&keys[14]), key::task_of(&keys[15])), (Some(TASK), Some(TASK)));
    assert_eq!(key::stream_of(&keys[18]), Some("orders"));
    assert_eq!((key::stream_number_of(&keys[19]), key::stream_part_of(&keys[19])), (Some(300), Some((258, 7))));
    assert_eq!(key::stream_place_of(&keys[20]), Some(PLACE));
    assert_eq!(key::stream_group_of(&keys[22]), Some("router"));
    assert_eq!(key::stream_progress_of(&keys[23]), Some("router"));
    assert!(keys.iter().all(|key| key::tenant_of(key) == Some(TENANT)));
    let numbers: Vec<u8> = Table::ALL.iter().map(|table| *table as u8).collect();
    assert_eq!(numbers, (1..=25).collect::<Vec<u8>>(), "the tables' numbers are on disk");
}

#[test]
fn a_version_is_the_same_on_every_machine() {
    let id = workflow_was().version_id().to_string();
    // What came in another form is known by that form's own hash.
    assert_eq!(workflow().version_id(), VersionId(5));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        println!("version {id}");
        return;
    }
    assert_eq!(id, VERSION_ID);
}

const META: &str = "0180d095ffbc31ac02";
const TENANT_ROW: &str = "010461636d6580d095ffbc31";
const WORKFLOW_WAS: &str =
    "01036a6f62010473746570036163740200ac02010364c801e807018827000102020001056f726465720701036a6f620101";
const TOKEN_ROW: &str = "010174020561646d696e0473656e6401020103";
const RUN_ROW_WAS: &str = "01036a6f6288808080808080808081c0838080808091030501016b070185808080808080808081c083808080809103ac0200\
    01037768790182808080808080808081c083808080809103020401000183808080808080808081c083808080809103010102\
    01030102";
const TASK_ROW_WAS: &str = "010286808080808080808081c0838080808091030103010402050100060500010165090a010b0001020165090a0001030102\
    050165090a0002016e01017303060165090a000302676f04070165090a000483808080808080808081c08380808080910301\
    02676f85808080808080808081c083808080809103ac020001026f680101010200";
const JOURNAL: &str = "0102016cffffffffffffffffff01040106040184808080808080808081c08380808080910385808080808080808081c08380\
    8080809103ac020507";
const MESSAGE_ROW: &str = "01047475726e05616c6963650385808080808080808081c083808080809103ac02050282808080808080808081c083808080\
    809103";
const INBOX_WAS: &str = "0182808080808080808081c083808080809103010183808080808080808081c08380808080910304";
const EVENT_WAS: &str = "01056f726465720105616c696365050182808080808080808081c083808080809103027b7d";
const IDEMPOTENCY: &str =
    "01ffffffffffffffffff010184808080808080808081c08380808080910382808080808080808081c08380808080910306";
const BATCH: &str = "0210000700000001910000000070008000000000000001010461636d65010c20000500000001910000000070008000000000\
    0000010191000000007000800000000000000568656c6c6f0c20000000000001910000000070008000000000000001019100\
    00000070008000000000000005081b00ffffffff0191000000007000800000000000000100047475726e616c696365";
const WORKFLOW: &str = "02036a6f62010473746570036163740200ac02010364c801e807018827000101010367707502020372616d01050501\
    0d047a6f6e650002657501010d010563616c6c73ac02010ae80701040102020001056f726465720701036a6f620101010661\
    2063726f6e0105037372630101";
const RUN_ROW_2: &str = "02036a6f6288808080808080808081c0838080808091030501016b070185808080808080808081c083808080809103\
    ac020001037768790182808080808080808081c083808080809103020401000183808080808080808081c083808080809103\
    0101020103010201027b7d010186808080808080808081c083808080809103010372616d010505010d018280808080808080\
    8081c08380808080910302056368696c6401d80401ac0205056f72646572";
const TASK_ROW_2: &str = "020286808080808080808081c0838080808091030103010402050100060500010165090a010b0001020165090a0001\
    030102050165090a0002016e01017303060165090a000302676f04070165090a000483808080808080808081c08380808080\
    91030102676f85808080808080808081c083808080809103ac020001026f680101010200010563616c6c7302000185808080\
    808080808081c083808080809103ac020186808080808080808081c0838080808091030501";
const EVENT: &str = "02056f726465720105616c696365050182808080808080808081c083808080809103027b7d01025b5d";
const CHILD: &str = "0183808080808080808081c083808080809103056368696c64";
const LOG: &str = "0102ac0204696e666f046c696e65027b7d";
const WORKER_ROW: &str = "0101770103616374020764656661756c74640367707502020372616d0140047a6f6e650002657501b0ea01010373\
    646b";
const PENDING: &str = "01070165090a01ac020483808080808080808081c083808080809103";
const RATE: &str = "01ac02e807070501";
const RUN_ROW_3: &str = "03036a6f6288808080808080808081c0838080808091030501016b070185808080808080808081c083808080809103\
    ac020001037768790182808080808080808081c083808080809103020401000183808080808080808081c083808080809103\
    0101020103010201027b7d010186808080808080808081c083808080809103010372616d010505010d018280808080808080\
    8081c08380808080910302056368696c6401d80401ac0205056f726465720183808080808080808081c083808080809103ac\
    02";

const RUN_ROW: &str = "04036a6f6288808080808080808081c0838080808091030501016b070185808080808080808081c083808080809103\
    ac020001037768790182808080808080808081c083808080809103020401000183808080808080808081c083808080809103\
    0101020103010201027b7d010186808080808080808081c083808080809103010372616d010505010d018280808080808080\
    8081c08380808080910302056368696c6401d80401ac0205056f726465720183808080808080808081c083808080809103ac\
    0201010103776879";
const TASK_ROW: &str = "030286808080808080808081c0838080808091030103010402050100060500010165090a010b0001020165090a00\
    01030102050165090a0002016e01017303060165090a000302676f04070165090a000483808080808080808081c083808080\
    8091030102676f85808080808080808081c083808080809103ac020001026f680101010200010563616c6c73020001858080\
    80808080808081c083808080809103ac020186808080808080808081c083808080809103050101ac02";
const INBOX: &str = "0282808080808080808081c083808080809103010183808080808080808081c08380808080910304020a757365723a61\
    6c69636503616c6c";
const DOCUMENT: &str = "01ac02027b7d0501d8040182808080808080808081c083808080809103";
const STREAM: &str = "01ac0202000805018002ac0280b89929c0843d80808080040505";
const STREAM_PART: &str = "01ac02f0a204020305ac02f0a204";
const STREAM_ENTRY: &str = "01050105616c69636501026531027b7d0106726f7574657282020782020503776879";
const STREAM_ENTRY_ID: &str = "018202078202";
const STREAM_GROUP: &str = "010105ac02";
const STREAM_PROGRESS: &str = "01ac0202ae02b002b202900302ac0202ad0205";
const CHOSEN: [u16; 4] = [7, 6, 3, 0];
const VERSION_ID: &str = "bd965883-4133-17f7-6c72-0ce6302a7176";
const KEYS: [&str; 24] = [
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
    "01910000000070008000000000000006",
    "63616c6c73",
    "019100000000700080000000000000020002907a91bd1315c296",
    "01910000000070008000000000000002000200000000000000000000000000000102",
    "000773657373696f6e616c696365",
    "0007000573657373696f6e616c6963650000000000000102",
    "6f7264657273",
    "0000012c000001020007",
    "0000012c0000010200070000000000000102",
    "0000012c6531",
    "0000012c726f75746572",
    "0000012c000001020007726f75746572",
];
