//! The ground that is a real PostgreSQL: the store as it is shipped, reached over connections that are cut, refused and
//! late as the seed has it.
//!
//! What is not simulated here is what PostgreSQL answers for by itself: that a commit survives its own machine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainspring_core::Table;
use mainspring_core::id::Ms;
use mainspring_core::write::Op;
use mainspring_postgres::{Postgres, PostgresOptions};
use mainspring_store::backend::{OpenTables, Range};
use mainspring_store::log::{LogError, Position};
use mainspring_store::retention::{Retention, Sweep, Swept};
use mainspring_store::tables::Applied;
use mainspring_store::{Batch, PartitionLog, Store, StoreError, TableStore, TablesError};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::chance::Chance;
use crate::disk::Crash;
use crate::ground::proxy::{Control, Door, Fate};
use crate::ground::{EachRow, Ground, Trouble};
use crate::sim::Sim;
use crate::tables::TableFaults;

/// Never over: what is answered must not depend on how fast the machine is.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows read at once when everything is compared.
const PAGE_ROWS: usize = 2_000;

/// A schema of its own, until it is dropped.
#[derive(Debug)]
pub struct OnPostgres(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sim: Sim,
    url: String,
    schema: String,
    control: Control,
    /// Sees the database as it is, past all faults.
    observer: Postgres,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    /// Kept until the end: a dead process may still try.
    doors: Vec<Door>,
    owners: BTreeMap<u16, Owner>,
    faults: TableFaults,
}

/// Who has a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Process(u64),
    /// Somebody tried to take it and did not hear what came of that.
    Unclear,
}

impl OnPostgres {
    /// A new schema in this database.
    ///
    /// # Errors
    /// Why the database can't be used.
    pub fn new(sim: &Sim, url: &str) -> Result<OnPostgres, String> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let schema = format!("sim_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (control, chance) = (Control::new(sim.fork()), sim.fork());
        let observer = Postgres::new(options(url.to_owned(), &schema)).map_err(|error| error.to_string())?;
        let state = State { chance, doors: Vec::new(), owners: BTreeMap::new(), faults: TableFaults::default() };
        Ok(OnPostgres(Arc::new(Inner {
            sim: sim.clone(),
            url: url.to_owned(),
            schema,
            control,
            observer,
            state: Mutex::new(state),
        })))
    }
}

fn options(url: String, schema: &str) -> PostgresOptions {
    PostgresOptions { schema: schema.to_owned(), patience: PATIENCE, ..PostgresOptions::new(url) }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one request among the next `of` meet a fate while `work` goes on, in so many of a thousand cases.
    fn with_fault<T>(&self, permille: u64, of: u64, fates: &[Fate], work: impl FnOnce() -> T) -> T {
        let late = {
            let chance = &mut self.lock().chance;
            if chance.permille(permille) {
                self.control.arm(chance.below(of), *chance.pick(fates));
            }
            chance.permille(200)
        };
        if late && self.control.let_late_arrive() > 0 {
            self.sim.sometimes("a request arrived at the database after its connection was cut");
        }
        let done = work();
        self.control.disarm();
        done
    }

    fn may_own(&self, process: u64, partition: u16) -> bool {
        match self.lock().owners.get(&partition) {
            Some(Owner::Process(owner)) => *owner == process,
            Some(Owner::Unclear) | None => true,
        }
    }

    /// Notes that a process took a partition, or tried to.
    fn note_owner(&self, partition: u16, owner: Owner) {
        self.lock().owners.insert(partition, owner);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (url, schema) = (self.url.clone(), self.schema.clone());
        // On a thread of its own, because this one may be in a runtime.
        let dropping = std::thread::spawn(move || -> Result<(), String> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(async {
                let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
                let (client, connection) = connected.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                let sql = format!("DROP SCHEMA IF EXISTS \"{schema}\" CASCADE");
                client.batch_execute(&sql).await.map_err(|error| error.to_string())
            })
        });
        // A schema that stays behind hurts nobody.
        drop(dropping.join());
    }
}

