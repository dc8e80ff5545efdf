//! Reading the tables in SQLite, over a few connections that are kept open.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mainspring_core::Table;
use mainspring_core::id::{RunId, TenantId};
use rusqlite::{Connection, OpenFlags, params};

use super::TablesError;
use super::schema::{self, name_of};
use crate::backend::{Range, Rows, run_bounds};
use crate::reader::{RawRows, RunFilter};

/// Connections kept open for readers. More readers than this open one for themselves.
const CONNECTIONS_KEPT_MAX: usize = 8;

/// The reading side of the tables in a file.
#[derive(Debug)]
pub struct SqliteRows {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl SqliteRows {
    /// Reads the tables in `path`; connections are opened as they are needed.
    pub fn new(path: PathBuf) -> Self {
        SqliteRows { path, idle: Mutex::new(Vec::new()) }
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, TablesError> {
        let fail = |source| TablesError::Sqlite { path: self.path.clone(), source };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open(&self.path).map_err(fail)?,
        };
        let result = work(&connection).map_err(fail);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS_KEPT_MAX {
            idle.push(connection);
        }
        result
    }
}

impl Rows for SqliteRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.with(|connection| {
            let sql = format!("SELECT body FROM {} WHERE key = ?1", name_of(table));
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![key])?;
            rows.next()?.map(|row| row.get(0)).transpose()
        })
    }

    fn range(&self, range: Range<'_>) -> Result<RawRows, TablesError> {
        self.with(|connection| {
            let (name, order) = (name_of(range.table), if range.descending { "DESC" } else { "ASC" });
            let sql =
                format!("SELECT key, body FROM {name} WHERE key >= ?1 AND key < ?2 ORDER BY key {order} LIMIT ?3");
            let limit = i64::try_from(range.limit).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_map(params![range.from, range.to, limit], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    fn events_after(
        &self,
        tenant: TenantId,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<RawRows, TablesError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key, body FROM events INDEXED BY events_in_order \
                 WHERE substr(key, 1, 16) = ?1 AND substr(key, 25, 8) > ?2 ORDER BY substr(key, 25, 8) LIMIT ?3",
            )?;
            let mut rows = statement.query(params![tenant.to_bytes(), after.to_be_bytes(), limit])?;
            let (mut found, mut bytes) = (RawRows::new(), 0);
            while bytes < bytes_max
                && let Some(row) = rows.next()?
            {
                let (key, body): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
                bytes += body.len();
                found.push((key, body));
            }
            Ok(found)
        })
    }

    fn runs(
        &self,
        tenant: TenantId,
        before: Option<RunId>,
        filter: &RunFilter,
        limit: usize,
        examined_max: usize,
    ) -> Result<(RawRows, Option<Vec<u8>>), TablesError> {
        if limit == 0 {
            return Ok((RawRows::new(), None));
        }
        let (from, to) = run_bounds(tenant, before);
        let rows_max = i64::try_from(examined_max).unwrap_or(i64::MAX);
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key, body, workflow, state FROM runs WHERE key > ?1 AND key < ?2 ORDER BY key DESC LIMIT ?3",
            )?;
            let mut rows = statement.query(params![from, to, rows_max])?;
            let (mut found, mut examined) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                examined += 1;
                let matches = |index: usize, wanted: &Option<String>| -> rusqlite::Result<bool> {
                    let found = row.get_ref(index)?;
                    Ok(wanted.as_deref().is_none_or(|wanted| found.as_str() == Ok(wanted)))
                };
                if matches(2, &filter.workflow)? && matches(3, &filter.state)? {
                    found.push((row.get(0)?, row.get(1)?));
                }
                if found.len() == limit || examined == examined_max {
                    return Ok((found, Some(row.get(0)?)));
                }
            }
            Ok((found, None))
        })
    }
}

/// Opens a read-only connection.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    schema::prepare_reader(&connection)?;
    Ok(connection)
}
