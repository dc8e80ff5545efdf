//! Laws of applying batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use mainspring_core::id::{MessageId, PayloadId, RunId, TaskId, TenantId, TokenId, VersionId};
use mainspring_core::row::{MessageState, MetaRow, RunState, key};
use mainspring_core::{Out, Table};

use super::model::{TENANTS, Writer, event_row, live_of, message_row, number, run_row};
use super::{Open, opened, tables_of};
use crate::backend::Range;
use crate::tables::Applied;
use crate::unapplied::Batch;

pub(super) fn batches_are_applied_once(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, rows) = tables_of(&*store, 0);
    assert_eq!(tables.applied().expect("a position"), 0, "new tables are empty");
    let mut writer = Writer::new(11);
    let batches: Vec<Arc<Batch>> = (0..14).map(|_| writer.batch(60)).collect();
    let ops = |from: usize, to: usize| batches[from..to].iter().map(|batch| batch.ops().count()).sum::<usize>();
    let mixed: Vec<Arc<Batch>> = [8, 9, 9, 6, 10, 3, 10].map(|position: usize| batches[position - 1].clone()).into();
    let steps: [(&str, &[Arc<Batch>], u64, usize); 9] = [
        ("the first four", &batches[..4], 4, ops(0, 4)),
        ("the same again", &batches[..4], 4, 0),
        ("an older one alone", &batches[1..2], 4, 0),
        ("some of them again, and three more", &batches[2..7], 7, ops(4, 7)),
        ("older ones after newer ones", &batches[..3], 7, 0),
        ("none at all", &[], 7, 0),
        ("new ones, repeated and out of order", &mixed, 10, ops(7, 10)),
        ("everything from the beginning", &batches[..], 14, ops(10, 14)),
        ("everything from the beginning again", &batches[..], 14, 0),
    ];
    for (what, given, position, ops) in steps {
        let applied = tables.apply(given).expect("batches are applied");
        assert_eq!((applied.position, applied.ops), (position, ops), "{what}");
        assert!(applied.rows <= ops && (applied.rows > 0) == (ops > 0), "{what}: {applied:?}");
        assert_eq!(tables.applied().expect("a position"), position, "{what}");
        writer.models[position as usize].compare(&*tables, &*rows, what);
    }
}

pub(super) fn after_an_error_nothing_was_applied(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, rows) = tables_of(&*store, 0);
    let mut writer = Writer::new(12);
    let good: Vec<Arc<Batch>> = (0..6).map(|_| writer.batch(40)).collect();
    tables.apply(&good[..3]).expect("batches are applied");

    let mut bad = Vec::new();
    // A batch that ends in the middle of a write, one of a table nobody knows, and rows that are not what they should be.
    let put = |table: Table, key: &[u8]| {
        let mut out = Out::new();
        out.put(Table::Tenant, &key::tenant(TENANTS[1]), &number(0));
        out.put(table, key, &number(7));
        out.take().writes
    };
    let whole = put(Table::Token, &key::token(TENANTS[1], TokenId(1)));
    bad.push(("cut short", whole[..whole.len() - 1].to_vec()));
    bad.push(("of a newer release", [&whole[..], &[99, 0, 0, 0, 0, 0, 0]].concat()));
    bad.push(("a run that is none", put(Table::Run, &key::run(TENANTS[1], RunId(1)))));
    bad.push(("a message that is none", put(Table::Message, &key::message(TENANTS[1], MessageId(1)))));
    bad.push(("an event that is none", put(Table::Event, &key::event(TENANTS[1], None, 1))));
    for (what, bytes) in bad {
        let bad = Arc::new(Batch::new(6, bytes));
        let refused = tables.apply(&[good[3].clone(), good[4].clone(), bad]);
        assert!(refused.is_err(), "{what}: {refused:?}");
        assert_eq!(tables.applied().expect("a position"), 3, "{what}");
        writer.models[3].compare(&*tables, &*rows, what);
    }
    let applied = tables.apply(&good).expect("good batches are applied after bad ones");
    assert_eq!(applied.position, 6);
    writer.models[6].compare(&*tables, &*rows, "afterwards");
}

