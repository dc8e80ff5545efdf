//! The law of retention.

use std::sync::Arc;

use bytes::Bytes;
use mainspring_core::id::{MessageId, PayloadId, RunId, TaskId, TenantId};
use mainspring_core::journal::{Completion, EntryKind, Received};
use mainspring_core::row::{JournalRow, MessageState, PayloadRef, RunState, TaskRow, TaskState, key};
use mainspring_core::{DocumentKey, FEED_POSITION, Out, Table};

use super::model::{Model, TENANTS, document_row, event_row, message_row, run_row};
use super::{Open, opened, tables_of};
use crate::retention::{EXPIRED_KEPT_MS, Retention, Sweep};
use crate::unapplied::Batch;

/// Ten runs, and one in three of each kind: ended long ago, ended lately, not ended, however old.
const RUNS: u64 = 10;
const OLD: u64 = 1_000;
const LATELY: u64 = 1_001;
const KEPT_MS: u64 = 500;
const RETENTION: Retention = Retention { runs_ms: KEPT_MS, events_ms: KEPT_MS };

pub(super) fn a_sweep_takes_what_is_too_old(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, rows) = tables_of(&*store, 0);
    let (mut before, mut kept) = (Out::new(), Out::new());
    for tenant in &TENANTS[1..4] {
        for nth in 0..RUNS {
            let (state, at) = match nth % 3 {
                0 => (RunState::Completed, OLD),
                1 => (RunState::Failed, LATELY),
                _ => (RunState::Parked, OLD),
            };
            put_run(&mut before, *tenant, nth, state, at);
            if nth % 3 != 0 {
                put_run(&mut kept, *tenant, nth, state, at);
            }
            let (key, event) = (key::event(*tenant, Some("alice"), nth), event_row(Some("alice"), at));
            before.put(Table::Event, &key, &event);
            if at == LATELY {
                kept.put(Table::Event, &key, &event);
            }
        }
    }
    let batch = before.take().writes;
    let (mut all, mut expected) = (Model::default(), Model::default());
    all.apply(&batch);
    expected.apply(&kept.take().writes);
    tables.apply(&[Arc::new(Batch::new(1, batch))]).expect("a batch is applied");

    // To the very millisecond a row is kept for as long as retention says.
    let (mut sweep, mut finished) = (Sweep::default(), false);
    while !finished {
        let swept = tables.sweep(OLD + KEPT_MS, RETENTION, &mut sweep, 7).expect("a sweep");
        assert_eq!((swept.runs, swept.events), (0, 0), "nothing is too old yet");
        finished = swept.finished;
    }
    all.compare(&*tables, &*rows, "nothing is too old yet");

    let mut removed = (0, 0);
    for step in 0.. {
        assert!(step < 100, "the sweep comes around");
        let swept = tables.sweep(LATELY + KEPT_MS, RETENTION, &mut sweep, 7).expect("a sweep");
        assert!(swept.runs <= 7 && swept.events <= 7, "a little at a time: {swept:?}");
        removed = (removed.0 + swept.runs, removed.1 + swept.events);
        if swept.finished {
            break;
        }
    }
    // Of ten, four ended long ago, and seven events happened long ago.
    assert_eq!(removed, (3 * 4, 3 * 7));
    expected.compare(&*tables, &*rows, "afterwards");
    assert_eq!(tables.applied().expect("a position"), 1, "a sweep moves no position");
}

pub(super) fn a_sweep_takes_what_has_expired(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, rows) = tables_of(&*store, 0);
    let (mut before, mut kept) = (Out::new(), Out::new());
    for tenant in &TENANTS[1..4] {
        for nth in 0..RUNS {
            let expires_at = [Some(OLD), Some(LATELY), None][(nth % 3) as usize];
            let document = DocumentKey::new("session", format!("s{nth}"));
            let row = document_row(3, expires_at);
            let mut puts = vec![(Table::Document, key::document(*tenant, &document), row)];
            // A former version that expires later, or never, goes with its document all the same; of one that is not
            // gone, what has expired goes alone.
            for (version, expires_at) in [(1, None), (2, Some(OLD)), (3, expires_at)] {
                let row = document_row(version, expires_at);
                puts.push((Table::Revision, key::revision(*tenant, &document, version), row));
            }
            for (table, key, row) in puts {
                before.put(table, &key, &row);
                if expires_at != Some(OLD) && row.expires_at != Some(OLD) {
                    kept.put(table, &key, &row);
                }
            }
            // One whose name begins like the other's.
            let longer = DocumentKey::new("session", format!("s{nth}0"));
            for out in [&mut before, &mut kept] {
                out.put(Table::Document, &key::document(*tenant, &longer), &document_row(1, None));
                out.put(Table::Revision, &key::revision(*tenant, &longer, 1), &document_row(1, None));
            }
        }
    }
    let batch = before.take().writes;
    let (mut all, mut expected) = (Model::default(), Model::default());
    all.apply(&batch);
    expected.apply(&kept.take().writes);
    tables.apply(&[Arc::new(Batch::new(1, batch))]).expect("a batch is applied");

    let mut around = |now: u64| {
        let (mut sweep, mut removed) = (Sweep::default(), 0);
        for step in 0.. {
            assert!(step < 100, "the sweep comes around");
            let swept = tables.sweep(now, RETENTION, &mut sweep, 7).expect("a sweep");
            assert!(swept.documents <= 2 * 7, "a little at a time: {swept:?}");
            removed += swept.documents;
            if swept.finished {
                return removed;
            }
        }
        removed
    };
    assert_eq!(around(OLD + EXPIRED_KEPT_MS), 0, "nothing has expired for long enough");
    // Of ten, four documents. Of the six others, one former version each; of the four, all go with them or on their own.
    assert!((3 * (4 + 6)..=3 * (4 + 6 + 2 * 4)).contains(&around(LATELY + EXPIRED_KEPT_MS)));
    assert_eq!(around(LATELY + EXPIRED_KEPT_MS), 0, "what is gone is gone");
    expected.compare(&*tables, &*rows, "afterwards");
}

