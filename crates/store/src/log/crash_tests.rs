//! Stops a workload at every change it makes to the disk, builds what a crash at that instant could have left, and
//! opens it.
//!
//! The model is as unkind as a disk may be: a change that has not returned, or that was not synced yet, may have
//! happened fully, partly (any of its 512-byte sectors, a byte-wise prefix, sectors of garbage) or not at all; names
//! changed since the last sync of the directory may be there or not, in the order they were changed.

use std::{collections::BTreeMap, fs, path::Path};

use crate::chance::Chance;

use super::{
    LogError, LogOptions, Position, SyncMode,
    disk::Disk,
    test_tap::{Change, Event, Fault, Tap},
    tests::payload,
    writer::Log,
};

const SECTOR: usize = 512;
const PARTITION: u16 = 3;

type Image = BTreeMap<String, Vec<u8>>;

#[test]
fn every_crash_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let tap = Tap::default();
    let mut log = open(dir.path(), SyncMode::Durable, Some(&tap), Position::FIRST).expect("a new log").0;
    for position in 1..=40 {
        log.append(&[&payload(position)]).expect("appended");
        tap.note(Event::Acknowledged(position));
        if position % 13 == 0 {
            tap.note(Event::Applied(position - 4));
            log.remove_up_to(Position(position - 4)).expect("removed");
        }
    }
    drop(log);

    let events = tap.events();
    let begun = |wanted: fn(&Change) -> bool| {
        events.iter().filter(|event| matches!(event, Event::Begun(change) if wanted(change))).count()
    };
    assert!(begun(|change| matches!(change, Change::Rename { .. })) > 5, "the workload spans segments");
    assert!(begun(|change| matches!(change, Change::Remove(_))) > 3, "the workload removes segments");
    let mut chance = Chance(7);
    let mut images = 0;
    for crash_at in 0..=events.len() {
        let before = Before::of(&Image::new(), &events[..crash_at]);
        for variant in before.variants(8) {
            let image = before.image(variant, &mut chance);
            let told = format!("crash at {crash_at} of {}, variant {variant}", events.len());
            let twice = images % 16 == 0;
            check(&image, before.acknowledged..=before.acknowledged + 1, before.applied, twice, &mut chance, &told);
            images += 1;
        }
    }
    assert!(images > 1000, "{images} images are too few to say anything");
}

#[test]
fn any_failed_change_poisons_the_log_and_loses_nothing() {
    for takes_place in [false, true] {
        let mut after = 0;
        loop {
            let dir = tempfile::tempdir().expect("a directory");
            let tap = Tap::failing(Fault { after, takes_place });
            let mut acknowledged = 0;
            if let Ok((mut log, _)) = open(dir.path(), SyncMode::Durable, Some(&tap), Position::FIRST) {
                for position in 1..=12 {
                    match log.append(&[&payload(position)]) {
                        Ok(_) => acknowledged = position,
                        Err(error) => {
                            assert!(error.to_string().contains("injected failure"), "{error}");
                            break;
                        }
                    }
                }
                if acknowledged < 12 {
                    let again = log.append(&[b"later"]);
                    assert!(matches!(again, Err(LogError::Poisoned { .. })), "{again:?}");
                    let removal = log.remove_up_to(Position(1));
                    assert!(matches!(removal, Err(LogError::Poisoned { .. })), "{removal:?}");
                }
            }
            let failed = tap.failed();
            let image = read_image(dir.path());
            let told = format!("failure of change {after}, takes place: {takes_place}");
            check(&image, acknowledged..=acknowledged + 1, 0, false, &mut Chance(1), &told);
            if !failed {
                break;
            }
            after += 1;
        }
        assert!(after > 20, "only {after} changes were made to fail");
    }
}

