//! The log through its front door: what is appended is read back, limits hold, damage is refused and named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Log, LogError, LogOptions, Position, Recovery, SyncMode, TornTail,
    disk::Disk,
    format::{self, BLOCK, HeaderRead, SegmentHeader},
    measure_sync,
    test_tap::{Change, Event, Tap},
};

use crate::chance::Chance;

const PARTITION: u16 = 3;
const SEGMENT_BYTES: u64 = 24 << 10;

/// Makes the batch for a position: mostly small, some of several blocks, a few larger than a segment.
pub(super) fn payload(position: u64) -> Vec<u8> {
    let mut chance = Chance(position);
    let size = match chance.below(12) {
        0 => 0,
        1 => BLOCK as usize - 16,
        2 => 30_000,
        3..=5 => chance.below(12_000),
        _ => chance.below(600),
    };
    chance.bytes(size)
}

#[test]
fn batches_come_back_in_order_from_where_they_are_wanted() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 30);
    for from in [1, 2, 17, 30, 31] {
        let (log, mut recovery) = open(dir.path(), from).expect("opens");
        assert_eq!(recovery.batches(), 31 - from);
        assert_eq!(recovery.torn_tail, None);
        let expected: Vec<_> = (from..=30).map(|position| (position, payload(position))).collect();
        assert!(replayed(&mut recovery) == expected, "from {from}");
        assert!(replayed(&mut recovery) == expected, "from {from}, a second time");
        assert_eq!(log.stats().next, Position(31));
    }
}

#[test]
fn parts_of_a_batch_are_joined() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _) = open(dir.path(), 1).expect("opens");
    assert_eq!(log.append(&[b"on", b"", b"e"]).expect("appended"), Position(1));
    assert_eq!(log.append(&[]).expect("appended"), Position(2));
    drop(log);
    let (_log, mut recovery) = open(dir.path(), 1).expect("opens");
    assert_eq!(replayed(&mut recovery), [(1, b"one".to_vec()), (2, Vec::new())]);
}

#[test]
fn an_error_of_the_visitor_ends_the_replay() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 3);
    let (_log, mut recovery) = open(dir.path(), 1).expect("opens");
    let mut seen = 0;
    let ended = recovery.replay(|_, _| {
        seen += 1;
        Err(LogError::Poisoned { cause: "enough".into() })
    });
    assert!(matches!(ended, Err(LogError::Poisoned { .. })), "{ended:?}");
    assert_eq!(seen, 1);
}

#[test]
fn the_bytes_on_disk_are_pinned() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = LogOptions { segment_bytes: 16 << 10, salt_seed: 0x0123_4567_89ab_cdef, ..LogOptions::default() };
    let (mut log, _) = Log::open(dir.path(), 0x0102, options, Position::FIRST).expect("opens");
    log.append(&[b"hello, ", b"log"]).expect("appended");
    log.append(&[b"second"]).expect("appended");
    drop(log);
    let bytes = fs::read(dir.path().join("00000000000000000001.seg")).expect("read");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(bytes.len(), 16 << 10);
    // The expected bytes were computed by a separate program from the description in `format`.
    let header = [
        "4d535052474c4f47", // magic
        "01",               // format version
        "00",
        "0201", // partition
        "00000000",
        "0100000000000000", // position of the first record
        "0040000000000000", // size of the file
        "518accc11761844f", // salt
        "9b01dec1",         // checksum
    ];
    assert_eq!(hex(&bytes[..44]), header.concat());
    // Each record: checksum, length, position, payload.
    let first = ["7812f63a", "0a000000", "0100000000000000", "68656c6c6f2c206c6f67"].concat();
    assert_eq!(hex(&bytes[4096..4122]), first);
    let second = ["5f967462", "06000000", "0200000000000000", "7365636f6e64"].concat();
    assert_eq!(hex(&bytes[8192..8214]), second);
    for unused in [44..4096, 4122..8192, 8214..16384] {
        assert!(bytes[unused.clone()].iter().all(|byte| *byte == 0), "{unused:?} is not zero");
    }
}