impl Ground for OnPostgres {
    fn store(&self, process: u64) -> Result<Arc<dyn Store>, StoreError> {
        let fail = |cause: String| StoreError::Unusable { cause };
        let (url, server) = self.0.server().map_err(fail)?;
        let door = Door::open(&self.0.control, process, server).map_err(|error| fail(error.to_string()))?;
        let store = Postgres::new(options(format!("{url} host=127.0.0.1 port={}", door.port), &self.0.schema))?;
        self.0.lock().doors.push(door);
        Ok(Arc::new(ProcessStore { ground: self.0.clone(), process, store }))
    }

    fn may_own(&self, process: u64, partition: u16) -> bool {
        self.0.may_own(process, partition)
    }

    fn lets_second_in(&self) -> bool {
        true
    }

    fn take_over(&self) {
        // Whoever opens a partition has it.
    }

    fn crash(&self, process: u64, _: Crash) {
        self.0.control.end(process);
    }

    fn die_in(&self, changes: u64) {
        self.0.control.die_in(Some(changes));
    }

    fn take_died(&self, process: u64) -> bool {
        self.0.control.take_died(process)
    }

    fn set_trouble(&self, trouble: Option<Trouble>) {
        self.0.control.set_trouble(trouble);
    }

    fn set_away(&self, away: bool) {
        self.0.control.set_away(away);
    }

    fn set_table_faults(&self, faults: TableFaults) {
        self.0.lock().faults = faults;
    }

    fn calm_down(&self) {
        self.0.control.set_trouble(None);
        self.0.control.set_away(false);
        self.0.control.die_in(None);
        self.0.lock().faults = TableFaults::default();
        self.0.control.let_late_arrive();
    }

    fn position(&self, partition: u16) -> u64 {
        self.0.observer.standing(partition).expect("nothing is between the observer and the database")
    }

    fn each(&self, partition: u16, each: EachRow<'_>) {
        let rows = self.0.observer.rows(partition);
        for table in Table::ALL {
            let mut from = Vec::new();
            loop {
                let range = Range { table, from: &from, to: &[0xff; 300], descending: false, limit: PAGE_ROWS };
                let page = rows.range(range).expect("nothing is between the observer and the database");
                page.iter().for_each(|(key, body)| each(table, key, body));
                let Some((last, _)) = page.last().filter(|_| page.len() == PAGE_ROWS) else { break };
                from = [last.as_slice(), &[0]].concat();
            }
        }
    }
}

impl Inner {
    /// What the URL says beside the address, and the address.
    fn server(&self) -> Result<(String, (String, u16)), String> {
        let config: Config = self.url.parse().map_err(|error| format!("the URL can't be read: {error}"))?;
        let Some(Host::Tcp(host)) = config.get_hosts().first() else {
            return Err("the URL must name a host, not a socket".to_owned());
        };
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        let mut words = format!("user={}", quoted(config.get_user().unwrap_or("postgres")));
        if let Some(name) = config.get_dbname() {
            words.push_str(&format!(" dbname={}", quoted(name)));
        }
        if let Some(password) = config.get_password() {
            words.push_str(&format!(" password={}", quoted(&String::from_utf8_lossy(password))));
        }
        Ok((words, (host.clone(), config.get_ports().first().copied().unwrap_or(5432))))
    }
}

/// The store, as one process has it.
#[derive(Debug)]
struct ProcessStore {
    ground: Arc<Inner>,
    process: u64,
    store: Postgres,
}

impl Store for ProcessStore {
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError> {
        self.store.partitions(wanted)
    }

    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError> {
        let opened = self.store.open_tables(partition);
        self.ground.note_owner(partition, if opened.is_ok() { Owner::Process(self.process) } else { Owner::Unclear });
        let (tables, rows) = opened?;
        let (ground, process) = (self.ground.clone(), self.process);
        Ok((Box::new(ProcessTables { ground, process, partition, tables, earlier: Vec::new() }), rows))
    }

