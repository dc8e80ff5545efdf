//! A partition's threads: one decides, one makes durable, one loads facts, one applies to the tables.
//!
//! While one batch is being made durable the next is already being decided. When little is going on, the deciding thread
//! writes the log itself, which saves a hand-over between threads.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mainspring_core::Need;

use crate::applier::Applier;
use crate::commit::{Appended, Committer, answer_all};
use crate::decider::{DecidedBatch, Decider, Submission};
use crate::loader;
use crate::partition::{EngineError, Partition};

/// A batch is closed at this size even if the log is still busy with the last one.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Batches of up to this many commands are written by the deciding thread itself; larger ones go to the log's thread, so
/// that deciding and writing overlap. Measured with `cargo xtask bench engine`.
const INLINE_COMMANDS_MAX: usize = 16;
/// How long to wait before it is asked again what became of a batch; each time twice as long, up to the second.
const SETTLE_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

/// What makes a batch durable, and where what wants a fact goes after that. Owned by whoever writes at the moment.
struct Writer {
    committer: Committer,
    wanted: Sender<(Submission, Vec<Need>)>,
}

/// The threads of one partition.
pub(crate) struct Threads {
    /// They end once the partition is closed.
    pub(crate) deciding: Vec<JoinHandle<()>>,
    /// It ends once what is unapplied is closed, which must come after the others have ended.
    pub(crate) applying: JoinHandle<()>,
}

/// Starts the threads of a partition.
pub(crate) fn start(
    partition: &Arc<Partition>,
    decider: Decider,
    committer: Committer,
    applier: Applier,
) -> std::io::Result<Threads> {
    let (wanted, asked) = channel();
    let shared = partition.clone();
    let mut deciding = vec![spawn("mainspring-load", move || {
        let _ends = Ends(&shared);
        loader::run(&shared, &asked);
    })?];
    let writer = Arc::new(Mutex::new(Writer { committer, wanted }));
    let (shared, shared_writer) = (partition.clone(), writer.clone());
    deciding.push(spawn("mainspring-log", move || {
        let _ends = Ends(&shared);
        shared.write_batches(&shared_writer);
    })?);
    let shared = partition.clone();
    deciding.push(spawn("mainspring-core", move || {
        let _ends = Ends(&shared);
        shared.decide_batches(decider, &writer);
    })?);
    let shared = partition.clone();
    let applying = spawn("mainspring-tables", move || {
        let _ends = Ends(&shared);
        applier.run(&shared);
    })?;
    Ok(Threads { deciding, applying })
}

/// A thread that panics stops its partition rather than leave it to look well while nobody is at work.
struct Ends<'a>(&'a Partition);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let cause = "a thread of the engine panicked; restart, and report it as a bug".to_owned();
            self.0.stop(cause.clone());
            let mut shared = self.0.lock();
            shared.decider_ended = true;
            shared.writing = false;
            let handed = shared.handed.take();
            drop(shared);
            if let Some(batch) = handed {
                answer_all(batch, &EngineError::Stopped { cause });
            }
            self.0.work.notify_all();
            self.0.handover.notify_all();
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

impl Partition {
    fn decide_batches(&self, mut decider: Decider, writer: &Mutex<Writer>) {
        let mut inbox: Vec<Submission> = Vec::new();
        loop {
            {
                let mut shared = self.lock();
                loop {
                    let now = decider.now(&*self.world);
                    let log_free = shared.handed.is_none() && !shared.writing;
                    let ready = decider.has_work() && log_free;
                    if !shared.inbox.is_empty() || ready || shared.stopped.is_some() || decider.tick_due(now) {
                        break;
                    }
                    if shared.closing && !decider.has_work() && log_free {
                        shared.decider_ended = true;
                        self.handover.notify_all();
                        return;
                    }
                    let wait = decider.wait(now);
                    (shared, _) = self.work.wait_timeout(shared, wait).unwrap_or_else(PoisonError::into_inner);
                }
                std::mem::swap(&mut shared.inbox, &mut inbox);
                shared.inbox_bytes = 0;
                if let Some(stopped) = shared.stopped.clone() {
                    drop(shared);
                    self.refuse_from_now_on(decider, inbox, &stopped);
                    return;
                }
            }

            let now = decider.now(&*self.world);
            for submission in inbox.drain(..) {
                decider.decide(now, submission);
                if decider.batch_bytes() > BATCH_BYTES_MAX {
                    let batch = decider.take_batch();
                    self.hand_over(batch);
                }
            }
            if decider.tick_due(now) {
                decider.tick(now);
                if decider.batch_bytes() > BATCH_BYTES_MAX {
                    let batch = decider.take_batch();
                    self.hand_over(batch);
                }
            }
            if decider.has_work() {
                self.pass_on(&mut decider, writer);
            }
        }
    }