#[test]
fn a_new_log_begins_small_and_grows() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = LogOptions { segment_bytes: 16 << 20, ..LogOptions::default() };
    let (mut log, _) = Log::open(dir.path(), PARTITION, options, Position::FIRST).expect("opens");
    assert_eq!((log.stats().segments, log.stats().bytes), (1, 1 << 20));
    let batch = vec![7; 1_000_000];
    for _ in 0..12 {
        log.append(&[&batch]).expect("appended");
    }
    assert_eq!((log.stats().segments, log.stats().bytes), (3, (1 + 8 + 16) << 20));
    drop(log);
    assert_eq!(segments(dir.path()).len(), 3);
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 4, "three segments and LOCK");
}

#[test]
fn a_batch_larger_than_a_segment_gets_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _) = open(dir.path(), 1).expect("opens");
    let large = Chance(1).bytes(1_700_000);
    for batch in [&large[..], b"small", &large] {
        log.append(&[batch]).expect("appended");
    }
    assert_eq!(log.stats().segments, 3, "the empty first segment was replaced");
    drop(log);
    let (_log, mut recovery) = open(dir.path(), 1).expect("opens");
    assert!(replayed(&mut recovery) == [(1, large.clone()), (2, b"small".to_vec()), (3, large)]);
}

#[test]
fn an_empty_segment_that_is_replaced_still_follows_the_one_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _) = open(dir.path(), 1).expect("opens");
    for _ in 0..6 {
        log.append(&[&[1; 100]]).expect("appended");
    }
    drop(log);
    // What a crash in the first write to the second segment leaves behind.
    flip(&segments(dir.path())[1], BLOCK + 50);
    let (mut log, recovery) = open(dir.path(), 1).expect("opens");
    assert_eq!(recovery.batches(), 5);
    assert_eq!(log.append(&[&[2; 50_000]]).expect("appended"), Position(6));
    assert_eq!(log.append(&[b"after"]).expect("appended"), Position(7));
    drop(log);
    assert_eq!(open(dir.path(), 1).expect("opens").1.batches(), 7);
}

#[test]
fn the_next_segment_is_prepared_after_a_restart_in_the_middle_of_one() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 1);
    let tap = Tap::default();
    let mut disk = Disk::new(std::sync::Arc::new(super::files::MachineFiles), SyncMode::Durable, true);
    disk.tap = Some(tap.clone());
    let (mut log, _) =
        Log::open_on(disk, dir.path(), PARTITION, LogOptions::default(), Position::FIRST).expect("opens");
    assert!(!prepares(&tap), "a log that is only read prepares nothing");
    log.append(&[b"second"]).expect("appended");
    drop(log);
    assert!(prepares(&tap));
}

#[test]
fn a_batch_over_the_limit_is_refused_and_the_log_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = LogOptions { batch_bytes_max: 5000, segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
    let (mut log, _) = Log::open(dir.path(), PARTITION, options, Position::FIRST).expect("opens");
    let refused = log.append(&[&[1; 5000], &[1]]);
    assert!(matches!(refused, Err(LogError::TooLarge { bytes: 5001, bytes_max: 5000 })), "{refused:?}");
    assert_eq!(log.append(&[&[1; 5000]]).expect("appended"), Position(1));
}

#[test]
fn removal_takes_whole_segments_and_never_the_active_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _) = open(dir.path(), 1).expect("opens");
    for _ in 0..12 {
        log.append(&[&[1; 100]]).expect("appended");
    }
    // Five records fit a segment: 1-5, 6-10, 11-12.
    assert_eq!(log.stats().segments, 3);
    assert_eq!(log.remove_up_to(Position(4)).expect("removed"), 0);
    assert_eq!(log.remove_up_to(Position(5)).expect("removed"), 1);
    assert_eq!(log.stats().first, Position(6));
    assert_eq!(log.remove_up_to(Position(5)).expect("removed"), 0);
    assert_eq!(log.remove_up_to(Position(u64::MAX)).expect("removed"), 1);
    assert_eq!((log.stats().segments, log.stats().first, log.stats().next), (1, Position(11), Position(13)));
    drop(log);

    let gap = open(dir.path(), 10).map(drop);
    assert!(matches!(gap, Err(LogError::Gap { wanted: Position(10), first: Position(11), .. })), "{gap:?}");
    let behind = open(dir.path(), 14).map(drop);
    assert!(matches!(behind, Err(LogError::Behind { wanted: Position(14), next: Position(13), .. })), "{behind:?}");
    assert_eq!(open(dir.path(), 13).expect("opens").1.batches(), 0);
}

