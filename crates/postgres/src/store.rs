//! The store: which partitions there are, and how one is taken.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainspring_store::backend::OpenTables;
use mainspring_store::log::{LogError, Position};
use mainspring_store::{PartitionLog, Store, StoreError, TablesError};

use crate::appends::Appends;
use crate::link::{Connection, Link};
use crate::log::PostgresLog;
use crate::moving::note_in;
use crate::nodes::{ALIVE, NodeId};
use crate::options::{PostgresOptions, application_name};
use crate::pool::Pool;
use crate::rows::PostgresRows;
use crate::schema;
use crate::tables::PostgresTables;
use crate::trouble::{Trouble, log_name, of_log};

/// A store in a database. Several processes may have it open; each partition belongs to whoever opened it last. One that
/// a node holds a lease on can't be opened in another's name.
pub struct Postgres {
    pub(crate) options: PostgresOptions,
    appends: Arc<Appends>,
    pub(crate) table_pool: Arc<Pool>,
    /// For whoever writes tables. As many as there are cores: more would only take turns, and take them from the log.
    pub(crate) apply_pool: Arc<Pool>,
    /// Epochs of partitions whose tables were opened and whose log was not yet.
    claimed: Mutex<HashMap<u16, i64>>,
}

impl Postgres {
    /// The store these options describe. Nothing is asked of the database yet.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] if the options say something that can't be.
    pub fn new(options: PostgresOptions) -> Result<Postgres, StoreError> {
        let (config, tls) = options.checked()?;
        let greeting = schema::greeting(&options.schema, options.patience.as_millis());
        let link = Link::new(config, tls, greeting, options.patience).map_err(|error| StoreError::Unusable {
            cause: format!("the thread that speaks to PostgreSQL can't be started: {error}"),
        })?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let writing = cores.min(options.table_connections_max / 2).max(1);
        let reading = options.table_connections_max.saturating_sub(writing).max(1);
        Ok(Postgres {
            appends: Arc::new(Appends::new(Pool::new(link.clone(), options.log_connections_max))),
            table_pool: Arc::new(Pool::new(link.clone(), reading)),
            apply_pool: Arc::new(Pool::new(link, writing)),
            claimed: Mutex::default(),
            options,
        })
    }

    fn claimed(&self) -> MutexGuard<'_, HashMap<u16, i64>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Store for Postgres {
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError> {
        let mut connection = self.table_pool.lend()?;
        if let Some(note) = note_in(&mut connection)? {
            return Err(StoreError::Unusable { cause: note.refusal(&self.options.name()) });
        }
        schema::prepare(&mut connection, &self.options.schema, &self.options.cluster, wanted)
    }

    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError> {
        let epoch = claim(&mut *self.table_pool.lend()?, partition, self.options.node)?;
        self.claimed().insert(partition, epoch);
        let tables = PostgresTables::new(self.table_pool.clone(), self.apply_pool.clone(), partition, epoch);
        Ok((Box::new(tables), Arc::new(PostgresRows::new(self.table_pool.clone(), partition))))
    }

    fn open_log(
        &self,
        partition: u16,
        _chance: u64,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Box<dyn PartitionLog>, LogError> {
        let unopened = |trouble: Trouble| match trouble {
            // There is no batch whose outcome it could be.
            Trouble::Lost { .. } | Trouble::Busy { .. } => {
                LogError::Unusable { log: log_name(partition), cause: trouble.to_string() }
            }
            Trouble::Refused { .. } => of_log(partition, &trouble),
        };
        // What was read in the tables stands still for as long as the epoch is the one they were opened under.
        let claimed = self.claimed().remove(&partition);
        let epoch = match claimed {
            Some(epoch) => epoch,
            None => {
                let mut connection = self.appends.pool.lend().map_err(unopened)?;
                claim(&mut connection, partition, self.options.node).map_err(unopened)?
            }
        };
        let log = PostgresLog::open(
            self.appends.clone(),
            partition,
            epoch,
            self.options.batch_bytes_max,
            from,
            visit,
            &unopened,
        )?;
        Ok(Box::new(log))
    }
}

/// Takes a partition over and answers the epoch. From here on nobody else appends to its log or applies to its tables:
/// what is under way is waited for, and what comes later finds another epoch.
pub(crate) fn claim(connection: &mut Connection, partition: u16, node: Option<NodeId>) -> Result<i64, Trouble> {
    let number = i32::from(partition);
    let node = node.map(|node| node.to_string());
    let refused = |cause: String| Err(Trouble::Refused { cause });
    loop {
        let sql = format!(
            "SELECT p.epoch, n.name, p.node FROM partitions p LEFT JOIN nodes n ON n.id = p.node AND {ALIVE} \
             AND p.node IS DISTINCT FROM $2 WHERE p.partition = $1"
        );
        let Some(found) = connection.query_one(&sql, &[&number, &node])? else {
            return refused(format!(
                "there is no partition {partition} in this store; ask it how many there are first"
            ));
        };
        let (epoch, holder) = (found.get::<_, i64>(0), found.get::<_, Option<String>>(1));
        if let Some(holder) = holder {
            return refused(format!("partition {partition} is held by the node {holder:?}: stop that one first"));
        }
        if let Some(relieved) = found.get::<_, Option<String>>(2).filter(|of| Some(of) != node.as_ref()) {
            end_connections(connection, &relieved);
        }
        let next = epoch + 1;
        // From one epoch to the next and no other: a claim that arrives late, because its connection was cut, does nothing.
        // And never past a lease that was renewed since it was looked at, nor from a store that was moved meanwhile.
        let claimed = connection.transaction(|connection| {
            // Whoever marks the store as moved waits for claims that are under way, and looks at the epochs after that.
            connection.run("LOCK TABLE moves IN SHARE MODE")?;
            let sql = format!(
                "UPDATE partitions p SET epoch = $2, attempt = 0, node = $4 \
                 WHERE p.partition = $1 AND p.epoch = $3 AND NOT EXISTS \
                 (SELECT 1 FROM nodes n WHERE n.id = p.node AND {ALIVE} AND p.node IS DISTINCT FROM $4) \
                 AND NOT EXISTS (SELECT 1 FROM moves WHERE note LIKE 'moved%')"
            );
            if connection.execute(&sql, &[&number, &next, &epoch, &node])? == 0 {
                return Ok(false);
            }
            connection.execute("UPDATE applied SET epoch = $2 WHERE partition = $1", &[&number, &next])?;
            Ok::<bool, Trouble>(true)
        })?;
        if claimed {
            return Ok(next);
        }
    }
}

/// Ends what a node that is relieved of a partition has under way. It may be frozen in the middle of a statement, and its
/// locks would then be held for as long as it is.
fn end_connections(connection: &mut Connection, relieved: &str) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()";
    if let Err(trouble) = connection.query(sql, &[&application_name(relieved)]) {
        // A user of another name may not; then the locks end when the node's own limits do.
        tracing::warn!(%trouble, node = relieved, "connections of a node that vanished could not be ended");
    }
}
