//! The engine: all partitions of this process, opened from one directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use mainspring_core::limit::Limits;
use mainspring_core::recover::{RecoverError, Recovery};
use mainspring_core::row::{PayloadRef, RunRow};
use mainspring_core::{Command, RunId, TenantId};
use mainspring_store::log::{Log, LogError, LogOptions, Position};
use mainspring_store::retention::Retention;
use mainspring_store::{Batch, Reader, Tables, TablesError, Unapplied};
use tokio::sync::oneshot;

use crate::applier;
use crate::decider::{Answer, Decider, Respond};
use crate::hub::Hub;
use crate::partition::{EngineError, Partition, now_ms, spawn, submission};
use crate::status::{Health, Stats};

/// How an engine is opened.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The directory that holds everything.
    pub dir: PathBuf,
    /// Partitions to create a new directory with. An existing one keeps its number.
    pub partitions: u16,
    /// The core's limits.
    pub limits: Limits,
    /// The log's options.
    pub log: LogOptions,
    /// What is kept for how long.
    pub retention: Retention,
}

impl EngineOptions {
    /// Defaults for a directory: one partition, everything durable.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        EngineOptions {
            dir: dir.into(),
            partitions: 1,
            limits: Limits::default(),
            log: LogOptions::default(),
            retention: Retention::default(),
        }
    }
}

/// The engine can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory can't be used.
    #[error("{path} can't be used: {source}")]
    Dir {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file that says how many partitions there are is damaged.
    #[error("{path} should hold the number of partitions, it holds {found:?}: restore it from a backup")]
    Partitions {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The log can't be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The tables can't be opened.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The rows do not make a core.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// No randomness, no threads.
    #[error("the system refused {what}: {cause}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        cause: String,
    },
}