#[test]
fn tables_without_their_log_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let behind = open(dir.path(), 2).map(drop);
    assert!(matches!(behind, Err(LogError::Behind { wanted: Position(2), next: Position(1), .. })), "{behind:?}");
}

#[test]
fn a_directory_has_one_opener() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = open(dir.path(), 1).expect("opens");
    let second = open(dir.path(), 1).map(drop);
    assert!(matches!(second, Err(LogError::InUse { .. })), "{second:?}");
    drop(first);
    open(dir.path(), 1).expect("opens when the other is gone");
}

#[test]
fn a_log_without_direct_writes_is_the_same_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
    for round in 0..4u64 {
        let disk = Disk::new(std::sync::Arc::new(super::files::MachineFiles), SyncMode::Durable, round % 2 == 0);
        let from = Position(1);
        let (mut log, mut recovery) = Log::open_on(disk, dir.path(), PARTITION, options.clone(), from).expect("opens");
        assert!(replayed(&mut recovery) == expected(1, round * 8));
        for position in round * 8 + 1..=round * 8 + 8 {
            log.append(&[&payload(position)]).expect("appended");
        }
    }
}

#[test]
fn a_random_life_loses_nothing() {
    for seed in 0..6 {
        let mut chance = Chance(seed);
        let dir = tempfile::tempdir().expect("a directory");
        let (mut appended, mut applied) = (0, 0);
        for _ in 0..8 {
            let (mut log, mut recovery) = open(dir.path(), applied + 1).expect("opens");
            assert!(replayed(&mut recovery) == expected(applied + 1, appended), "seed {seed}");
            for _ in 0..chance.below(12) {
                appended += 1;
                assert_eq!(log.append(&[&payload(appended)]).expect("appended"), Position(appended));
            }
            applied += chance.below((appended - applied) as usize + 1) as u64;
            log.remove_up_to(Position(applied)).expect("removed");
            assert!(log.stats().first <= Position(applied + 1));
        }
    }
}

#[test]
fn a_torn_tail_is_cut_for_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _) = open(dir.path(), 1).expect("opens");
    log.append(&[b"kept"]).expect("appended");
    log.append(&[&[9; 6000]]).expect("appended");
    drop(log);
    let path = segments(dir.path()).remove(0);
    flip(&path, 3 * BLOCK + 100);
    let (mut log, mut recovery) = open(dir.path(), 1).expect("opens");
    let cut = TornTail { file: path.clone(), offset: 2 * BLOCK, bytes_cut: 2 * BLOCK };
    assert_eq!(recovery.torn_tail, Some(cut));
    assert_eq!(replayed(&mut recovery), [(1, b"kept".to_vec())]);
    assert!(fs::read(&path).expect("read")[2 * BLOCK as usize..].iter().all(|byte| *byte == 0));
    assert_eq!(log.append(&[b"again"]).expect("appended"), Position(2));
    drop(log);
    let (_log, mut recovery) = open(dir.path(), 1).expect("opens");
    assert_eq!(recovery.torn_tail, None);
    assert_eq!(replayed(&mut recovery), [(1, b"kept".to_vec()), (2, b"again".to_vec())]);
}

#[test]
fn a_flipped_bit_is_never_read_back() {
    let source = tempfile::tempdir().expect("a directory");
    fill(source.path(), 24);
    let mut chance = Chance(11);
    let (mut refused, mut torn) = (0, 0);
    for round in 0..400 {
        let dir = tempfile::tempdir().expect("a directory");
        copy(source.path(), dir.path());
        let paths = segments(dir.path());
        let path = &paths[chance.below(paths.len())];
        let length = fs::metadata(path).expect("there").len() as usize;
        // Every other time where heads and headers are, which random places seldom hit.
        let offset =
            if round % 2 == 0 { chance.below(length) } else { chance.below(length) / 4096 * 4096 + chance.below(48) };
        flip(path, offset as u64);
        match open(dir.path(), 1) {
            Ok((_log, mut recovery)) => {
                let read = replayed(&mut recovery);
                match recovery.torn_tail {
                    // In the padding, the unused rest, or the part of the header that is always zero.
                    None => assert!(read == expected(1, 24), "byte {offset} of {path:?}"),
                    Some(tail) => {
                        assert_eq!(path, paths.last().expect("a segment"));
                        let lost_last = read == expected(1, 23);
                        assert!(lost_last || read == expected(1, 24), "byte {offset} of {path:?}: {tail:?}");
                        torn += 1;
                    }
                }
            }
            Err(LogError::Damaged { file, .. }) => {
                assert_eq!(&file, path);
                refused += 1;
            }
            Err(error) => panic!("byte {offset} of {path:?}: {error}"),
        }
    }
    assert!(refused > 100 && torn > 5, "{refused} refused, {torn} torn");
}

