//! The tables in SQLite: history, listings, and the recovery point.
//!
//! Each table is `key -> body`, keyed by tenant and then by time, so that inserts go to the right edge and a tenant's
//! listing is one range. Two tables carry a few more columns and a partial index over their *live* rows, which is what
//! a restart reads; a run that starts and ends between two applications never touches that index.

mod apply;
mod paced;
#[cfg(test)]
mod power;
mod rows;
mod schema;
mod sweep;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainspring_core::Table;
use mainspring_core::id::Ms;
use mainspring_core::row::BadRow;
use mainspring_core::write::{BadBatch, Op};
use rusqlite::Connection;

use crate::backend::TableStore;
use crate::retention::{self, Retention, Sweep, Swept};
use crate::unapplied::Batch;

use paced::Paced;

pub use apply::{Folded, fold};
pub use rows::SqliteRows;
pub use schema::name_of;

/// Frames of SQLite's write-ahead log, of 8 KiB each, after which what is written past the log is checkpointed: a store
/// that is moved may be larger than what the disk has left.
const WRITTEN_FRAMES_MAX: u64 = 16_384;

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
    /// The directory can't be used.
    #[error("{path} can't be used: {source}")]
    Dir {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A stored row can't be read.
    #[error("a row of table {table:?} can't be read: {source}")]
    Row {
        /// Which table.
        table: Table,
        /// Why.
        source: BadRow,
    },
    /// The tables do not answer at the moment. The log has everything.
    #[error("the tables do not answer ({cause}); it is tried again")]
    Unavailable {
        /// What was heard instead.
        cause: String,
    },
    /// Another process owns the partition now, and applies its batches itself.
    #[error("another process has taken the partition over; this one must not go on with its tables")]
    Fenced,
    /// What keeps the tables refuses, and will go on refusing until somebody has mended it. Nothing was applied.
    #[error("the tables can't be used: {cause}")]
    Unusable {
        /// What was said, and what to do.
        cause: String,
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
pub struct SqliteTables {
    connection: Connection,
    paced: Paced,
    path: PathBuf,
    /// Why nobody knows what of them is on the disk.
    unsure: Option<String>,
}

impl SqliteTables {
    /// Opens the tables in `path`, creating them if need be.
    ///
    /// # Errors
    /// [`TablesError::Newer`] for tables of a later release; [`TablesError::Sqlite`] otherwise.
    pub fn open(path: &Path) -> Result<SqliteTables, TablesError> {
        let fail = |source| TablesError::Sqlite { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(fail)?;
        schema::prepare_writer(&connection).map_err(fail)?;
        let found = schema::version(&connection).map_err(fail)?;
        if found > schema::VERSION {
            return Err(TablesError::Newer { path: path.to_owned(), found, known: schema::VERSION });
        }
        if found < schema::VERSION {
            schema::bring_up(&connection, found).map_err(fail)?;
        }
        let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(fail)?;
        let paced = Paced::open(path, page.unsigned_abs());
        let paced = paced.map_err(|source| TablesError::Dir { path: path.to_owned(), source })?;
        Ok(SqliteTables { connection, paced, path: path.to_owned(), unsure: None })
    }

    fn fail(&self, source: rusqlite::Error) -> TablesError {
        TablesError::Sqlite { path: self.path.clone(), source }
    }

    /// How many frames SQLite's write-ahead log has.
    fn frames(&self) -> Result<u64, TablesError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get::<_, i64>(1))
            .map(|frames| u64::try_from(frames).unwrap_or(0))
            .map_err(|source| self.fail(source))
    }

    /// The disk would not make something durable. What it kept of that is not known, and asked again it may say that all
    /// is well; so nothing is written over what is known to be durable any more.
    fn not_durable(&mut self, error: &std::io::Error) -> TablesError {
        let cause = format!(
            "{} could not be made durable ({error}); nothing is lost, the log is kept: mend the disk and restart",
            self.path.display()
        );
        self.unsure = Some(cause.clone());
        TablesError::Unusable { cause }
    }

    fn sure(&self) -> Result<(), TablesError> {
        self.unsure.clone().map_or(Ok(()), |cause| Err(TablesError::Unusable { cause }))
    }

    /// Has SQLite copy its write-ahead log to the tables, and whether anything kept it from copying all of it. Its file is
    /// written over from the beginning afterwards, not cut: giving the space back and taking it again keeps the log's
    /// writes waiting, for 50 ms at a time.
    fn copy(&self) -> rusqlite::Result<bool> {
        // Before and after it is made durable by us.
        self.connection.execute_batch("PRAGMA synchronous = OFF")?;
        let busy = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0));
        self.connection.execute_batch(schema::SYNCHRONOUS)?;
        busy.map(|busy| busy != 0)
    }

    /// Writes rows as they are, past the log, in one transaction.
    pub(crate) fn write(&mut self, folded: Folded<'_>) -> Result<(), TablesError> {
        self.sure()?;
        let path = self.path.clone();
        let fail = |source| TablesError::Sqlite { path: path.clone(), source };
        let transaction = self.connection.transaction().map_err(fail)?;
        apply::write(&transaction, folded).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        if self.frames()? > WRITTEN_FRAMES_MAX { self.checkpoint() } else { Ok(()) }
    }
}

