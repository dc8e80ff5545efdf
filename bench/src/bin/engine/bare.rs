//! The log by itself: as many callers hand over as many bytes each, and a thread appends all that wait and answers. What
//! an engine does beside that is deciding, keeping state, and writing tables.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use mainspring_store::log::{Log, LogError, LogOptions, Position};
use tokio::sync::oneshot;

use crate::load::WARM_UP;

/// Bytes appended at once.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Segments that are kept.
const SEGMENTS_MAX: usize = 4;

/// What a caller asks, and where the answer goes.
type Asked = (Vec<u8>, oneshot::Sender<()>);

/// Durable answers per second, of callers that ask again as soon as they are answered, `bytes` each. `dir` is made, and
/// removed at the end.
///
/// # Errors
/// When the log can't be opened or written.
pub(crate) fn answers_per_second(
    dir: &Path,
    callers: usize,
    threads: usize,
    bytes: usize,
    counted: Duration,
) -> anyhow::Result<f64> {
    let (log, _) = Log::open(dir, 0, LogOptions::default(), Position::FIRST)?;
    let (ask, asked) = mpsc::channel::<Asked>();
    let appending = std::thread::spawn(move || append_all(log, &asked));
    let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_time().build()?;
    let per_second = runtime.block_on(async {
        for _ in 0..callers {
            let (ask, answered, stop) = (ask.clone(), answered.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (answer, heard) = oneshot::channel();
                    if ask.send((vec![1; bytes], answer)).is_err() || heard.await.is_err() {
                        return;
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        tokio::time::sleep(WARM_UP).await;
        let (before, begun) = (answered.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(counted).await;
        let count = answered.load(Ordering::Relaxed) - before;
        stop.store(true, Ordering::Relaxed);
        count as f64 / begun.elapsed().as_secs_f64()
    });
    // The callers go with the runtime, and the thread ends once nobody can ask.
    drop((ask, runtime));
    appending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("the log took no more")?;
    std::fs::remove_dir_all(dir)?;
    Ok(per_second)
}

/// Appends what waits, all of it at once, until nobody asks any more.
fn append_all(mut log: Log, asked: &mpsc::Receiver<Asked>) -> Result<(), LogError> {
    let mut batch: Vec<Asked> = Vec::new();
    while let Ok(first) = asked.recv() {
        let mut bytes = first.0.len();
        batch.push(first);
        while bytes < BATCH_BYTES_MAX
            && let Ok(next) = asked.try_recv()
        {
            bytes += next.0.len();
            batch.push(next);
        }
        let parts: Vec<&[u8]> = batch.iter().map(|(record, _)| record.as_slice()).collect();
        let position = log.append(&parts)?;
        for (_, answer) in batch.drain(..) {
            // Whoever stopped does not listen.
            let _ = answer.send(());
        }
        if log.stats().segments > SEGMENTS_MAX {
            log.remove_up_to(position)?;
        }
    }
    Ok(())
}
