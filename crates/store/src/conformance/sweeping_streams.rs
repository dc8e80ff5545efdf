//! The law of retention for streams: entries go when they are old enough and every group has acknowledged them.

use std::sync::Arc;

use bytes::Bytes;
use mainspring_core::id::TenantId;
use mainspring_core::row::{
    Generation, StreamEntryIdRow, StreamEntryRow, StreamGroupRow, StreamPartRow, StreamProgressRow, StreamRow, key,
};
use mainspring_core::stream::Place;
use mainspring_core::{Out, Table};

use super::model::TENANTS;
use super::{Open, opened, tables_of};
use crate::reader::Reader;
use crate::retention::{Retention, Sweep};
use crate::unapplied::{Batch, Unapplied};

const KEPT_MS: u64 = 500;
/// Entries of each partition. Entry 0 was published at 1,000, and each one a millisecond after the one before.
const ENTRIES: u64 = 40;
const FIRST: u64 = 1_000;

fn put_stream(out: &mut Out, tenant: TenantId, name: &str, number: u32, groups: &[(&str, u32, &[u64])]) {
    let generation = |number| Generation { number, partitions: 2, since: FIRST };
    let row = StreamRow {
        number,
        generations: vec![generation(0), generation(1)],
        keep_ms: KEPT_MS,
        waiting_max: 1,
        waiting_bytes_max: 1,
        deliveries_max: 1,
        created_at: FIRST,
    };
    out.put(Table::Stream, &key::stream(tenant, name), &row);
    for (generation, partition) in [(0, 0), (0, 1), (1, 0)] {
        let next = StreamPartRow { next: ENTRIES, ..StreamPartRow::default() };
        out.put(Table::StreamPart, &key::stream_part(tenant, number, generation, partition), &next);
        for seq in 0..ENTRIES {
            let place = Place { generation, partition, seq };
            let (id, body) = (Some(place.to_string()), Bytes::from_static(b"{}"));
            let entry = StreamEntryRow { at: FIRST + seq, key: None, id, body, dead: None };
            out.put(Table::StreamEntry, &key::stream_entry(tenant, number, place), &entry);
            let id_key = key::stream_entry_id(tenant, number, &place.to_string());
            out.put(Table::StreamEntryId, &id_key, &StreamEntryIdRow { place });
        }
    }
    for (group, generation, floors) in groups {
        let row = StreamGroupRow { generation: *generation, created_at: FIRST, seen_at: FIRST };
        out.put(Table::StreamGroup, &key::stream_group(tenant, number, group), &row);
        for (partition, floor) in floors.iter().enumerate().filter(|(_, floor)| **floor > 0) {
            let progress = StreamProgressRow { floor: *floor, ..StreamProgressRow::default() };
            let key = key::stream_progress(tenant, number, *generation, partition as u16, group);
            out.put(Table::StreamProgress, &key, &progress);
        }
    }
}

pub(super) fn a_sweep_takes_entries_that_all_have(open: Open<'_>) {
    let store = opened(open);
    let (mut tables, rows) = tables_of(&*store, 0);
    let (tenant, other) = (TENANTS[1], TENANTS[2]);
    let mut out = Out::new();
    put_stream(&mut out, tenant, "nobody", 0, &[]);
    put_stream(&mut out, tenant, "slow", 1, &[("quick", 1, &[30]), ("slow", 0, &[10])]);
    put_stream(&mut out, tenant, "stuck", 2, &[("stuck", 0, &[])]);
    put_stream(&mut out, other, "slow", 1, &[("quick", 1, &[30])]);
    tables.apply(&[Arc::new(Batch::new(1, out.take().writes))]).expect("a batch is applied");
    let reader = Reader::new(rows, Arc::new(Unapplied::new(1)));

    let mut around = |now: u64| {
        let (mut sweep, mut removed) = (Sweep::default(), 0);
        for step in 0.. {
            assert!(step < 100, "the sweep comes around");
            let swept = tables.sweep(now, Retention::default(), &mut sweep, 2).expect("a sweep");
            assert!(swept.entries <= 2 * 16, "a little at a time: {swept:?}");
            removed += swept.entries;
            if swept.finished {
                return removed;
            }
        }
        removed
    };
    // To the very millisecond an entry is kept for as long as its stream says.
    assert_eq!(around(FIRST + KEPT_MS), 0, "nothing is too old yet");
    // The first 20 of each partition are: 60 of the stream nobody reads; of the slow group's, 10; and of the other
    // tenant's, both partitions that its group is past, and 20 of the one it reads.
    assert_eq!(around(FIRST + KEPT_MS + 20), 60 + 10 + 60);
    assert_eq!(around(FIRST + KEPT_MS + 20), 0, "what is gone is gone");
    let oldest = |tenant, number| {
        let oldest = reader.stream_oldest(tenant, number).expect("the oldest are read");
        oldest.into_iter().map(|(_, seq)| seq).collect::<Vec<_>>()
    };
    assert_eq!(oldest(tenant, 0), [20, 20, 20]);
    assert_eq!(oldest(tenant, 1), [10, 0, 0]);
    assert_eq!(oldest(tenant, 2), [0, 0, 0]);
    assert_eq!(oldest(other, 1), [20, 20, 20]);
    // In the end everything goes that all have, and with each entry its id.
    around(FIRST + KEPT_MS + ENTRIES);
    assert_eq!(oldest(other, 1), [ENTRIES, ENTRIES, 30]);
    let ids = reader.prefixed(Table::StreamEntryId, &other.to_bytes()).expect("ids are read");
    assert_eq!(ids.len() as u64, ENTRIES - 30, "an id goes with its entry");
}
