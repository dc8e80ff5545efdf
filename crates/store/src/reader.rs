//! Reading: by id from what is not applied yet and then from the tables; listings from the tables, which may lag.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mainspring_core::id::{PayloadId, RunId, TaskId, TenantId};
use mainspring_core::row::{self, EventRow, JournalRow, MessageRow, RunRow, TaskRow};
use mainspring_core::{Fact, MessageId, Need, Table};
use rusqlite::{Connection, params};

use crate::tables::{TablesError, name_of, open_reader};
use crate::unapplied::Unapplied;

/// Runs examined for one page of a filtered listing, so that a rare filter over a long history stays bounded.
const RUNS_EXAMINED_MAX: usize = 20_000;
/// Connections kept open for readers. More readers than this open one for themselves.
const CONNECTIONS_KEPT_MAX: usize = 4;

/// Keys and bodies, as they are stored.
pub type RawRows = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads one partition. Cheap to clone; calls block on SQLite, so async callers use a blocking thread.
#[derive(Debug, Clone)]
pub struct Reader {
    unapplied: Arc<Unapplied>,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// Which runs a listing shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only of this workflow.
    pub workflow: Option<String>,
    /// Only in this state, by its word.
    pub state: Option<String>,
}

/// A page of a listing, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins, if there may be one.
    pub next: Option<RunId>,
}

impl Reader {
    /// A reader of the tables in `path`, in front of which stands `unapplied`.
    pub fn new(path: PathBuf, unapplied: Arc<Unapplied>) -> Self {
        Reader { unapplied, pool: Arc::new(Pool { path, idle: Mutex::new(Vec::new()) }) }
    }

    /// The position the tables stand at.
    pub fn applied(&self) -> u64 {
        self.unapplied.applied()
    }

    /// What is durable and not applied yet.
    pub fn unapplied(&self) -> &Unapplied {
        &self.unapplied
    }

