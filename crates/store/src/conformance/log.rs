//! Laws of the log.

use super::model::Chance;
use super::{BATCH_BYTES_MAX, Open, log_of, opened, try_log_of};
use crate::backend::PartitionLog;
use crate::log::{LogError, Position};

/// Sizes around the blocks and segments a log may be made of, and larger than some segments.
const SIZES: [usize; 14] = [0, 1, 2, 511, 512, 4_063, 4_064, 4_065, 4_096, 8_192, 12_345, 65_536, 200_000, 3];

fn batch(chance: &mut Chance, nth: usize) -> Vec<u8> {
    // Zeros look like a log that has not been written yet, so some batches are nothing else.
    if nth % 7 == 3 { vec![0; SIZES[nth % SIZES.len()]] } else { chance.bytes(SIZES[nth % SIZES.len()]) }
}

/// Appends in as many parts as it pleases, some of them empty.
fn append(log: &mut dyn PartitionLog, chance: &mut Chance, bytes: &[u8]) -> u64 {
    let at = chance.below(bytes.len() as u64 + 1) as usize;
    let (one, two) = bytes.split_at(at);
    let parts: &[&[u8]] = match chance.below(3) {
        0 => &[bytes],
        1 => &[one, two],
        _ => &[&[], one, &[], two, &[]],
    };
    log.append(parts).expect("a batch is appended").0
}

pub(super) fn positions_have_no_hole(open: Open<'_>) {
    let mut chance = Chance::new(1);
    let mut last = 0;
    for nth in 0..4 {
        let store = opened(open);
        let (mut log, shown) = log_of(&*store, 0, 1);
        let positions: Vec<u64> = shown.iter().map(|(position, _)| *position).collect();
        assert_eq!(positions, (1..=last).collect::<Vec<u64>>(), "shown at opening {nth}");
        for _ in 0..12 {
            assert_eq!(log.next(), Position(last + 1), "what the next batch will get");
            let bytes = batch(&mut chance, last as usize);
            assert_eq!(append(&mut *log, &mut chance, &bytes), last + 1, "what it got");
            last += 1;
        }
        assert_eq!(log.next(), Position(last + 1));
    }
}

pub(super) fn batches_come_back_byte_for_byte(open: Open<'_>) {
    let mut chance = Chance::new(2);
    let mut kept: Vec<(u64, Vec<u8>)> = Vec::new();
    {
        let store = opened(open);
        let (mut log, _) = log_of(&*store, 0, 1);
        for nth in 0..30 {
            let bytes = batch(&mut chance, nth);
            kept.push((append(&mut *log, &mut chance, &bytes), bytes));
        }
    }
    for from in 1..=31 {
        let store = opened(open);
        let (log, shown) = log_of(&*store, 0, from);
        // Not with assert_eq: it would print megabytes.
        assert!(shown == kept[from as usize - 1..], "from {from} on, {} batches were shown", shown.len());
        assert_eq!(log.next(), Position(31));
    }
    // Tables that contain batches the log has never seen do not belong to it.
    let store = opened(open);
    assert!(try_log_of(&*store, 0, 32).is_err(), "opened from behind its end");
}

pub(super) fn a_batch_that_is_too_large_changes_nothing(open: Open<'_>) {
    let mut chance = Chance::new(3);
    let large = chance.bytes(BATCH_BYTES_MAX + 1);
    {
        let store = opened(open);
        let (mut log, _) = log_of(&*store, 0, 1);
        for position in 1..=3 {
            let refused = log.append(&[&large[..1], &large[1..]]);
            assert!(matches!(refused, Err(LogError::TooLarge { .. })), "{refused:?}");
            assert_eq!(log.next(), Position(position));
            assert_eq!(append(&mut *log, &mut chance, &large[..BATCH_BYTES_MAX]), position);
        }
    }
    let (_, shown) = log_of(&*opened(open), 0, 1);
    assert_eq!(shown.len(), 3);
    assert!(shown.iter().all(|(_, bytes)| *bytes == large[..BATCH_BYTES_MAX]), "the largest batch comes back");
}

pub(super) fn what_is_not_contained_is_never_removed(open: Open<'_>) {
    let mut chance = Chance::new(4);
    let mut kept: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut contained = 0;
    for nth in 0..12 {
        {
            let store = opened(open);
            let (mut log, shown) = log_of(&*store, 0, contained + 1);
            assert!(
                shown == kept[contained as usize..],
                "opening {nth}: all behind {contained}, {} shown",
                shown.len()
            );
            for _ in 0..10 {
                let bytes = batch(&mut chance, kept.len());
                kept.push((append(&mut *log, &mut chance, &bytes), bytes));
                // Up to nothing, up to something, up to the end; and once more, also with less than before.
                contained = match chance.below(8) {
                    0 => kept.len() as u64,
                    1 | 2 => contained + chance.below(kept.len() as u64 - contained + 1),
                    _ => contained,
                };
                for up_to in [contained, contained / 2, 0, contained] {
                    log.remove_up_to(Position(up_to)).expect("what is contained may go");
                }
                assert_eq!(log.next(), Position(kept.len() as u64 + 1), "removal moves no position");
            }
        }
        // What is contained may be gone; then the log says so, rather than showing less than it was asked for.
        for from in [1, contained / 2 + 1, contained.max(1)] {
            match try_log_of(&*opened(open), 0, from) {
                Ok((_, shown)) => assert!(shown == kept[from as usize - 1..], "from {from}, contained {contained}"),
                Err(LogError::Gap { .. }) => assert!(from <= contained, "{from} is gone, contained was {contained}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub(super) fn a_log_has_one_owner(open: Open<'_>) {
    let store = opened(open);
    let (mut first, _) = log_of(&*store, 0, 1);
    first.append(&[b"one"]).expect("a batch is appended");
    match try_log_of(&*store, 0, 1) {
        Err(LogError::InUse { .. }) => {
            let position = first.append(&[b"two"]).expect("whoever has the log keeps it");
            assert_eq!(position, Position(2));
            drop(first);
            let (_, shown) = log_of(&*store, 0, 1);
            assert_eq!(shown, [(1, b"one".to_vec()), (2, b"two".to_vec())]);
        }
        Ok((mut second, shown)) => {
            assert_eq!(shown, [(1, b"one".to_vec())]);
            first.append(&[b"not this"]).expect_err("a former owner is refused");
            assert_eq!(second.append(&[b"two"]).expect("the owner appends"), Position(2));
        }
        Err(error) => panic!("{error}"),
    }
}