impl TableStore for SqliteTables {
    fn applied(&self) -> Result<u64, TablesError> {
        self.connection
            .query_row("SELECT position FROM applied WHERE id = 0", [], |row| row.get::<_, i64>(0))
            .map(|position| position as u64)
            .map_err(|source| self.fail(source))
    }

    fn live_rows(&self, each: &mut dyn FnMut(Op<'_>)) -> Result<(), TablesError> {
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

    fn apply(&mut self, batches: &[Arc<Batch>]) -> Result<Applied, TablesError> {
        self.sure()?;
        let path = self.path.clone();
        let applied = apply::apply(&mut self.connection, batches, &path)?;
        self.paced.applied(batches.iter().map(|batch| batch.len()).sum());
        // It is applied, whatever becomes of this.
        if let Ok(frames) = self.frames() {
            self.paced.hand_over(frames);
        }
        Ok(applied)
    }

    fn checkpoint(&mut self) -> Result<(), TablesError> {
        self.sure()?;
        let frames = self.frames()?;
        let pages = self.paced.sync_wal(frames).map_err(|error| self.not_durable(&error))?;
        let busy = self.copy().map_err(|source| self.fail(source));
        // Also if not all was copied: SQLite does not copy it again.
        self.paced.sync_tables(&pages).map_err(|error| self.not_durable(&error))?;
        // A reader that holds an old snapshot keeps SQLite from copying everything. That is not an error to SQLite.
        if !busy? {
            return Ok(());
        }
        Err(TablesError::Unavailable {
            cause: format!("somebody reads {} and keeps its checkpoint from ending", self.path.display()),
        })
    }

    fn sweep(
        &mut self,
        now: Ms,
        retention: Retention,
        sweep: &mut Sweep,
        rows_max: usize,
    ) -> Result<Swept, TablesError> {
        self.sure()?;
        let path = self.path.clone();
        let fail = |source| TablesError::Sqlite { path: path.clone(), source };
        let transaction = self.connection.transaction().map_err(fail)?;
        let mut moved = sweep.clone();
        let swept = retention::sweep(&mut sweep::Sweeping(&transaction), now, retention, &mut moved, rows_max);
        let swept = swept.map_err(fail)?;
        transaction.commit().map_err(fail)?;
        *sweep = moved;
        Ok(swept)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_a_reader_holds_up_is_not_taken_for_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tables.sqlite");
        let mut tables = SqliteTables::open(&path).expect("tables");
        let mut out = mainspring_core::Out::new();
        let mut apply = |tables: &mut SqliteTables, position: u64| {
            let meta = mainspring_core::row::MetaRow { now: position, event_seq: 0 };
            out.put(Table::Meta, b"partition", &meta);
            let batch = Batch::new(position, out.take().writes);
            tables.apply(&[Arc::new(batch)]).expect("applied");
        };
        apply(&mut tables, 1);
        tables.checkpoint().expect("nobody reads");

        let reader = Connection::open(&path).expect("a reader");
        reader.execute_batch("BEGIN; SELECT * FROM meta;").expect("a snapshot is held");
        apply(&mut tables, 2);
        // Not the ten seconds that production waits.
        tables.connection.busy_timeout(std::time::Duration::from_millis(20)).expect("a timeout");
        let held_up = tables.checkpoint().expect_err("the reader holds it up");
        assert!(matches!(held_up, TablesError::Unavailable { .. }), "{held_up}");

        reader.execute_batch("COMMIT").expect("the snapshot is let go");
        tables.checkpoint().expect("nobody reads any more");
    }

    #[test]
    fn tables_whose_disk_refused_take_nothing_more_until_they_are_opened_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tables.sqlite");
        let mut tables = SqliteTables::open(&path).expect("tables");
        let batch = |position: u64| {
            let mut out = mainspring_core::Out::new();
            out.put(Table::Meta, b"partition", &mainspring_core::row::MetaRow { now: position, event_seq: 0 });
            [Arc::new(Batch::new(position, out.take().writes))]
        };
        tables.apply(&batch(1)).expect("applied");
        // The system makes nothing durable in there, and says so.
        let disk = tables.paced.swap_wal(std::fs::File::open("/dev/null").expect("a file"));
        let refused = tables.checkpoint().expect_err("it is not durable");
        assert!(matches!(refused, TablesError::Unusable { .. }), "{refused}");
        tables.paced.swap_wal(disk);
        assert_eq!(tables.apply(&batch(2)).expect_err("nothing is written over").to_string(), refused.to_string());
        assert_eq!(tables.checkpoint().expect_err("nor copied").to_string(), refused.to_string());
        drop(tables);

        let mut tables = SqliteTables::open(&path).expect("tables");
        assert_eq!(tables.applied().expect("a position"), 1);
        tables.apply(&batch(2)).expect("applied");
        tables.checkpoint().expect("durable");
    }

    /// Tables as an earlier release left them: without the tables that came later.
    fn leave_as(path: &Path, version: i64) {
        let connection = Connection::open(path).expect("a connection");
        for table in (version + 1..=schema::VERSION).flat_map(schema::new_in) {
            connection.execute_batch(&format!("DROP TABLE {}", schema::name_of(*table))).expect("a table is dropped");
        }
        if version < 4 {
            connection.execute_batch("DROP INDEX events_in_order").expect("an index is dropped");
        }
        connection.execute_batch(&format!("PRAGMA user_version = {version}")).expect("the version is set");
    }

    #[test]
    fn tables_of_an_earlier_release_are_brought_up() {
        for version in 1..schema::VERSION {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("tables.sqlite");
            let mut tables = SqliteTables::open(&path).expect("tables");
            let mut out = mainspring_core::Out::new();
            out.put(Table::Meta, b"partition", &mainspring_core::row::MetaRow { now: 7, event_seq: 0 });
            tables.apply(&[Arc::new(Batch::new(1, out.take().writes))]).expect("applied");
            drop(tables);
            leave_as(&path, version);

            // Twice: what was brought up is found as it is.
            for position in [2, 3] {
                let mut tables = SqliteTables::open(&path).expect("tables of an earlier release");
                assert_eq!(tables.applied().expect("a position"), position - 1, "what was there is there");
                assert_eq!(schema::version(&tables.connection).expect("a version"), schema::VERSION);
                let key = mainspring_core::DocumentKey::new("session", "alice");
                let tenant = mainspring_core::TenantId(1);
                let (body, expires_at) = (bytes::Bytes::from_static(b"{}"), Some(9));
                let row =
                    mainspring_core::row::DocumentRow { version: position, body, updated_at: 5, expires_at, by: None };
                out.put(Table::Document, &mainspring_core::row::key::document(tenant, &key), &row);
                out.put(Table::Revision, &mainspring_core::row::key::revision(tenant, &key, position), &row);
                tables.apply(&[Arc::new(Batch::new(position, out.take().writes))]).expect("applied");
            }
            let connection = Connection::open(&path).expect("a connection");
            let count = |table: &str| -> i64 {
                let sql = format!("SELECT count(*) FROM {table}");
                connection.query_row(&sql, [], |row| row.get(0)).expect("a count")
            };
            assert_eq!((count("meta"), count("documents"), count("revisions")), (1, 1, 2), "from version {version}");
        }
    }

    #[test]
    fn tables_of_a_later_release_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tables.sqlite");
        drop(SqliteTables::open(&path).expect("tables"));
        leave_as(&path, schema::VERSION + 1);
        let refused = SqliteTables::open(&path).expect_err("nobody knows what is in them");
        assert!(matches!(refused, TablesError::Newer { .. }), "{refused}");
    }
}
