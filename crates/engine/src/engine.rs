//! The engine: all partitions of this process, opened from one store.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use mainspring_core::journal::Pending;
use mainspring_core::limit::Limits;
use mainspring_core::recover::{RecoverError, Recovery};
use mainspring_core::row::{self, DocumentRow, EventRow, PayloadRef, Row, RunRow, TaskRow};
use mainspring_core::{Command, DocumentKey, RunId, Table, TaskId, TenantId};
use mainspring_store::log::{LogError, LogOptions, Position};
use mainspring_store::retention::Retention;
use mainspring_store::{Batch, Embedded, Reader, Store, StoreError, TablesError, Unapplied};
use tokio::sync::{Notify, oneshot};

use crate::ahead;
use crate::applier::Applier;
use crate::commit::Committer;
use crate::decider::{Answer, Decider, Respond};
use crate::driven::Driven;
use crate::hub::Hub;
use crate::partition::{EngineError, Partition, submission};
use crate::status::{Health, Stats};
use crate::threads;
use crate::world::{Machine, World};

/// How an engine is opened.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// What holds everything.
    pub store: Arc<dyn Store>,
    /// Where time and chance come from.
    pub world: Arc<dyn World>,
    /// Partitions to create a new store with. An existing one keeps its number.
    pub partitions: u16,
    /// The core's limits.
    pub limits: Limits,
    /// What is kept for how long.
    pub retention: Retention,
}

impl EngineOptions {
    /// Defaults for a directory: one partition, everything durable.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        EngineOptions::on(Arc::new(Embedded::new(dir, LogOptions::default())))
    }

    /// Defaults for a store: one partition, this machine's clock.
    pub fn on(store: Arc<dyn Store>) -> Self {
        EngineOptions {
            store,
            world: Arc::new(Machine),
            partitions: 1,
            limits: Limits::default(),
            retention: Retention::default(),
        }
    }
}

