//! The writing side of a partition's tables.

use std::sync::Arc;
use std::time::Duration;

use mainspring_core::Table;
use mainspring_core::id::Ms;
use mainspring_core::write::Op;
use mainspring_store::retention::{self, Retention, Sweep, Swept};
use mainspring_store::tables::{Applied, fold};
use mainspring_store::unapplied::Linger;
use mainspring_store::{Batch, TableStore, TablesError};

use crate::apply;
use crate::link::{Connection, Later};
use crate::pool::Pool;
use crate::schema;
use crate::sweep::Sweeping;

/// Longer than where a transaction is cheaper: it costs some fifteen statements however little is in it, and each partition
/// makes its own.
const LINGER: Linger = Linger { quiet: Duration::from_millis(200), busy: Duration::from_millis(600) };

/// A partition's tables, as the owner of an epoch has them.
#[derive(Debug)]
pub(crate) struct PostgresTables {
    pool: Arc<Pool>,
    apply_pool: Arc<Pool>,
    pub(crate) partition: i32,
    epoch: i64,
}

impl PostgresTables {
    pub(crate) fn new(pool: Arc<Pool>, apply_pool: Arc<Pool>, partition: u16, epoch: i64) -> PostgresTables {
        PostgresTables { pool, apply_pool, partition: i32::from(partition), epoch }
    }

    /// Does something as one transaction, for as long as which nobody takes the partition's tables over. It is told where
    /// they stand.
    pub(crate) fn fenced<T>(
        &self,
        work: impl FnOnce(&mut Connection, u64) -> Result<T, TablesError>,
    ) -> Result<T, TablesError> {
        let mut connection = self.apply_pool.lend()?;
        let unheard = connection.transaction(|connection| {
            // Waits for a transaction of ours whose connection was cut, so that what it did is seen.
            let sql = "SELECT position FROM applied WHERE partition = $1 AND epoch = $2 FOR UPDATE";
            let standing = connection.query_one(sql, &[&self.partition, &self.epoch])?;
            match standing {
                Some(row) => work(connection, row.get::<_, i64>(0) as u64),
                None => Err(TablesError::Fenced),
            }
        });
        drop(connection);
        unheard
    }
}

impl TableStore for PostgresTables {
    fn applied(&self) -> Result<u64, TablesError> {
        let sql = "SELECT position FROM applied WHERE partition = $1 AND epoch = $2";
        let found = self.pool.read(|connection| connection.query_one(sql, &[&self.partition, &self.epoch]))?;
        found.map(|row| row.get::<_, i64>(0) as u64).ok_or(TablesError::Fenced)
    }

    fn live_rows(&self, each: &mut dyn FnMut(Op<'_>)) -> Result<(), TablesError> {
        // Not read again if the connection is cut: what was shown once is not shown twice.
        let mut connection = self.pool.lend()?;
        for table in Table::ALL {
            let Some(query) = schema::live_query(table) else { continue };
            connection.each(&query, &[&self.partition], &mut |row| {
                each(Op { table, key: row.get(0), body: Some(row.get(1)) });
            })?;
        }
        Ok(())
    }

    fn apply(&mut self, batches: &[Arc<Batch>]) -> Result<Applied, TablesError> {
        self.fenced(|connection, standing| {
            let (applied, folded) = fold(batches, standing)?;
            if applied.position != standing {
                let mut all = apply::write(self.partition, folded)?;
                let sql = "UPDATE applied SET position = $2 WHERE partition = $1".to_owned();
                all.push(Later { sql, params: vec![Box::new(self.partition), Box::new(applied.position as i64)] });
                connection.all(&all)?;
            }
            Ok(applied)
        })
    }

    fn linger(&self) -> Linger {
        LINGER
    }

    fn checkpoint(&mut self) -> Result<(), TablesError> {
        // Each transaction was durable when it was answered.
        Ok(())
    }

    fn sweep(
        &mut self,
        now: Ms,
        retention: Retention,
        sweep: &mut Sweep,
        rows_max: usize,
    ) -> Result<Swept, TablesError> {
        // On a copy: after an error nothing was removed, and it is swept again from where it stood.
        let mut moved = sweep.clone();
        let swept = self.fenced(|connection, _| {
            let mut rows = Sweeping::new(connection, self.partition);
            let swept = retention::sweep(&mut rows, now, retention, &mut moved, rows_max)?;
            rows.finish()?;
            Ok(swept)
        })?;
        *sweep = moved;
        Ok(swept)
    }
}
