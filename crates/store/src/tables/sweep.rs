//! What a sweep asks of tables in SQLite.

use mainspring_core::Table;
use mainspring_core::id::Ms;
use rusqlite::{Transaction, params};

use super::schema::name_of;
use crate::reader::RawRows;
use crate::retention::{Looked, Sweepable, time_column};

/// Tables within a transaction. Deletes at once.
#[derive(Debug)]
pub(super) struct Sweeping<'a>(pub(super) &'a Transaction<'a>);

impl Sweepable for Sweeping<'_> {
    type Error = rusqlite::Error;

    fn after(&mut self, table: Table, key: &[u8], bodies_before: Ms, rows_max: usize) -> rusqlite::Result<Vec<Looked>> {
        let (name, at) = (name_of(table), time_column(table));
        let sql = format!(
            "SELECT key, {at}, CASE WHEN {at} < ?2 THEN body END FROM {name} WHERE key > ?1 ORDER BY key LIMIT ?3"
        );
        let mut statement = self.0.prepare_cached(&sql)?;
        let looked = statement.query_map(params![key, sql_integer(bodies_before), limit_of(rows_max)], |row| {
            let at: Option<i64> = row.get(1)?;
            Ok(Looked { key: row.get(0)?, at: at.map(|at| at as u64), body: row.get(2)? })
        })?;
        looked.collect()
    }

    fn get(&mut self, table: Table, key: &[u8]) -> rusqlite::Result<Option<Vec<u8>>> {
        let sql = format!("SELECT body FROM {} WHERE key = ?1", name_of(table));
        let mut statement = self.0.prepare_cached(&sql)?;
        statement.query_map(params![key], |row| row.get(0))?.next().transpose()
    }

    fn range(&mut self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> rusqlite::Result<RawRows> {
        let name = name_of(table);
        let sql = format!("SELECT key, body FROM {name} WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3");
        let mut statement = self.0.prepare_cached(&sql)?;
        statement.query_map(params![from, to, limit_of(rows_max)], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> rusqlite::Result<()> {
        let sql = format!("DELETE FROM {} WHERE key = ?1", name_of(table));
        self.0.prepare_cached(&sql)?.execute(params![key]).map(drop)
    }

    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> rusqlite::Result<()> {
        let sql = format!("DELETE FROM {} WHERE key >= ?1 AND key < ?2", name_of(table));
        self.0.prepare_cached(&sql)?.execute(params![from, to]).map(drop)
    }
}

fn limit_of(rows_max: usize) -> i64 {
    i64::try_from(rows_max).unwrap_or(i64::MAX)
}

fn sql_integer(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}
