//! A disk in memory under the real log: it tears the write a crash interrupts, forgets what was not made durable when the
//! power goes, fills up, and fails.
//!
//! What a crash may leave of the write it interrupts: any of its 512-byte sectors, in any combination. What the power
//! takes: bytes written and not synced, sector by sector, and names made, changed or removed since the directory was
//! synced, one by one. `kill -9` takes neither.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainspring_store::log::files::{BlockFile, Files, Held, Mode};

use crate::chance::Chance;

const SECTOR: usize = 512;

/// What is left of a machine's disk after its process ended, and what the next one finds.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    chance: Chance,
    /// Names as processes see them.
    names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    /// Names as they are on the platter.
    durable_names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeMap<PathBuf, u64>,
    dead: BTreeSet<u64>,
    full: bool,
    failing: bool,
    /// Changes until the process that makes the last of them dies in it.
    dies_in: Option<u64>,
    /// The process that died in the middle of a change.
    died: Option<u64>,
}

#[derive(Debug, Default)]
struct Content {
    /// As processes read it.
    seen: Vec<u8>,
    /// As it is on the platter.
    durable: Vec<u8>,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The kernel goes on: what it was given stays.
    Killed,
    /// The machine loses its power.
    PowerLost,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(chance: Chance) -> Self {
        SimDisk(Arc::new(Mutex::new(State {
            chance,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            dirs: BTreeSet::new(),
            locks: BTreeMap::new(),
            dead: BTreeSet::new(),
            full: false,
            failing: false,
            dies_in: None,
            died: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as one process sees it.
    pub fn mounted(&self, process: u64) -> Arc<dyn Files> {
        Arc::new(Mounted { disk: self.clone(), process })
    }

    /// Nothing can be added, or can again.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Writes fail, or no longer do.
    pub fn set_failing(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// Lets the process that makes the `changes`th change from now die in the middle of it.
    pub fn die_in(&self, changes: u64) {
        self.lock().dies_in = Some(changes);
    }

    /// Whether this process died in the middle of a change; says so once.
    pub fn take_died(&self, process: u64) -> bool {
        self.lock().died.take_if(|died| *died == process).is_some()
    }

    /// Takes a lock away from a process that is taken to be gone, but may not be.
    pub fn break_locks(&self) {
        self.lock().locks.clear();
    }

    /// A process ends. Whatever it still tries fails.
    pub fn crash(&self, process: u64, how: Crash) {
        let mut state = self.lock();
        state.dead.insert(process);
        state.locks.retain(|_, holder| *holder != process);
        if how == Crash::PowerLost {
            state.lose_power();
        }
    }
}

impl State {
    fn lose_power(&mut self) {
        let paths: BTreeSet<PathBuf> = self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        for path in paths {
            let (now, then) = (self.names.get(&path).cloned(), self.durable_names.get(&path).cloned());
            let same = match (&now, &then) {
                (Some(now), Some(then)) => Arc::ptr_eq(now, then),
                (None, None) => true,
                _ => false,
            };
            // Each change of a name that was not synced was made or not.
            let left = if same || self.chance.permille(500) { now } else { then };
            match left {
                Some(content) => self.names.insert(path, content),
                None => self.names.remove(&path),
            };
        }
        self.durable_names = self.names.clone();
        for content in self.names.values() {
            let mut content = content.lock().unwrap_or_else(PoisonError::into_inner);
            let Content { seen, durable } = &mut *content;
            if seen == durable {
                continue;
            }
            if seen.len() > durable.len() {
                // The size is durable with a sync only, as the bytes are.
                let more = (seen.len() - durable.len()) as u64;
                seen.truncate(durable.len() + self.chance.below(more + 1) as usize);
            }
            durable.resize(seen.len(), 0);
            for (new, old) in seen.chunks(SECTOR).zip(durable.chunks_mut(SECTOR)) {
                if new != old && self.chance.permille(500) {
                    old.copy_from_slice(new);
                }
            }
            seen.clone_from(durable);
        }
    }

    /// Counts a change. Answers whether the process dies in it.
    fn change(&mut self, process: u64) -> io::Result<bool> {
        self.usable(process)?;
        if let Some(left) = &mut self.dies_in {
            if *left == 0 {
                self.dies_in = None;
                self.died = Some(process);
                self.dead.insert(process);
                return Ok(true);
            }
            *left -= 1;
        }
        if self.failing {
            return Err(failing());
        }
        Ok(false)
    }

    fn usable(&self, process: u64) -> io::Result<()> {
        if self.dead.contains(&process) { Err(gone()) } else { Ok(()) }
    }
}

fn gone() -> io::Error {
    io::Error::other("simulated: this process has ended")
}

fn failing() -> io::Error {
    io::Error::other("simulated: the device reports an error")
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

#[derive(Debug, Clone)]
struct Mounted {
    disk: SimDisk,
    process: u64,
}

#[derive(Debug)]
struct Lock {
    disk: SimDisk,
    path: PathBuf,
    process: u64,
}

impl Held for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.locks.get(&self.path) == Some(&self.process) {
            state.locks.remove(&self.path);
        }
    }
}

impl Files for Mounted {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.usable(self.process)?;
        // Directories are made once, at the first start, and are taken to stay.
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.disk.lock();
        state.dirs.contains(path) || state.names.contains_key(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.disk.lock();
        state.usable(self.process)?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Held>> {
        let mut state = self.disk.lock();
        state.usable(self.process)?;
        // For one opener, not for one process: the machine's own locks belong to who opened the file.
        if state.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks.insert(path.to_owned(), self.process);
        state.names.entry(path.to_owned()).or_default();
        Ok(Box::new(Lock { disk: self.disk.clone(), path: path.to_owned(), process: self.process }))
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn BlockFile>> {
        let state = self.disk.lock();
        state.usable(self.process)?;
        let content = state.names.get(path).cloned().ok_or_else(missing)?;
        Ok(Box::new(OpenFile { mounted: self.clone(), content, durable: mode.durable }))
    }

    fn create(&self, path: &Path, _direct: bool) -> io::Result<Box<dyn BlockFile>> {
        let mut state = self.disk.lock();
        if state.change(self.process)? {
            return Err(gone());
        }
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        state.names.insert(path.to_owned(), content.clone());
        Ok(Box::new(OpenFile { mounted: self.clone(), content, durable: false }))
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        let state = self.disk.lock();
        state.usable(self.process)?;
        let content = state.names.get(path).ok_or_else(missing)?;
        Ok(content.lock().unwrap_or_else(PoisonError::into_inner).seen.len() as u64)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.disk.lock();
        let dies = state.change(self.process)?;
        if !dies || state.chance.permille(500) {
            let content = state.names.remove(from).ok_or_else(missing)?;
            state.names.insert(to.to_owned(), content);
        }
        if dies { Err(gone()) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.disk.lock();
        let dies = state.change(self.process)?;
        if !dies || state.chance.permille(500) {
            state.names.remove(path).ok_or_else(missing)?;
        }
        if dies { Err(gone()) } else { Ok(()) }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.disk.lock();
        if state.change(self.process)? {
            return Err(gone());
        }
        let State { names, durable_names, .. } = &mut *state;
        durable_names.retain(|path, _| path.parent() != Some(dir));
        let inside = names.iter().filter(|(path, _)| path.parent() == Some(dir));
        durable_names.extend(inside.map(|(path, content)| (path.clone(), content.clone())));
        Ok(())
    }
}

#[derive(Debug)]
struct OpenFile {
    mounted: Mounted,
    content: Arc<Mutex<Content>>,
    durable: bool,
}

impl OpenFile {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockFile for OpenFile {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.mounted.disk.lock().usable(self.mounted.process)?;
        let content = self.content();
        let from = content.seen.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.mounted.disk.lock();
        state.usable(self.mounted.process)?;
        // A device that fails may have written some of it.
        let fails = state.failing;
        let dies = !fails && state.change(self.mounted.process)?;
        let mut content = self.content();
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if to > content.seen.len() {
            if state.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.seen.resize(to, 0);
        }
        if dies || fails {
            for (nth, sector) in bytes.chunks(SECTOR).enumerate() {
                if state.chance.permille(500) {
                    let at = from + nth * SECTOR;
                    content.seen[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        } else {
            content.seen[from..to].copy_from_slice(bytes);
        }
        if self.durable {
            let Content { seen, durable } = &mut *content;
            durable.resize(seen.len(), 0);
            durable[from..to].copy_from_slice(&seen[from..to]);
        }
        match (dies, fails) {
            (true, _) => Err(gone()),
            (_, true) => Err(failing()),
            _ => Ok(()),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        if self.mounted.disk.lock().change(self.mounted.process)? {
            return Err(gone());
        }
        let mut content = self.content();
        let Content { seen, durable } = &mut *content;
        durable.clone_from(seen);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }
}
