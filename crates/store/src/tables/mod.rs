//! The tables in SQLite: history, listings, and the recovery point.
//!
//! Each table is `key -> body`, keyed by tenant and then by time, so that inserts go to the right edge and a tenant's
//! listing is one range. Two tables carry a few more columns and a partial index over their *live* rows, which is what
//! a restart reads; a run that starts and ends between two applications never touches that index.

mod apply;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainspring_core::Table;
use mainspring_core::write::{BadBatch, Op};
use rusqlite::{Connection, OpenFlags};

use crate::unapplied::Batch;

pub(crate) use schema::name_of;

/// The tables can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// SQLite said no.
    #[error("the tables in {path} can't be used: {source}")]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Written by a newer release.
    #[error(
        "the tables in {path} have schema {found}, this release knows up to {known}: run the release that wrote them, or a newer one"
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The schema found.
        found: i64,
        /// The schema known.
        known: i64,
    },
    /// A batch does not decode.
    #[error("batch {position} of the log does not decode: {source}")]
    Batch {
        /// Its position.
        position: u64,
        /// Where it stops.
        source: BadBatch,
    },
}

/// The writing side of the tables. One per partition, owned by its applier.
#[derive(Debug)]
pub struct Tables {
    connection: Connection,
    path: PathBuf,
}

impl Tables {
    /// Opens the tables in `path`, creating them if need be.
    ///
    /// # Errors
    /// [`TablesError::Newer`] for tables of a later release; [`TablesError::Sqlite`] otherwise.
    pub fn open(path: &Path) -> Result<Tables, TablesError> {
        let fail = |source| TablesError::Sqlite { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(fail)?;
        schema::prepare_writer(&connection).map_err(fail)?;
        let found = schema::version(&connection).map_err(fail)?;
        if found > schema::VERSION {
            return Err(TablesError::Newer { path: path.to_owned(), found, known: schema::VERSION });
        }
        if found < schema::VERSION {
            schema::create(&connection).map_err(fail)?;
        }
        Ok(Tables { connection, path: path.to_owned() })
    }

    /// The log position these tables stand at; 0 when empty.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn applied(&self) -> Result<u64, TablesError> {
        self.connection
            .query_row("SELECT position FROM applied WHERE id = 0", [], |row| row.get::<_, i64>(0))
            .map(|position| position as u64)
            .map_err(|source| self.fail(source))
    }

    /// Applies batches in one transaction, folding repeated writes of one row, and moves the position with them.
    /// Applying a batch again changes nothing.
    ///
    /// # Errors
    /// [`TablesError`]; then nothing was applied.
    pub fn apply(&mut self, batches: &[Arc<Batch>]) -> Result<Applied, TablesError> {
        let path = self.path.clone();
        apply::apply(&mut self.connection, batches, &path)
    }

    /// Makes everything applied so far durable in the database file itself. Only then may log segments go.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn checkpoint(&self) -> Result<(), TablesError> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(|source| self.fail(source))
    }

    /// Reads every row that is live, table by table, in key order.
    ///
    /// # Errors
    /// [`TablesError::Sqlite`].
    pub fn live_rows(&self, mut each: impl FnMut(Op<'_>)) -> Result<(), TablesError> {
        for table in Table::ALL {
            let Some(query) = schema::live_query(table) else { continue };
            let mut statement = self.connection.prepare(query).map_err(|source| self.fail(source))?;
            let mut rows = statement.query([]).map_err(|source| self.fail(source))?;
            while let Some(row) = rows.next().map_err(|source| self.fail(source))? {
                let key = row.get_ref(0).and_then(|value| Ok(value.as_blob()?));
                let body = row.get_ref(1).and_then(|value| Ok(value.as_blob()?));
                let (key, body) = (key.map_err(|e| self.fail(e))?, body.map_err(|e| self.fail(e))?);
                each(Op { table, key, body: Some(body) });
            }
        }
        Ok(())
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(crate) fn fail(&self, source: rusqlite::Error) -> TablesError {
        TablesError::Sqlite { path: self.path.clone(), source }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What one application did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// The position the tables stand at now.
    pub position: u64,
    /// Writes in the batches.
    pub ops: usize,
    /// Rows touched, after folding.
    pub rows: usize,
}

/// Opens a read-only connection to the tables in `path`.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, TablesError> {
    let fail = |source| TablesError::Sqlite { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    schema::prepare_reader(&connection).map_err(fail)?;
    Ok(connection)
}