#[test]
fn damage_is_refused_with_a_sentence_and_nothing_is_changed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _) = open(dir.path(), 1).expect("opens");
    for _ in 0..12 {
        log.append(&[&[1; 100]]).expect("appended");
    }
    drop(log);
    let pristine = read_all(dir.path());
    let paths = segments(dir.path());
    let [one, two, three] = &paths[..] else { panic!("three segments") };
    fs::write(dir.path().join("next.tmp"), b"left over").expect("written");

    let refusal = |what: &str, file: &Path, offset: u64, position: u64, words: &str| {
        let before = read_all(dir.path());
        let error = open(dir.path(), 1).map(drop).expect_err(what);
        assert!(read_all(dir.path()) == before, "{what}: something was changed");
        let told = error.to_string();
        assert!(told.contains(words), "{what}: {told}");
        match error {
            LogError::Damaged { file: at_file, offset: at_offset, position: at_position, .. } => {
                assert_eq!((&*at_file, at_offset, at_position.0), (file, offset, position), "{what}: {told}");
            }
            other => panic!("{what}: {other}"),
        }
        for (path, bytes) in &pristine {
            fs::write(path, bytes).expect("written");
        }
    };

    flip(one, 2 * BLOCK + 40);
    refusal("a payload in the first segment", one, 2 * BLOCK, 2, "the next segment begins with batch 6");
    flip(two, 5 * BLOCK);
    refusal("the last record of a middle segment", two, 5 * BLOCK, 10, "the next segment begins with batch 11");
    flip(three, BLOCK + 3);
    refusal("a record before the last", three, BLOCK, 11, "batch 12 follows at byte 8192");
    fs::write(three, [&pristine[&paths[2]][..4096], &[0; 4096], &pristine[&paths[2]][8192..]].concat())
        .expect("written");
    refusal("a block of zeros before the last record", three, BLOCK, 11, "batch 12 follows at byte 8192");
    flip(three, 20);
    refusal("a header", three, 0, 11, "the header of the segment is unreadable");
    fs::write(three, vec![0; SEGMENT_BYTES as usize]).expect("written");
    refusal("a segment of zeros", three, 0, 11, "the header of the segment is unreadable");
    fs::remove_file(two).expect("removed");
    refusal("a missing segment", one, SEGMENT_BYTES, 6, "the next segment begins with batch 11");
    fs::write(three, &pristine[&paths[2]][..12288]).expect("written");
    refusal("a shortened segment", three, 12288, 11, "the file is 12288 bytes long and should be 24576");
    fs::write(three, b"").expect("written");
    refusal("an empty file", three, 0, 11, "the file is only 0 bytes long");
    fs::write(two, &pristine[&paths[0]]).expect("written");
    refusal("a renamed segment", two, 0, 6, "the segment begins with batch 1");

    let (_log, mut recovery) = open(dir.path(), 1).expect("opens when all is repaired");
    assert_eq!(replayed(&mut recovery).len(), 12);
    assert!(!dir.path().join("next.tmp").exists());
}

#[test]
fn damage_before_what_is_wanted_does_not_matter() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _) = open(dir.path(), 1).expect("opens");
    for _ in 0..12 {
        log.append(&[&[1; 100]]).expect("appended");
    }
    drop(log);
    flip(&segments(dir.path())[0], BLOCK);
    assert_eq!(open(dir.path(), 6).expect("opens").1.batches(), 7);
    assert!(open(dir.path(), 5).is_err());
}