/// The engine can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// Those of this process: all of the store's, or one.
    partitions: Vec<Arc<Partition>>,
    /// The number of the first of them.
    first: u16,
    /// How many the store has.
    count: u16,
    world: Arc<dyn World>,
    /// Whether reads may wait on a thread of their own. Moved by hand, everything happens on one.
    threaded: bool,
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
    /// Opens the store, creating it if need be, recovers what was live and starts working.
    ///
    /// # Errors
    /// Each [`OpenError`] names the path and what to do.
    pub fn open(options: &EngineOptions) -> Result<Engine, OpenError> {
        let count = options.store.partitions(options.partitions)?;
        Engine::open_some(options, 0..count, count)
    }

    /// Opens one of the `count` partitions of a store alone: the others are other engines', in this process or elsewhere.
    /// Whose tenants live in it, [`partition_of`] says; it may not be asked about others.
    ///
    /// # Errors
    /// As [`Engine::open`].
    ///
    /// # Panics
    /// If there are not so many.
    pub fn open_one(options: &EngineOptions, number: u16, count: u16) -> Result<Engine, OpenError> {
        assert!(number < count, "partition {number} of {count}");
        Engine::open_some(options, number..number + 1, count)
    }

    fn open_some(options: &EngineOptions, numbers: Range<u16>, count: u16) -> Result<Engine, OpenError> {
        let hub = Arc::new(Hub::default());
        let (mut partitions, mut threads, mut appliers) = (Vec::new(), Vec::new(), Vec::new());
        for number in numbers.clone() {
            let Opened { partition, decider, committer, applier } = open_partition(options, number, &hub)?;
            let started = threads::start(&partition, decider, committer, applier)
                .map_err(|error| OpenError::System { what: "a thread", cause: error.to_string() })?;
            partitions.push(partition);
            threads.extend(started.deciding);
            appliers.push(started.applying);
        }
        let placed = (numbers.start, count);
        Ok(Engine::of(options, partitions, placed, hub, true, threads, appliers))
    }

    /// Like [`Engine::open`], without threads: nothing is decided, appended or applied but by the [`Driven`] partitions
    /// that come with it. Reads happen where they are asked for.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_driven(options: &EngineOptions) -> Result<(Engine, Vec<Driven>), OpenError> {
        let hub = Arc::new(Hub::default());
        let (mut partitions, mut driven) = (Vec::new(), Vec::new());
        let count = options.store.partitions(options.partitions)?;
        for number in 0..count {
            let Opened { partition, decider, committer, applier } = open_partition(options, number, &hub)?;
            driven.push(Driven::new(partition.clone(), decider, committer, applier));
            partitions.push(partition);
        }
        Ok((Engine::of(options, partitions, (0, count), hub, false, Vec::new(), Vec::new()), driven))
    }

    fn of(
        options: &EngineOptions,
        partitions: Vec<Arc<Partition>>,
        (first, count): (u16, u16),
        hub: Arc<Hub>,
        threaded: bool,
        threads: Vec<JoinHandle<()>>,
        appliers: Vec<JoinHandle<()>>,
    ) -> Engine {
        Engine {
            inner: Arc::new(Inner {
                partitions,
                first,
                count,
                world: options.world.clone(),
                threaded,
                hub,
                limits: options.limits,
                threads: Mutex::new(threads),
                appliers: Mutex::new(appliers),
            }),
        }
    }

    /// Where time and chance come from.
    pub fn world(&self) -> &dyn World {
        &*self.inner.world
    }

    /// Completes when something was submitted to the partition with this number since it was last asked.
    pub fn submitted(&self, partition: usize) -> &Notify {
        &self.inner.partitions[partition].submitted
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
        if let Some(busy) = partition.too_far_behind(&command) {
            respond(Err(busy));
            return;
        }
        partition.submit(submission(tenant, command, respond));
    }

    /// Reads a tenant's rows. Calls block.
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

    /// The same, for what outlives this handle.
    pub(crate) fn shared_hub(&self) -> Arc<Hub> {
        self.inner.hub.clone()
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
        let read = move || readers.iter().map(Reader::tenants).collect::<Result<Vec<_>, TablesError>>();
        let tenants = self.blocking(read).await?;
        Ok(tenants.into_iter().flatten().map(|(id, row)| (id, row.name)).collect())
    }

    /// Counters, per partition, with the number of unapplied bytes.
    pub fn stats(&self) -> impl Iterator<Item = (&Stats, usize)> {
        self.inner.partitions.iter().map(|partition| (&partition.stats, partition.unapplied.bytes()))
    }

    /// A payload, from memory if it is recent.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`] if the store can't be read, [`EngineError::Missing`] if it does not hold it.
    pub async fn payload(&self, tenant: TenantId, payload: PayloadRef) -> Result<Bytes, EngineError> {
        if let Some(recent) = self.hub().payload(tenant, payload.id) {
            return Ok(recent);
        }
        let found = self.read(tenant, move |reader| reader.payload(tenant, payload.id)).await?;
        let missing = || EngineError::Missing { what: format!("payload {}", payload.id) };
        found.map(Bytes::from).ok_or_else(missing)
    }

    /// A run.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`].
    pub async fn run(&self, tenant: TenantId, id: RunId) -> Result<Option<RunRow>, EngineError> {
        self.row(tenant, Table::Run, row::key::run(tenant, id)).await
    }

    /// A task, with all that it waits for.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`].
    pub async fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<TaskRow>, EngineError> {
        let task: Option<TaskRow> = self.row(tenant, Table::Task, row::key::task(tenant, id)).await?;
        match task {
            // Only of one that asked for more than that can some entries be recorded apart from it.
            Some(task) if !task.state.ended() && task.journal_len as usize > Pending::WITH_TASK_MAX => {
                self.read(tenant, move |reader| reader.with_pending(tenant, id, task)).await.map(Some)
            }
            other => Ok(other),
        }
    }

    /// A document, also one that has expired.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`].
    pub async fn document(&self, tenant: TenantId, key: &DocumentKey) -> Result<Option<DocumentRow>, EngineError> {
        self.row(tenant, Table::Document, row::key::document(tenant, key)).await
    }

    /// An event of a scope by its number, if it is kept.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`].
    pub async fn event(
        &self,
        tenant: TenantId,
        scope: Option<&str>,
        seq: u64,
    ) -> Result<Option<EventRow>, EngineError> {
        self.row(tenant, Table::Event, row::key::event(tenant, scope, seq)).await
    }

    /// A row by its key. One that was written a moment ago, as most that are asked for, comes from memory, which spares
    /// two changes of threads.
    async fn row<T: Row + Send + 'static>(
        &self,
        tenant: TenantId,
        table: Table,
        key: Vec<u8>,
    ) -> Result<Option<T>, EngineError> {
        let reader = self.reader(tenant);
        let recent = reader.recent_row(table, &key);
        match recent.map_err(|error| EngineError::Unreadable { cause: error.to_string() })? {
            Some(recent) => Ok(recent),
            None => self.read(tenant, move |reader| reader.row(table, &key)).await,
        }
    }

    /// Runs a read where it may block.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`].
    pub async fn read<T: Send + 'static>(
        &self,
        tenant: TenantId,
        read: impl FnOnce(&Reader) -> Result<T, TablesError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let reader = self.reader(tenant).clone();
        self.blocking(move || read(&reader)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, TablesError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let read = if self.inner.threaded {
            tokio::task::spawn_blocking(read).await.map_err(|_| EngineError::ShuttingDown)?
        } else {
            read()
        };
        read.map_err(|error| EngineError::Unreadable { cause: error.to_string() })
    }

    /// Waits until the tables show everything up to `position`, or the time is up. Answers whether they do.
    pub async fn wait_applied(&self, tenant: TenantId, position: u64, timeout: Duration) -> bool {
        if self.reader(tenant).applied() >= position {
            return true;
        }
        let reader = self.reader(tenant).clone();
        tokio::task::spawn_blocking(move || reader.unapplied().wait_applied(position, timeout)).await.unwrap_or(false)
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

    /// The number of the partition a tenant lives in.
    pub fn partition_number(&self, tenant: TenantId) -> u16 {
        partition_of(tenant, self.inner.count)
    }

    fn partition(&self, tenant: TenantId) -> &Arc<Partition> {
        let number = self.partition_number(tenant);
        let here = number.checked_sub(self.inner.first).and_then(|nth| self.inner.partitions.get(usize::from(nth)));
        here.unwrap_or_else(|| panic!("partition {number} is not of this engine; whoever asks must know where it is"))
    }
}

