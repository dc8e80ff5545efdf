//! Listens to what a log asks of the disk, to build what a crash could have left, and fails what it is told to fail.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use super::disk::Op;

/// A change asked of the disk, kept for later. Files are known by their name in the log's directory.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Create(String),
    Fill { name: String, offset: u64, bytes: usize },
    Sync(String),
    Write { name: String, offset: u64, bytes: Vec<u8> },
    Rename { from: String, to: String },
    Remove(String),
    SyncDir,
}

/// What happened, in order. A crash falls between two of these.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Begun(Change),
    /// The change begun by the event with this index has succeeded.
    Done(usize),
    /// Every batch up to this position was acknowledged.
    Acknowledged(u64),
    /// The tables contain every batch up to this position.
    Applied(u64),
}

/// When and how an operation is to fail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// Changes that succeed before the failing one.
    pub(super) after: usize,
    /// Whether the failing change takes place all the same.
    pub(super) takes_place: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Tap(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    events: Vec<Event>,
    changes: usize,
    fault: Option<Fault>,
}

impl Tap {
    pub(super) fn failing(fault: Fault) -> Tap {
        let tap = Tap::default();
        tap.heard().fault = Some(fault);
        tap
    }

    pub(super) fn note(&self, event: Event) {
        self.heard().events.push(event);
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.heard().events.clone()
    }

    /// Returns whether the fault has happened.
    pub(super) fn failed(&self) -> bool {
        let heard = self.heard();
        heard.fault.is_some_and(|fault| heard.changes > fault.after)
    }

    pub(super) fn observe<T>(&self, op: Op<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let Some(change) = change(op) else { return act() };
        let mut heard = self.heard();
        let index = heard.events.len();
        heard.events.push(Event::Begun(change));
        let fault = heard.fault.filter(|fault| fault.after == heard.changes);
        heard.changes += 1;
        drop(heard);
        if let Some(fault) = fault {
            if fault.takes_place {
                act()?;
            }
            return Err(io::Error::other("injected failure"));
        }
        let result = act()?;
        self.heard().events.push(Event::Done(index));
        Ok(result)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().expect("no test panics while it holds the tap")
    }
}

fn change(op: Op<'_>) -> Option<Change> {
    let name = |path: &Path| path.file_name().expect("a file has a name").to_string_lossy().into_owned();
    Some(match op {
        Op::MakeDir(_) | Op::List(_) | Op::Lock(_) | Op::Open(_) | Op::Read(_) => return None,
        Op::Create(path) => Change::Create(name(path)),
        Op::Fill { path, offset, bytes } => Change::Fill { name: name(path), offset, bytes },
        Op::Sync(path) => Change::Sync(name(path)),
        Op::Write { path, offset, bytes } => Change::Write { name: name(path), offset, bytes: bytes.to_vec() },
        Op::Rename { from, to } => Change::Rename { from: name(from), to: name(to) },
        Op::Remove(path) => Change::Remove(name(path)),
        Op::SyncDir(_) => Change::SyncDir,
    })
}