/// All partitions of this process. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    partitions: Vec<Arc<Partition>>,
    hub: Arc<Hub>,
    limits: Limits,
    threads: Mutex<Vec<JoinHandle<()>>>,
    appliers: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("partitions", &self.inner.partitions.len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the directory, creating it if need be, recovers what was live and starts working.
    ///
    /// # Errors
    /// Each [`OpenError`] names the path and what to do.
    pub fn open(options: &EngineOptions) -> Result<Engine, OpenError> {
        let hub = Arc::new(Hub::default());
        let count = partition_count(&options.dir, options.partitions)?;
        let (mut partitions, mut threads, mut appliers) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..count {
            let (partition, more, applier) = open_partition(options, number, &hub)?;
            partitions.push(partition);
            threads.extend(more);
            appliers.push(applier);
        }
        Ok(Engine {
            inner: Arc::new(Inner {
                partitions,
                hub,
                limits: options.limits,
                threads: Mutex::new(threads),
                appliers: Mutex::new(appliers),
            }),
        })
    }

    /// Has a command decided. The answer comes once it is durable, with the log position from which it holds.
    ///
    /// # Errors
    /// [`EngineError::Refused`] by the rules; [`EngineError::Busy`] says when to retry; [`EngineError::Stopped`] when the
    /// log can't be written.
    pub async fn submit(&self, tenant: TenantId, command: Command) -> Answer {
        let (sender, answer) = oneshot::channel();
        self.submit_with(tenant, command, Box::new(move |answered| drop(sender.send(answered))));
        answer.await.unwrap_or(Err(EngineError::ShuttingDown))
    }

    /// Like [`Engine::submit`], for callers that are not async. `respond` runs on the engine's thread: it must be quick.
    pub fn submit_with(&self, tenant: TenantId, command: Command, respond: Respond) {
        let partition = self.partition(tenant);
        let begins =
            matches!(command, Command::StartRun { .. } | Command::SendMessage { .. } | Command::EmitEvent { .. });
        if begins && let Some(busy) = partition.too_far_behind() {
            respond(Err(busy));
            return;
        }
        partition.submit(submission(tenant, command, respond));
    }

    /// Reads a tenant's rows. Calls block on SQLite.
    pub fn reader(&self, tenant: TenantId) -> &Reader {
        &self.partition(tenant).reader
    }

    /// Readers of all partitions.
    pub fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.inner.partitions.iter().map(|partition| &partition.reader)
    }

    /// Where effects of this process go.
    pub fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The last durable position of a tenant's partition.
    pub fn durable_position(&self, tenant: TenantId) -> u64 {
        self.partition(tenant).durable_position()
    }

    /// Whether every partition accepts work; the first that does not.
    pub fn health(&self) -> Health {
        let unwell = self.inner.partitions.iter().map(|partition| partition.health());
        unwell.into_iter().find(|health| *health != Health::Accepting).unwrap_or(Health::Accepting)
    }

    /// Every tenant there is, with its name.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`].
    pub async fn tenants(&self) -> Result<Vec<(TenantId, String)>, EngineError> {
        let readers: Vec<Reader> = self.readers().cloned().collect();
        let read = tokio::task::spawn_blocking(move || {
            readers.iter().map(Reader::tenants).collect::<Result<Vec<_>, TablesError>>()
        });
        match read.await {
            Ok(Ok(tenants)) => Ok(tenants.into_iter().flatten().map(|(id, row)| (id, row.name)).collect()),
            Ok(Err(error)) => Err(EngineError::Unreadable { cause: error.to_string() }),
            Err(_) => Err(EngineError::ShuttingDown),
        }
    }

    /// Counters, per partition, with the number of unapplied bytes.
    pub fn stats(&self) -> impl Iterator<Item = (&Stats, usize)> {
        self.inner.partitions.iter().map(|partition| (&partition.stats, partition.unapplied.bytes()))
    }

    /// A payload, from memory if it is recent.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`] if the store can't be read, or does not hold it.
    pub async fn payload(&self, tenant: TenantId, payload: PayloadRef) -> Result<Bytes, EngineError> {
        if let Some(recent) = self.hub().payload(tenant, payload.id) {
            return Ok(recent);
        }
        let found = self.read(tenant, move |reader| reader.payload(tenant, payload.id)).await?;
        let missing = || EngineError::Unreadable { cause: format!("payload {} is not in the store", payload.id) };
        found.map(Bytes::from).ok_or_else(missing)
    }

    /// Runs a read on a blocking thread.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`].
    pub async fn read<T: Send + 'static>(
        &self,
        tenant: TenantId,
        read: impl FnOnce(&Reader) -> Result<T, TablesError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let reader = self.reader(tenant).clone();
        match tokio::task::spawn_blocking(move || read(&reader)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(EngineError::Unreadable { cause: error.to_string() }),
            Err(_) => Err(EngineError::ShuttingDown),
        }
    }

    /// Waits until the tables show everything up to `position`, or the time is up. Answers whether they do.
    pub async fn wait_applied(&self, tenant: TenantId, position: u64, timeout: Duration) -> bool {
        if self.reader(tenant).applied() >= position {
            return true;
        }
        let reader = self.reader(tenant).clone();
        tokio::task::spawn_blocking(move || reader.unapplied().wait_applied(position, timeout)).await.unwrap_or(false)
    }

    /// Waits until a run has ended, and gives its row.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if there is no such run; [`EngineError::Unreadable`].
    pub async fn wait_run(&self, tenant: TenantId, run: RunId) -> Result<RunRow, EngineError> {
        /// The notice is a hint; this is how long one that got lost delays the answer.
        const LOOK_AGAIN: Duration = Duration::from_secs(5);
        loop {
            let ended = self.hub().run_ended(tenant, run);
            match self.read(tenant, move |reader| reader.run(tenant, run)).await? {
                Some(row) if row.state.ended() => return Ok(row),
                Some(_) => {}
                None => return Err(EngineError::Refused(mainspring_core::Refusal::NoRun { run })),
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, ended).await;
        }
    }

    /// Stops accepting, makes what was accepted durable, brings the tables up to date, and ends. Blocks.
    pub fn shut_down(&self) {
        for partition in &self.inner.partitions {
            partition.close();
        }
        join_all(&self.inner.threads);
        for partition in &self.inner.partitions {
            partition.unapplied.close();
        }
        join_all(&self.inner.appliers);
    }

    fn partition(&self, tenant: TenantId) -> &Arc<Partition> {
        &self.inner.partitions[partition_of(tenant, self.inner.partitions.len())]
    }
}