/// Each application writes one number to many rows. Whoever reads a range sees one number, and never that of a batch in
/// the middle of an application.
pub(super) fn nobody_sees_half_of_an_application(open: Open<'_>) {
    const APPLICATIONS: u64 = 40;
    let store = opened(open);
    let (mut tables, rows) = tables_of(&*store, 0);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let (rows, ended) = (&rows, &ended);
        let reading = scope.spawn(move || {
            let all = Range { table: Table::Token, from: &[], to: &[0xff; 64], descending: false, limit: usize::MAX };
            let (mut last, mut looked) = (0, 0);
            while !ended.load(Ordering::Acquire) || looked == 0 {
                let found = rows.range(all).expect("a range is read while batches are applied");
                let numbers: Vec<u64> = found
                    .iter()
                    .map(|(_, body)| mainspring_core::row::decode::<MetaRow>(body).expect("a whole row").now)
                    .collect();
                let number = numbers.first().copied().unwrap_or(0);
                assert!(numbers.iter().all(|other| *other == number), "rows of several applications: {numbers:?}");
                assert!(numbers.len() == 64 || number == 0, "some rows only");
                assert!(number >= last && number % 2 == 0, "{number} after {last}: odd ones are never alone");
                (last, looked) = (number, looked + 1);
            }
        });
        for nth in 0..APPLICATIONS {
            let batches = [2 * nth + 1, 2 * nth + 2].map(|position| {
                let mut out = Out::new();
                for id in 0..64 {
                    out.put(Table::Token, &key::token(TENANTS[1], TokenId(id)), &number(position));
                }
                Arc::new(Batch::new(position, out.take().writes))
            });
            tables.apply(&batches).expect("batches are applied while somebody reads");
        }
        ended.store(true, Ordering::Release);
        reading.join().expect("the reader is content");
    });
}

/// Every order of up to four puts and deletes, on rows of every kind that columns or indices are made of, given in one
/// batch, in several that are applied at once, and one after the other.
pub(super) fn the_last_write_of_a_row_stands(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, rows) = tables_of(&*store, 0);
    let mut writer = Writer::new(13);
    let scripts: Vec<Vec<bool>> =
        (1..=4_usize).flat_map(|length| (0..1 << length).map(move |bits| bit_list(bits, length))).collect();
    for (way, tenant) in ["in one batch", "in several batches at once", "one after the other"].into_iter().zip(TENANTS)
    {
        let mut steps: Vec<Out> = (0..4).map(|_| Out::new()).collect();
        let mut writes = 0;
        for (nth, script) in scripts.iter().enumerate() {
            for (table, key) in keys_of(tenant, nth as u128) {
                for (step, is_put) in script.iter().enumerate() {
                    writes += 1;
                    // In one batch all steps are one; their order within it is the order of these calls.
                    let out = &mut steps[if way == "in one batch" { 0 } else { step }];
                    if *is_put { writer.put(out, table, &key) } else { out.delete(table, &key) }
                }
            }
        }
        steps.retain(|out| out.op_count() > 0);
        let batches: Vec<Arc<Batch>> = steps.into_iter().map(|out| writer.batch_of(out)).collect();
        if way == "one after the other" {
            for batch in &batches {
                tables.apply(std::slice::from_ref(batch)).expect("a batch is applied");
                writer.models[batch.position as usize].compare(&*tables, &*rows, way);
            }
        } else {
            let applied = tables.apply(&batches).expect("batches are applied");
            let position = batches[batches.len() - 1].position;
            let touched = scripts.len() * keys_of(tenant, 0).len();
            assert_eq!(applied, Applied { position, ops: writes, rows: touched }, "{way}: folded");
            writer.model().compare(&*tables, &*rows, way);
        }
    }
}

fn bit_list(bits: usize, length: usize) -> Vec<bool> {
    (0..length).map(|at| bits >> at & 1 == 1).collect()
}

fn keys_of(tenant: TenantId, id: u128) -> [(Table, Vec<u8>); 6] {
    let run = RunId(id);
    [
        (Table::Workflow, key::workflow(tenant, VersionId(id))),
        (Table::Run, key::run(tenant, run)),
        // Live for as long as the run before it is.
        (Table::Task, key::task(tenant, TaskId { run, index: 0 })),
        (Table::Message, key::message(tenant, MessageId(id))),
        (Table::Event, key::event(tenant, None, id as u64)),
        (Table::Payload, key::payload(tenant, PayloadId(id))),
    ]
}