    /// The log can't be written: everything not durable is answered with that, until the engine is closed.
    fn refuse_from_now_on(&self, mut decider: Decider, mut inbox: Vec<Submission>, stopped: &EngineError) {
        answer_all(decider.take_batch(), stopped);
        loop {
            inbox.drain(..).for_each(|submission| (submission.respond)(Err(stopped.clone())));
            let mut shared = self.lock();
            while shared.inbox.is_empty() && !shared.closing {
                shared = self.work.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut shared.inbox, &mut inbox);
            shared.inbox_bytes = 0;
            if shared.closing && inbox.is_empty() {
                shared.decider_ended = true;
                self.handover.notify_all();
                return;
            }
        }
    }

    /// Gives the batch to the log: by this thread if it is small and the log is free, by the log's thread if it is free,
    /// and otherwise not yet, so that more joins it.
    fn pass_on(&self, decider: &mut Decider, writer: &Mutex<Writer>) {
        let mut shared = self.lock();
        if shared.writing || shared.handed.is_some() || shared.stopped.is_some() {
            return;
        }
        if decider.batch_commands() <= INLINE_COMMANDS_MAX && shared.inbox.len() <= INLINE_COMMANDS_MAX {
            shared.writing = true;
            drop(shared);
            let batch = decider.take_batch();
            self.write_batch(batch, writer);
            self.lock().writing = false;
            return;
        }
        shared.handed = Some(decider.take_batch());
        drop(shared);
        self.handover.notify_one();
    }

    /// Hands a full batch over, waiting for the log's thread.
    fn hand_over(&self, batch: DecidedBatch) {
        let mut shared = self.lock();
        while (shared.writing || shared.handed.is_some()) && shared.stopped.is_none() {
            shared = self.work.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(stopped) = shared.stopped.clone() {
            drop(shared);
            answer_all(batch, &stopped);
            return;
        }
        shared.handed = Some(batch);
        drop(shared);
        self.handover.notify_one();
    }

    fn write_batches(&self, writer: &Mutex<Writer>) {
        loop {
            let batch = {
                let mut shared = self.lock();
                loop {
                    if let Some(batch) = shared.handed.take() {
                        shared.writing = true;
                        break batch;
                    }
                    if shared.decider_ended {
                        return;
                    }
                    shared = self.handover.wait(shared).unwrap_or_else(PoisonError::into_inner);
                }
            };
            self.write_batch(batch, writer);
            self.lock().writing = false;
            self.work.notify_all();
        }
    }

    /// Makes a batch durable, then, and only then, answers and releases its effects.
    fn write_batch(&self, batch: DecidedBatch, writer: &Mutex<Writer>) {
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut appended = writer.committer.append(self, batch);
        let mut wait = SETTLE_AFTER.0;
        let durable = loop {
            match appended {
                Appended::Durable(durable) => break durable,
                Appended::Stopped => return,
                Appended::Unknown(batch) if self.lock().closing => {
                    let cause =
                        "it was never learnt whether the last batch was appended; restart, and the log will tell";
                    // What was decided since builds on it, so nothing more may be appended.
                    self.stop(cause.to_owned());
                    answer_all(batch, &EngineError::Stopped { cause: cause.to_owned() });
                    return;
                }
                Appended::Unknown(batch) => {
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(SETTLE_AFTER.1);
                    appended = writer.committer.settle(self, batch);
                }
            }
        };
        for (submission, need) in writer.committer.release(self, durable) {
            if let Err(unsent) = writer.wanted.send((submission, need)) {
                (unsent.0.0.respond)(Err(EngineError::ShuttingDown));
            }
        }
    }
}