/// Which of `count` partitions a tenant lives in. The one place that says so.
fn partition_of(tenant: TenantId, count: usize) -> usize {
    (mainspring_core::id::fingerprint([tenant.to_bytes().as_slice()]) % count as u64) as usize
}

fn join_all(threads: &Mutex<Vec<JoinHandle<()>>>) {
    for thread in std::mem::take(&mut *threads.lock().unwrap_or_else(PoisonError::into_inner)) {
        if thread.join().is_err() {
            tracing::error!("a thread of the engine panicked");
        }
    }
}

/// The number of partitions is fixed when the directory is created, because it decides where tenants live.
fn partition_count(dir: &Path, wanted: u16) -> Result<u16, OpenError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Dir { path, source }
    };
    fs::create_dir_all(dir).map_err(fail(dir))?;
    let path = dir.join("partitions");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u16>() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(OpenError::Partitions { path, found: text }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let count = wanted.max(1);
            let draft = dir.join("partitions.tmp");
            fs::write(&draft, format!("{count}\n")).map_err(fail(&draft))?;
            fs::File::open(&draft).and_then(|file| file.sync_all()).map_err(fail(&draft))?;
            fs::rename(&draft, &path).map_err(fail(&path))?;
            fs::File::open(dir).and_then(|file| file.sync_all()).map_err(fail(dir))?;
            Ok(count)
        }
        Err(source) => Err(OpenError::Dir { path, source }),
    }
}

type Opened = (Arc<Partition>, Vec<JoinHandle<()>>, JoinHandle<()>);

fn open_partition(options: &EngineOptions, number: u16, hub: &Arc<Hub>) -> Result<Opened, OpenError> {
    let dir = options.dir.join(format!("p{number}"));
    fs::create_dir_all(&dir).map_err(|source| OpenError::Dir { path: dir.clone(), source })?;
    let tables_path = dir.join("tables.sqlite");
    let mut recovery = Recovery::new();
    let tables = Tables::open(&tables_path)?;
    let applied = tables.applied()?;
    tables.live_rows(|op| recovery.apply(op))?;
    let unapplied = Arc::new(Unapplied::new(applied));
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(|error| OpenError::System { what: "randomness", cause: error.to_string() })?;
    let seed = u128::from_le_bytes(seed);
    let log_options = LogOptions { salt_seed: (seed >> 64) as u64, ..options.log.clone() };
    // If another process has the directory, the log's lock says so here, before anything was decided on what was read.
    let (log, mut tail) = Log::open(&dir.join("log"), number, log_options, Position(applied + 1))?;
    if let Some(torn) = &tail.torn_tail {
        tracing::info!(?torn, "the log ended in a write cut short by a crash; what was never acknowledged was cut");
    }
    let mut broken = None;
    tail.replay(|Position(position), bytes| {
        let batch = Batch::new(position, bytes.to_vec());
        for op in batch.ops() {
            match op {
                Ok(op) => recovery.apply(op),
                Err(source) => {
                    broken.get_or_insert(TablesError::Batch { position, source });
                }
            }
        }
        unapplied.push(Arc::new(batch));
        Ok::<(), LogError>(())
    })?;
    if let Some(broken) = broken {
        return Err(broken.into());
    }
    let core = recovery.finish(options.limits)?;
    let system = |what| move |error: std::io::Error| OpenError::System { what, cause: error.to_string() };
    let mut decider = Decider::new(core, seed);
    decider.resume(now_ms());

    let position = log.stats().next.0 - 1;
    let reader = Reader::new(tables_path, unapplied.clone());
    let partition = Partition::new(hub.clone(), unapplied, reader, position);
    let threads = partition.start(decider, log).map_err(system("a thread"))?;
    let (shared, retention) = (partition.clone(), options.retention);
    let applier =
        spawn("mainspring-tables", move || applier::run(&shared, tables, retention)).map_err(system("a thread"))?;
    Ok((partition, threads, applier))
}