/// By hand, so that nothing is asked of the model.
pub(super) fn live_rows_are_what_a_restart_needs(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, _) = tables_of(&*store, 0);
    let [low, tenant, next, ..] = TENANTS;
    let mut out = Out::new();
    let put_run = |out: &mut Out, tenant, run, state| {
        out.put(Table::Run, &key::run(tenant, run), &run_row("job", state, 1));
        for index in [0, 1, u16::MAX] {
            out.put(Table::Task, &key::task(tenant, TaskId { run, index }), &number(1));
            out.put(Table::Journal, &key::journal(tenant, TaskId { run, index }, 0), &number(1));
        }
    };
    // Live and ended ones are neighbours, so that a range one too wide would show.
    let states = [
        RunState::Queued,
        RunState::Completed,
        RunState::Running,
        RunState::Failed,
        RunState::Parked,
        RunState::Cancelled,
        RunState::Superseded,
    ];
    for (nth, state) in states.into_iter().enumerate() {
        put_run(&mut out, tenant, RunId(0xfe + nth as u128), state);
    }
    put_run(&mut out, next, RunId(u128::MAX), RunState::Running);
    put_run(&mut out, low, RunId(0), RunState::Completed);
    // Without a run no task is live.
    out.put(Table::Task, &key::task(next, TaskId { run: RunId(5), index: 0 }), &number(1));
    let by = RunId(1);
    let messages = [MessageState::Unread, MessageState::Done { run: by }, MessageState::Received { run: by }];
    for (nth, state) in messages.into_iter().enumerate() {
        out.put(Table::Message, &key::message(tenant, MessageId(nth as u128)), &message_row(state, 1));
    }
    out.put(Table::Event, &key::event(tenant, None, 1), &event_row(None, 1));
    out.put_payload(tenant, PayloadId(1), Bytes::from_static(b"{}"));
    let small: [(Table, Vec<u8>); 6] = [
        (Table::Meta, b"partition".to_vec()),
        (Table::Tenant, key::tenant(tenant)),
        (Table::Workflow, key::workflow(tenant, VersionId(0))),
        (Table::Inbox, key::inbox(tenant, "turn", "")),
        (Table::Idempotency, key::idempotency(tenant, "\0")),
        (Table::Token, key::token(tenant, TokenId(u128::MAX))),
    ];
    for (table, key) in &small {
        out.put(*table, key, &number(1));
    }
    let first = Arc::new(Batch::new(1, out.take().writes));
    tables.apply(&[first]).expect("a batch is applied");

    let keys = |table| -> Vec<Vec<u8>> {
        let live = live_of(&*tables).remove(&table);
        live.into_iter().flatten().map(|(key, _)| key).collect()
    };
    let runs = |live: &[(TenantId, u128)]| -> Vec<Vec<u8>> {
        live.iter().map(|(tenant, run)| key::run(*tenant, RunId(*run))).collect()
    };
    let tasks = |live: &[(TenantId, u128)]| -> Vec<Vec<u8>> {
        let of = |(tenant, run): &(TenantId, u128)| {
            let (tenant, run) = (*tenant, RunId(*run));
            [0, 1, u16::MAX].map(|index| key::task(tenant, TaskId { run, index }))
        };
        live.iter().flat_map(of).collect()
    };
    let live = [(tenant, 0xfe), (tenant, 0x100), (tenant, 0x102), (next, u128::MAX)];
    assert_eq!(keys(Table::Run), runs(&live));
    assert_eq!(keys(Table::Task), tasks(&live));
    assert_eq!(keys(Table::Message), [0, 2].map(|id| key::message(tenant, MessageId(id))));
    for (table, key) in &small {
        assert_eq!(keys(*table), std::slice::from_ref(key), "{table:?}");
    }
    for table in [Table::Journal, Table::Event, Table::Payload] {
        assert!(keys(table).is_empty(), "{table:?}");
    }

    // What ends is no longer live, nor what only it had.
    let mut out = Out::new();
    out.put(Table::Run, &key::run(tenant, RunId(0x100)), &run_row("job", RunState::Completed, 2));
    out.delete(Table::Run, &key::run(next, RunId(u128::MAX)));
    out.put(Table::Message, &key::message(tenant, MessageId(0)), &message_row(MessageState::Done { run: by }, 1));
    out.delete(Table::Token, &key::token(tenant, TokenId(u128::MAX)));
    tables.apply(&[Arc::new(Batch::new(2, out.take().writes))]).expect("a batch is applied");
    let live = live_of(&*tables);
    let keys = |table| -> Vec<Vec<u8>> { live.get(&table).into_iter().flatten().map(|(key, _)| key.clone()).collect() };
    let left = [(tenant, 0xfe), (tenant, 0x102)];
    assert_eq!(keys(Table::Run), runs(&left));
    assert_eq!(keys(Table::Task), tasks(&left));
    assert_eq!(keys(Table::Message), [key::message(tenant, MessageId(2))]);
    assert!(keys(Table::Token).is_empty());
}
