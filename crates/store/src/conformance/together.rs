//! Laws of a store as a whole: its partitions, and what is found when it is opened again.

use std::sync::Arc;

use super::model::Writer;
use super::{Open, log_of, opened, tables_of};
use crate::log::Position;
use crate::unapplied::Batch;

pub(super) fn the_number_of_partitions_never_changes(open: Open<'_>) {
    for wanted in [3, 7, 1, 0, 3] {
        let store = open();
        assert_eq!(store.partitions(wanted).expect("a number"), 3, "when {wanted} are wanted");
        assert_eq!(store.partitions(wanted + 1).expect("a number"), 3, "asked again");
    }
}

pub(super) fn there_is_at_least_one_partition(open: Open<'_>) {
    assert_eq!(open().partitions(0).expect("a number"), 1);
    assert_eq!(open().partitions(2).expect("a number"), 1);
}

pub(super) fn partitions_know_nothing_of_each_other(open: Open<'_>) {
    let mut writers = [Writer::new(31), Writer::new(32)];
    for nth in 0..3 {
        let store = opened(open);
        for (partition, writer) in (0..).zip(&mut writers) {
            let (mut tables, rows) = tables_of(&*store, partition);
            let before = writer.models.len() as u64 - 1;
            assert_eq!(tables.applied().expect("a position"), before, "partition {partition} at opening {nth}");
            let (mut log, shown) = log_of(&*store, partition, before + 1);
            assert!(shown.is_empty());
            // One has twice as many as the other.
            for _ in 0..2 + 2 * partition {
                let batch = writer.batch(30);
                let position = log.append(&[writer.encoded.last().expect("it is kept")]).expect("a batch is appended");
                assert_eq!(position, Position(batch.position));
                tables.apply(&[batch]).expect("a batch is applied");
            }
            writer.model().compare(&*tables, &*rows, "each its own");
            tables.checkpoint().expect("a checkpoint");
        }
    }
}

/// What an engine does over and over: tables as they are found, what the log has behind them, more of both, and a log
/// that lets go of what a checkpoint has made durable.
pub(super) fn opened_again_nothing_is_lacking(open: Open<'_>) {
    let mut writer = Writer::new(33);
    let mut batches: Vec<Arc<Batch>> = Vec::new();
    let (mut applied, mut durable) = (0, 0);
    for nth in 0..30 {
        let told = format!("opening {nth}");
        let store = opened(open);
        let (mut tables, rows) = tables_of(&*store, 0);
        let standing = tables.applied().expect("a position");
        assert!(
            (durable..=applied).contains(&standing),
            "{told}: at {standing}, had applied {applied} and made {durable} durable"
        );
        writer.models[standing as usize].compare(&*tables, &*rows, &told);
        let (mut log, shown) = log_of(&*store, 0, standing + 1);
        let expected: Vec<(u64, Vec<u8>)> =
            (standing + 1..).zip(writer.encoded[standing as usize..].to_vec()).collect();
        assert!(shown == expected, "{told}: {} shown from {standing} on", shown.len());

        for _ in 0..writer.chance.below(6) {
            let batch = writer.batch(25);
            let position = log.append(&[writer.encoded.last().expect("it is kept")]).expect("a batch is appended");
            assert_eq!(position, Position(batch.position), "{told}");
            batches.push(batch);
        }
        // Any part of what the log has: the position goes with the rows.
        applied = standing;
        for _ in 0..writer.chance.below(3) {
            let to = applied + writer.chance.below(batches.len() as u64 - applied + 1);
            tables.apply(&batches[applied as usize..to as usize]).expect("batches are applied");
            applied = to;
        }
        if writer.chance.below(2) == 0 {
            tables.checkpoint().expect("a checkpoint");
            durable = applied;
            log.remove_up_to(Position(durable)).expect("what is contained may go");
        }
    }
    assert!(batches.len() > 50 && durable > 20, "this law tries something");
}