/// Which of `count` partitions a tenant lives in. The one place that says so.
pub fn partition_of(tenant: TenantId, count: u16) -> u16 {
    (mainspring_core::id::fingerprint([tenant.to_bytes().as_slice()]) % u64::from(count)) as u16
}

fn join_all(threads: &Mutex<Vec<JoinHandle<()>>>) {
    for thread in std::mem::take(&mut *threads.lock().unwrap_or_else(PoisonError::into_inner)) {
        if thread.join().is_err() {
            tracing::error!("a thread of the engine panicked");
        }
    }
}

struct Opened {
    partition: Arc<Partition>,
    decider: Decider,
    committer: Committer,
    applier: Applier,
}

fn open_partition(options: &EngineOptions, number: u16, hub: &Arc<Hub>) -> Result<Opened, OpenError> {
    let (store, world) = (&options.store, &options.world);
    // What may be removed while a decision about it is under way must not be decided on.
    let replay_ms = options.limits.replay_ms.min(options.retention.runs_ms / 2);
    let mut recovery = Recovery::new(Limits { replay_ms, ..options.limits });
    let (tables, rows) = store.open_tables(number)?;
    let applied = tables.applied()?;
    let unapplied = Arc::new(Unapplied::new(applied));
    let seed = world.chance().map_err(|cause| OpenError::System { what: "randomness", cause })?;
    // If another process has the partition, its log says so here, before anything was decided on what was read.
    let mut broken = None;
    let log =
        store.open_log(number, (seed >> 64) as u64, Position(applied + 1), &mut |Position(position), bytes| {
            let batch = Batch::new(position, bytes.to_vec());
            for op in batch.ops() {
                match op {
                    Ok(op) => recovery.later(op),
                    Err(source) => {
                        broken.get_or_insert(TablesError::Batch { position, source });
                    }
                }
            }
            unapplied.push(Arc::new(batch));
        })?;
    if let Some(broken) = broken {
        return Err(broken.into());
    }
    // After the tail, so that each row becomes what it is now as it comes, and none is kept twice.
    let core = ahead::recover(&*tables, recovery)?;
    let mut decider = Decider::new(core, seed, &**world);
    let now = decider.now(&**world);
    decider.resume(now);

    let position = log.next().0 - 1;
    let reader = Reader::new(rows, unapplied.clone());
    let partition = Partition::new(world.clone(), hub.clone(), unapplied, reader, position);
    let (committer, applier) = (Committer::new(log), Applier::new(tables, options.retention, world.now_ms()));
    Ok(Opened { partition, decider, committer, applier })
}