#[test]
fn segments_of_different_logs_do_not_mix() {
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    for (dir, byte) in dirs.iter().zip([1, 2]) {
        let (mut log, _) = open(dir.path(), 1).expect("opens");
        for _ in 0..12 {
            log.append(&[&[byte; 100]]).expect("appended");
        }
    }
    let [_, theirs, _] = &segments(dirs[0].path())[..] else { panic!("three segments") };
    let [_, ours, _] = &segments(dirs[1].path())[..] else { panic!("three segments") };
    fs::copy(theirs, ours).expect("copied");
    let error = open(dirs[1].path(), 1).map(drop).expect_err("refused").to_string();
    assert!(error.contains("does not belong after the one before it"), "{error}");
}

#[test]
fn a_record_is_bound_to_its_segment_and_position() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _) = open(dir.path(), 1).expect("opens");
    for _ in 0..2 {
        log.append(&[b"same"]).expect("appended");
    }
    drop(log);
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).expect("read");
    bytes.copy_within(4096..8192, 12288);
    fs::write(&path, &bytes).expect("written");
    let error = open(dir.path(), 1).map(drop).expect_err("refused").to_string();
    assert!(error.contains("batch 1 is there instead"), "{error}");
}

#[test]
fn another_version_or_partition_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path(), 1).expect("opens"));
    let other = Log::open(dir.path(), 4, LogOptions::default(), Position::FIRST).map(drop);
    assert!(matches!(other, Err(LogError::Partition { found: PARTITION, expected: 4, .. })), "{other:?}");

    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).expect("read");
    bytes[8] = 2;
    assert_eq!(SegmentHeader::decode(&bytes), HeaderRead::Damaged, "a flipped bit is not a newer version");
    let crc = crc32c::crc32c(&bytes[..40]);
    bytes[40..44].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).expect("written");
    let newer = open(dir.path(), 1).map(drop);
    assert!(matches!(newer, Err(LogError::Format { found: 2, supported: 1, .. })), "{newer:?}");
}

#[test]
fn only_segment_names_are_segments() {
    assert_eq!(format::parse_segment_name("00000000000000000042.seg"), Some(Position(42)));
    for name in ["42.seg", "LOCK", "next.tmp", "0000000000000000004x.seg", "99999999999999999999.seg"] {
        assert_eq!(format::parse_segment_name(name), None, "{name}");
    }
}

#[test]
fn a_missing_directory_is_made_and_an_unusable_one_named() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(&dir.path().join("a/b"), 1).expect("opens"));
    fs::write(dir.path().join("file"), b"").expect("written");
    let error = open(&dir.path().join("file"), 1).map(drop).expect_err("refused");
    assert!(matches!(error, LogError::Io { .. }), "{error}");
}

#[test]
fn the_disk_is_measured_and_left_clean() {
    let dir = tempfile::tempdir().expect("a directory");
    let rates = measure_sync(dir.path(), 1000, 20).expect("measured");
    assert!(rates.per_second > 0.0 && rates.median_ms <= rates.p99_ms, "{rates:?}");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
}

fn open(dir: &Path, from: u64) -> Result<(Log, Recovery), LogError> {
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
    Log::open(dir, PARTITION, options, Position(from))
}

fn prepares(tap: &Tap) -> bool {
    tap.events().iter().any(|event| matches!(event, Event::Begun(Change::Create(name)) if name == "next.tmp"))
}

fn fill(dir: &Path, batches: u64) {
    let (mut log, _) = open(dir, 1).expect("opens");
    for position in 1..=batches {
        log.append(&[&payload(position)]).expect("appended");
    }
}

fn expected(from: u64, to: u64) -> Vec<(u64, Vec<u8>)> {
    (from..=to).map(|position| (position, payload(position))).collect()
}

fn replayed(recovery: &mut Recovery) -> Vec<(u64, Vec<u8>)> {
    let mut batches = Vec::new();
    recovery
        .replay(|position, bytes| {
            batches.push((position.0, bytes.to_vec()));
            Ok::<(), LogError>(())
        })
        .expect("replayed");
    batches
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        read_all(dir).into_keys().filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    paths.sort();
    paths
}

fn read_all(dir: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path());
    entries.map(|path| (path.clone(), fs::read(&path).expect("read"))).collect()
}

fn copy(from: &Path, to: &Path) {
    for path in segments(from) {
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).expect("read");
    bytes[offset as usize] ^= 0x10;
    fs::write(path, bytes).expect("written");
}