    /// One row's bytes.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        for batch in self.unapplied.snapshot().iter().rev() {
            if let Some(found) = batch.get(table, key) {
                return Ok(found.map(<[u8]>::to_vec));
            }
        }
        self.pool.with(|connection| {
            let sql = format!("SELECT body FROM {} WHERE key = ?1", name_of(table));
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![key])?;
            rows.next()?.map(|row| row.get(0)).transpose()
        })
    }

    /// All rows whose key begins with `prefix`, in key order.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn prefixed(&self, table: Table, prefix: &[u8]) -> Result<RawRows, TablesError> {
        // The snapshot is taken before the tables are read: a batch that is applied in between is then seen twice,
        // which folding makes harmless, and never missed.
        let waiting = self.unapplied.snapshot();
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = self.pool.with(|connection| {
            let mut end = prefix.to_vec();
            end.extend_from_slice(&[0xff; 8]);
            let sql = format!("SELECT key, body FROM {} WHERE key >= ?1 AND key < ?2", name_of(table));
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_map(params![prefix, end], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        for batch in &waiting {
            for op in batch.prefixed(table, prefix) {
                match op.body {
                    Some(body) => rows.insert(op.key.to_vec(), body.to_vec()),
                    None => rows.remove(op.key),
                };
            }
        }
        Ok(rows.into_iter().collect())
    }

    /// A run.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn run(&self, tenant: TenantId, id: RunId) -> Result<Option<RunRow>, TablesError> {
        self.decoded(Table::Run, &row::key::run(tenant, id))
    }

    /// A task.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<TaskRow>, TablesError> {
        self.decoded(Table::Task, &row::key::task(tenant, id))
    }

    /// A message.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn message(&self, tenant: TenantId, id: MessageId) -> Result<Option<MessageRow>, TablesError> {
        self.decoded(Table::Message, &row::key::message(tenant, id))
    }

    /// A payload's bytes.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn payload(&self, tenant: TenantId, id: PayloadId) -> Result<Option<Vec<u8>>, TablesError> {
        self.get(Table::Payload, &row::key::payload(tenant, id))
    }

    /// A task's journal, in order.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn journal(&self, tenant: TenantId, task: TaskId) -> Result<Vec<(u32, JournalRow)>, TablesError> {
        let prefix = row::key::task(tenant, task);
        let rows = self.prefixed(Table::Journal, &prefix)?;
        rows.into_iter()
            .map(|(key, body)| Ok((row::key::position_of(&key).unwrap_or(u32::MAX), self.decode(&body)?)))
            .collect()
    }

    /// Up to `limit` events of a scope after `after`, oldest first. May lag behind what is durable: wait for the
    /// tables first if that matters.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn events(
        &self,
        tenant: TenantId,
        scope: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, EventRow)>, TablesError> {
        let from = row::key::event(tenant, scope, after.saturating_add(1));
        let to = row::key::event(tenant, scope, u64::MAX);
        self.event_range(
            "SELECT key, body FROM events WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3",
            scope,
            &from,
            &to,
            limit,
        )
    }

    /// The latest `limit` events of a scope, newest first. May lag.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn latest_events(
        &self,
        tenant: TenantId,
        scope: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(u64, EventRow)>, TablesError> {
        let from = row::key::event(tenant, scope, 0);
        let to = row::key::event(tenant, scope, u64::MAX);
        self.event_range(
            "SELECT key, body FROM events WHERE key >= ?1 AND key < ?2 ORDER BY key DESC LIMIT ?3",
            scope,
            &from,
            &to,
            limit,
        )
    }

    fn event_range(
        &self,
        sql: &str,
        scope: Option<&str>,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(u64, EventRow)>, TablesError> {
        let rows: RawRows = self.pool.with(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map(params![from, to, limit as i64], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        let mut events = Vec::with_capacity(rows.len());
        for (key, body) in rows {
            let event: EventRow = self.decode(&body)?;
            // Two scopes may share a hash; the row tells them apart.
            if event.scope.as_deref() == scope {
                events.push((row::key::event_seq_of(&key).unwrap_or(0), event));
            }
        }
        Ok(events)
    }

    /// A tenant's runs, newest first. May lag.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn runs(
        &self,
        tenant: TenantId,
        filter: &RunFilter,
        before: Option<RunId>,
        limit: usize,
    ) -> Result<Page<(RunId, RunRow)>, TablesError> {
        let from = tenant.to_bytes().to_vec();
        let to = row::key::run(tenant, before.unwrap_or(RunId(u128::MAX)));
        let (examined, rows): (Vec<Vec<u8>>, RawRows) = self.pool.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key, body, workflow, state FROM runs WHERE key > ?1 AND key < ?2 ORDER BY key DESC LIMIT ?3",
            )?;
            let mut rows = statement.query(params![from, to, RUNS_EXAMINED_MAX as i64])?;
            let (mut last, mut found, mut count) = (Vec::new(), Vec::new(), 0);
            while let Some(row) = rows.next()? {
                count += 1;
                let matches = |index: usize, wanted: &Option<String>| -> rusqlite::Result<bool> {
                    Ok(wanted
                        .as_deref()
                        .is_none_or(|wanted| row.get_ref(index).is_ok_and(|v| v.as_str() == Ok(wanted))))
                };
                if matches(2, &filter.workflow)? && matches(3, &filter.state)? {
                    found.push((row.get(0)?, row.get(1)?));
                }
                if found.len() == limit || count == RUNS_EXAMINED_MAX {
                    last.push(row.get(0)?);
                    break;
                }
            }
            Ok((last, found))
        })?;
        let next = examined.first().and_then(|key| row::key::second(key)).map(RunId);
        let rows = rows
            .into_iter()
            .map(|(key, body)| Ok((RunId(row::key::second(&key).unwrap_or(0)), self.decode(&body)?)))
            .collect::<Result<_, TablesError>>()?;
        Ok(Page { rows, next })
    }

    /// All rows of a tenant in a small table.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn all<T: serde::de::DeserializeOwned>(
        &self,
        tenant: TenantId,
        table: Table,
    ) -> Result<Vec<(u128, T)>, TablesError> {
        let rows = self.prefixed(table, &tenant.to_bytes())?;
        rows.into_iter().map(|(key, body)| Ok((row::key::second(&key).unwrap_or(0), self.decode(&body)?))).collect()
    }

    /// Every tenant of the partition.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn tenants(&self) -> Result<Vec<(TenantId, row::TenantRow)>, TablesError> {
        let rows = self.prefixed(Table::Tenant, &[])?;
        rows.into_iter()
            .filter_map(|(key, body)| Some((row::key::tenant_of(&key)?, body)))
            .map(|(tenant, body)| Ok((tenant, self.decode(&body)?)))
            .collect()
    }

    /// Loads a fact a decision needs.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn fact(&self, tenant: TenantId, need: Need) -> Result<Fact, TablesError> {
        let found = match need {
            Need::Run(run) => self.run(tenant, run)?.map(Fact::Run),
            Need::Task(task) => self.task(tenant, task)?.map(Fact::Task),
            Need::Journal(task, position) => {
                self.decoded(Table::Journal, &row::key::journal(tenant, task, position))?.map(Fact::Journal)
            }
        };
        Ok(found.unwrap_or(Fact::Missing))
    }

    fn decoded<T: serde::de::DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, TablesError> {
        self.get(table, key)?.map(|body| self.decode(&body)).transpose()
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T, TablesError> {
        row::decode(body).map_err(|bad| TablesError::Sqlite {
            path: self.pool.path.clone(),
            source: rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(bad)),
        })
    }
}

impl Pool {
    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, TablesError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open_reader(&self.path)?,
        };
        let result = work(&connection).map_err(|source| TablesError::Sqlite { path: self.path.clone(), source });
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS_KEPT_MAX {
            idle.push(connection);
        }
        result
    }
}