/// Opens the image and checks that it holds the batches up to a position in `ends`, unaltered, and can be gone on
/// with. With `twice`, also crashes at every change that opening makes.
fn check(
    image: &Image,
    ends: std::ops::RangeInclusive<u64>,
    applied: u64,
    twice: bool,
    chance: &mut Chance,
    told: &str,
) {
    let dir = tempfile::tempdir().expect("a directory");
    write_image(dir.path(), image);
    let from = Position(applied + 1);
    let end = match open(dir.path(), SyncMode::Off, None, from) {
        Ok((mut log, mut recovery)) => {
            let end = replayed(&mut recovery, from, told);
            assert!(ends.contains(&end), "{told}: ends with {end}, not in {ends:?}");
            let position = log.append(&[&payload(end + 1)]).expect("appended");
            assert_eq!(position, Position(end + 1), "{told}");
            end
        }
        Err(error) => panic!("{told}: {error}"),
    };
    let (log, mut recovery) = open(dir.path(), SyncMode::Off, None, from).expect("opens again");
    assert_eq!(replayed(&mut recovery, from, told), end + 1, "{told}");
    assert_eq!(recovery.torn_tail, None, "{told}");
    drop(log);

    if twice {
        let dir = tempfile::tempdir().expect("a directory");
        write_image(dir.path(), image);
        let tap = Tap::default();
        drop(open(dir.path(), SyncMode::Durable, Some(&tap), from).expect("opens"));
        let events = tap.events();
        for crash_at in 0..=events.len() {
            let before = Before::of(image, &events[..crash_at]);
            for variant in before.variants(4) {
                let told = format!("{told}, then at {crash_at} of {} while opening, variant {variant}", events.len());
                check(&before.image(variant, chance), end..=end, applied, false, chance, &told);
            }
        }
    }
}

fn replayed(recovery: &mut super::Recovery, from: Position, told: &str) -> u64 {
    let mut expected = from.0;
    recovery
        .replay(|position, bytes| {
            assert_eq!(position.0, expected, "{told}");
            assert!(bytes == payload(position.0), "{told}: batch {position} was altered");
            expected += 1;
            Ok::<(), LogError>(())
        })
        .expect("replayed");
    expected - 1
}

fn open(dir: &Path, sync: SyncMode, tap: Option<&Tap>, from: Position) -> Result<(Log, super::Recovery), LogError> {
    let mut disk = Disk::new(std::sync::Arc::new(super::files::MachineFiles), sync, true);
    disk.tap = tap.cloned();
    let options = LogOptions { segment_bytes: 24 << 10, sync, ..LogOptions::default() };
    Log::open_on(disk, dir, PARTITION, options, from)
}

/// What the disk holds for certain just before a crash, and what it may hold.
#[derive(Default)]
struct Before {
    acknowledged: u64,
    applied: u64,
    files: Vec<File>,
    /// Names that are durable.
    names: BTreeMap<String, usize>,
    /// Changes of names that may be.
    renamings: Vec<(usize, Naming)>,
}

/// A file, by whatever name.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// Writes that may be durable: begun by which event, where, what, and whether it becomes so only by a sync.
    pending: Vec<(usize, u64, Vec<u8>, bool)>,
}

#[derive(Clone)]
enum Naming {
    Set(String, usize),
    Unset(String),
    Move(String, String),
}

impl Before {
    fn of(base: &Image, events: &[Event]) -> Before {
        let mut before = Before::default();
        for (name, bytes) in base {
            before.names.insert(name.clone(), before.files.len());
            before.files.push(File { bytes: bytes.clone(), pending: Vec::new() });
        }
        let mut seen = before.names.clone();
        for (index, event) in events.iter().enumerate() {
            match event {
                Event::Acknowledged(position) => before.acknowledged = *position,
                Event::Applied(position) => before.applied = *position,
                Event::Begun(change) => before.begin(index, change, &mut seen),
                Event::Done(begun) => {
                    let Event::Begun(change) = &events[*begun] else { panic!("done follows begun") };
                    before.done(*begun, change, &seen);
                }
            }
        }
        before
    }

    fn begin(&mut self, index: usize, change: &Change, seen: &mut BTreeMap<String, usize>) {
        match change {
            Change::Create(name) => {
                seen.insert(name.clone(), self.files.len());
                self.renamings.push((index, Naming::Set(name.clone(), self.files.len())));
                self.files.push(File::default());
            }
            Change::Fill { name, offset, bytes } => {
                self.files[seen[name]].pending.push((index, *offset, vec![0; *bytes], true));
            }
            Change::Write { name, offset, bytes } => {
                self.files[seen[name]].pending.push((index, *offset, bytes.clone(), false));
            }
            Change::Rename { from, to } => {
                let file = seen.remove(from).expect("a file that is renamed");
                seen.insert(to.clone(), file);
                self.renamings.push((index, Naming::Move(from.clone(), to.clone())));
            }
            Change::Remove(name) => {
                seen.remove(name);
                self.renamings.push((index, Naming::Unset(name.clone())));
            }
            Change::Sync(_) | Change::SyncDir => {}
        }
    }

