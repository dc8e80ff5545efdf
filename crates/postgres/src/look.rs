//! Looking at a store from outside: what a partition's rows are and where they stand, without taking it from anybody.

use std::sync::Arc;

use mainspring_store::{Rows, TablesError};

use crate::rows::PostgresRows;
use crate::store::Postgres;

impl Postgres {
    /// A way to read a partition's tables, whoever owns it.
    pub fn rows(&self, partition: u16) -> Arc<dyn Rows> {
        Arc::new(PostgresRows::new(self.table_pool.clone(), partition))
    }

    /// The log position a partition's tables stand at, whoever owns it.
    ///
    /// # Errors
    /// [`TablesError`], also for a partition that there is not.
    pub fn standing(&self, partition: u16) -> Result<u64, TablesError> {
        let number = i32::from(partition);
        let sql = "SELECT position FROM applied WHERE partition = $1";
        let found = self.table_pool.read(|connection| connection.query_one(sql, &[&number]))?;
        let missing = || TablesError::Unusable { cause: format!("there is no partition {partition}") };
        found.map(|row| row.get::<_, i64>(0) as u64).ok_or_else(missing)
    }
}