    fn open_log(
        &self,
        partition: u16,
        chance: u64,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Box<dyn PartitionLog>, LogError> {
        let log = self.store.open_log(partition, chance, from, visit)?;
        Ok(Box::new(ProcessLog { ground: self.ground.clone(), log }))
    }
}

#[derive(Debug)]
struct ProcessLog {
    ground: Arc<Inner>,
    log: Box<dyn PartitionLog>,
}

impl ProcessLog {
    /// Nothing that is simulated here is for good, but that somebody else has the partition.
    fn held_to<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result
            && !matches!(error, LogError::Unknown { .. } | LogError::Fenced)
        {
            self.ground.sim.violated(format!("the log ended for no reason: {error}"));
        }
        result
    }
}

impl PartitionLog for ProcessLog {
    fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        let permille = self.ground.sim.plan().append_unknown;
        let fates = [Fate::Lost, Fate::Unheard, Fate::Late, Fate::Refused("57P01")];
        let appended = self.ground.with_fault(permille, 1, &fates, || self.log.append(parts));
        self.held_to(appended)
    }

    fn settle(&mut self) -> Result<Option<Position>, LogError> {
        let permille = if self.ground.sim.plan().append_unknown > 0 { 400 } else { 0 };
        let fates = [Fate::Lost, Fate::Unheard, Fate::Late];
        let settled = self.ground.with_fault(permille, 4, &fates, || self.log.settle());
        self.held_to(settled)
    }

    fn remove_up_to(&mut self, contained: Position) -> Result<(), LogError> {
        self.log.remove_up_to(contained)?;
        self.ground.sim.sometimes("log segments were removed");
        Ok(())
    }

    fn next(&self) -> Position {
        self.log.next()
    }
}

#[derive(Debug)]
struct ProcessTables {
    ground: Arc<Inner>,
    process: u64,
    partition: u16,
    tables: Box<dyn TableStore>,
    /// Batches applied before, for when they come again.
    earlier: Vec<Arc<Batch>>,
}

impl ProcessTables {
    fn held_to(&self, applied: &Result<Applied, TablesError>) {
        if applied.is_ok() && !self.ground.may_own(self.process, self.partition) {
            let (process, partition) = (self.process, self.partition);
            self.ground.sim.violated(format!("process {process} applied to partition {partition}, which was taken"));
        }
    }
}

impl TableStore for ProcessTables {
    fn applied(&self) -> Result<u64, TablesError> {
        self.tables.applied()
    }

    fn live_rows(&self, each: &mut dyn FnMut(Op<'_>)) -> Result<(), TablesError> {
        self.tables.live_rows(each)
    }

    fn apply(&mut self, batches: &[Arc<Batch>]) -> Result<Applied, TablesError> {
        let faults = self.ground.lock().faults;
        let fates = [Fate::Lost, Fate::Unheard, Fate::Refused("53100")];
        // An application is a BEGIN, a look, a few statements and a COMMIT.
        let permille = faults.refused + faults.unheard;
        let applied = self.ground.with_fault(permille, 10, &fates, || self.tables.apply(batches));
        self.held_to(&applied);
        let again = applied.is_ok() && self.ground.lock().chance.permille(faults.repeated);
        if again && !self.earlier.is_empty() {
            self.tables.apply(&std::mem::take(&mut self.earlier))?;
            self.ground.sim.sometimes("an old request came to the tables again");
        }
        if self.earlier.is_empty() {
            self.earlier = batches.to_vec();
        }
        applied
    }

    fn checkpoint(&mut self) -> Result<(), TablesError> {
        self.tables.checkpoint()
    }

    fn sweep(&mut self, _: Ms, _: Retention, _: &mut Sweep, _: usize) -> Result<Swept, TablesError> {
        // The books compare with everything that ever was, so nothing is removed here.
        Ok(Swept { finished: true, ..Swept::default() })
    }
}