    fn done(&mut self, begun: usize, change: &Change, seen: &BTreeMap<String, usize>) {
        match change {
            Change::Write { name, .. } => self.files[seen[name]].settle(|write| write.0 == begun),
            Change::Sync(name) => self.files[seen[name]].settle(|write| write.0 < begun),
            Change::SyncDir => {
                let names = &mut self.names;
                self.renamings.retain(|(index, naming)| {
                    if *index < begun {
                        naming.apply(names);
                    }
                    *index >= begun
                });
            }
            Change::Create(_) | Change::Fill { .. } | Change::Rename { .. } | Change::Remove(_) => {}
        }
    }

    /// Returns the images worth building: one if everything is certain.
    fn variants(&self, wanted: usize) -> std::ops::Range<usize> {
        let certain = self.renamings.is_empty() && self.files.iter().all(|file| file.pending.is_empty());
        if certain { 0..1 } else { 0..wanted }
    }

    /// Builds one of the images this crash could leave.
    fn image(&self, variant: usize, chance: &mut Chance) -> Image {
        let mut names = self.names.clone();
        let kept = match variant {
            0 => 0,
            1 => self.renamings.len(),
            _ => chance.below(self.renamings.len() + 1),
        };
        for (_, naming) in &self.renamings[..kept] {
            naming.apply(&mut names);
        }
        let content = |file: usize, chance: &mut Chance| {
            let File { bytes, pending } = &self.files[file];
            let mut bytes = bytes.clone();
            for (_, offset, written, _) in pending {
                persist(&mut bytes, *offset as usize, written, variant, chance);
            }
            bytes
        };
        names.into_iter().map(|(name, file)| (name, content(file, chance))).collect()
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Naming::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            Naming::Unset(name) => {
                names.remove(name);
            }
            Naming::Move(from, to) => {
                let file = names.remove(from).expect("a file that is renamed");
                names.insert(to.clone(), file);
            }
        }
    }
}

impl File {
    fn settle(&mut self, settled: impl Fn(&(usize, u64, Vec<u8>, bool)) -> bool) {
        let (done, pending) = std::mem::take(&mut self.pending).into_iter().partition(settled);
        self.pending = pending;
        let done: Vec<_> = done;
        for (_, offset, written, _) in done {
            overlay(&mut self.bytes, offset as usize, &written);
        }
    }
}

/// Puts what may have come of an unfinished write into the file.
fn persist(bytes: &mut Vec<u8>, offset: usize, written: &[u8], variant: usize, chance: &mut Chance) {
    let sectors = written.len().div_ceil(SECTOR);
    let keep_sectors = |bytes: &mut Vec<u8>, mut keep: Box<dyn FnMut(usize) -> bool + '_>| {
        for sector in (0..sectors).filter(|sector| keep(*sector)) {
            let end = written.len().min((sector + 1) * SECTOR);
            overlay(bytes, offset + sector * SECTOR, &written[sector * SECTOR..end]);
        }
    };
    match variant {
        0 => {}
        1 => overlay(bytes, offset, written),
        2 => overlay(bytes, offset, &written[..chance.below(written.len() + 1)]),
        3 => keep_sectors(bytes, Box::new(|_| chance.below(2) == 0)),
        4 => keep_sectors(bytes, Box::new(|sector| sector != 0)),
        5 => keep_sectors(bytes, Box::new(|sector| sector == 0)),
        6 => keep_sectors(bytes, Box::new(|sector| sector + 1 != sectors)),
        _ => {
            for sector in 0..sectors {
                let end = written.len().min((sector + 1) * SECTOR);
                let part = &written[sector * SECTOR..end];
                match chance.below(3) {
                    0 => overlay(bytes, offset + sector * SECTOR, part),
                    1 => overlay(bytes, offset + sector * SECTOR, &chance.bytes(part.len())),
                    _ => {}
                }
            }
        }
    }
}

fn overlay(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    if bytes.len() < offset + written.len() {
        bytes.resize(offset + written.len(), 0);
    }
    bytes[offset..offset + written.len()].copy_from_slice(written);
}

fn write_image(dir: &Path, image: &Image) {
    for (name, bytes) in image {
        fs::write(dir.join(name), bytes).expect("written");
    }
}

fn read_image(dir: &Path) -> Image {
    let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry"));
    entries
        .filter(|entry| entry.file_name() != "LOCK")
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("read")))
        .collect()
}