/// However different the tables are in size, each is looked at once.
pub(super) fn a_sweep_comes_around(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, _) = tables_of(&*store, 0);
    let tenant = TENANTS[1];
    let mut out = Out::new();
    for nth in 0..11 {
        put_run(&mut out, tenant, nth, RunState::Parked, OLD);
    }
    for nth in 0..13 {
        out.put(Table::Event, &key::event(tenant, None, nth), &event_row(None, OLD));
    }
    for nth in 0..7_u64 {
        let document = DocumentKey::new("session", nth.to_string());
        out.put(Table::Document, &key::document(tenant, &document), &document_row(1, None));
        for version in 0..nth {
            out.put(Table::Revision, &key::revision(tenant, &document, version), &document_row(version, None));
        }
    }
    tables.apply(&[Arc::new(Batch::new(1, out.take().writes))]).expect("a batch is applied");
    let mut sweep = Sweep::default();
    for _ in 0..3 {
        // The largest has 21 rows, and a step that finds fewer than it might is the last.
        let steps = (1..).find(|_| tables.sweep(OLD, RETENTION, &mut sweep, 1).expect("a sweep").finished);
        assert_eq!(steps, Some(22), "steps of a sweep");
    }
}

/// A run with everything that belongs to it: a task, payloads, and a journal that received a message.
fn put_run(out: &mut Out, tenant: TenantId, nth: u64, state: RunState, at: u64) {
    let (run, id) = (RunId(u128::from(nth)), u128::from(nth) * 10);
    let payload = |nth: u128| PayloadRef { id: PayloadId(id + nth), bytes: 1 };
    let mut row = run_row("turn", state, at);
    (row.input, row.output) = (Some(payload(0)), Some(payload(1)));
    out.put(Table::Run, &key::run(tenant, run), &row);
    let task = TaskId { run, index: 0 };
    let task_row = TaskRow {
        state: if state.ended() { TaskState::Completed } else { TaskState::Parked },
        attempt: 1,
        invocation: 1,
        journal_len: 2,
        signals: [("go".to_owned(), payload(2))].into(),
        output: Some(payload(3)),
        queued_at: Some(at),
        started_at: Some(at),
        ..TaskRow::new()
    };
    out.put(Table::Task, &key::task(tenant, task), &task_row);
    let message = MessageId(id);
    let received = Received { id: message, payload: payload(4), accepted_at: at, seq: 1 };
    for (position, completion) in
        [Completion::Messages(vec![received]), Completion::Value(payload(5))].into_iter().enumerate()
    {
        let entry = JournalRow {
            kind: EntryKind::Receive,
            label: "l".to_owned(),
            fingerprint: 1,
            requested_at: at,
            done: Some((at, completion)),
        };
        out.put(Table::Journal, &key::journal(tenant, task, position as u32), &entry);
    }
    let message_state = if state.ended() { MessageState::Done { run } } else { MessageState::Received { run } };
    let mut message_row = message_row(message_state, at);
    message_row.payload = payload(4);
    out.put(Table::Message, &key::message(tenant, message), &message_row);
    for nth in 0..6 {
        out.put_payload(tenant, payload(nth).id, Bytes::from_static(b"1"));
    }
}

/// Of each tenant, events are kept from where its slowest reader is, however old they are.
pub(super) fn a_sweep_leaves_what_is_not_read(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, rows) = tables_of(&*store, 0);
    let [_, nobody, slow, broken, ..] = TENANTS;
    let mut out = Out::new();
    for (tenant, seq) in [nobody, slow, broken].into_iter().flat_map(|tenant| (1..=9).map(move |seq| (tenant, seq))) {
        let scope = Some(if seq % 2 == 0 { "alice" } else { "bob" });
        out.put(Table::Event, &key::event(tenant, scope, seq), &event_row(scope, OLD));
    }
    let mut reader = |tenant, name: &str, position: &'static str, expires_at| {
        let mut row = document_row(1, expires_at);
        row.body = Bytes::from_static(position.as_bytes());
        out.put(Table::Document, &key::document(tenant, &DocumentKey::new(FEED_POSITION, name)), &row);
    };
    reader(slow, "quick", "8", None);
    reader(slow, "slow", "5", None);
    // Whoever is gone holds nothing.
    reader(slow, "gone", "1", Some(OLD));
    reader(broken, "unreadable", "five", None);
    let all = out.take().writes;
    tables.apply(&[Arc::new(Batch::new(1, all.clone()))]).expect("a batch is applied");

    let (mut sweep, mut finished, mut removed) = (Sweep::default(), false, 0);
    while !finished {
        let swept = tables.sweep(OLD + 2 * KEPT_MS, RETENTION, &mut sweep, 4).expect("a sweep");
        removed += swept.events;
        finished = swept.finished;
    }
    assert_eq!(removed, 9 + 5, "all of the tenant without readers, and what the slowest has read");
    let left = |tenant| -> Vec<u64> {
        let found = rows.events_after(tenant, 0, 100, usize::MAX).expect("events are read");
        found.iter().map(|(key, _)| key::event_seq_of(key).expect("a number")).collect()
    };
    assert_eq!(left(nobody), [0; 0]);
    assert_eq!(left(slow), [6, 7, 8, 9]);
    assert_eq!(left(broken), [1, 2, 3, 4, 5, 6, 7, 8, 9], "a reader whose place is not known may need everything");
}
