//! What a sweep asks of these tables: reads at once, deletes gathered and done with arrays.

use std::collections::BTreeMap;
use std::mem;

use mainspring_core::Table;
use mainspring_core::id::Ms;
use mainspring_store::TablesError;
use mainspring_store::reader::RawRows;
use mainspring_store::retention::{Looked, Sweepable};
use mainspring_store::tables::name_of;

use crate::apply;
use crate::link::{Connection, Later};
use crate::rows::{limit_of, raw};

/// First keys, and the first keys beyond, of ranges.
type Ranges = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// A partition's tables within a transaction that sweeps.
pub(crate) struct Sweeping<'a> {
    connection: &'a mut Connection,
    partition: i32,
    keys: BTreeMap<Table, Vec<Vec<u8>>>,
    ranges: BTreeMap<Table, Ranges>,
}

impl<'a> Sweeping<'a> {
    pub(crate) fn new(connection: &'a mut Connection, partition: i32) -> Self {
        Sweeping { connection, partition, keys: BTreeMap::new(), ranges: BTreeMap::new() }
    }

    /// Deletes what was gathered.
    pub(crate) fn finish(&mut self) -> Result<(), TablesError> {
        let mut all = Vec::new();
        for (table, keys) in mem::take(&mut self.keys) {
            all.push(apply::delete(self.partition, table, keys));
        }
        for (table, (from, to)) in mem::take(&mut self.ranges) {
            let sql = format!(
                "DELETE FROM {} t USING unnest($2::bytea[], $3::bytea[]) AS r(first, beyond) \
                 WHERE t.partition = $1 AND t.key >= r.first AND t.key < r.beyond",
                name_of(table)
            );
            all.push(Later { sql, params: vec![Box::new(self.partition), Box::new(from), Box::new(to)] });
        }
        Ok(self.connection.all(&all)?)
    }
}

impl Sweepable for Sweeping<'_> {
    type Error = TablesError;

    fn after(
        &mut self,
        table: Table,
        key: &[u8],
        bodies_before: Ms,
        rows_max: usize,
    ) -> Result<Vec<Looked>, TablesError> {
        // What is gathered must not be seen again.
        self.finish()?;
        let at = mainspring_store::retention::time_column(table);
        let sql = format!(
            "SELECT key, {at}, CASE WHEN {at} < $3 THEN body END FROM {} WHERE partition = $1 AND key > $2 \
             ORDER BY key LIMIT $4",
            name_of(table)
        );
        let bodies_before = i64::try_from(bodies_before).unwrap_or(i64::MAX);
        let rows = self.connection.query(&sql, &[&self.partition, &key, &bodies_before, &limit_of(rows_max)])?;
        let looked = |row: &tokio_postgres::Row| Looked {
            key: row.get(0),
            at: row.get::<_, Option<i64>>(1).map(|at| at as u64),
            body: row.get(2),
        };
        Ok(rows.iter().map(looked).collect())
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let sql = format!("SELECT body FROM {} WHERE partition = $1 AND key = $2", name_of(table));
        Ok(self.connection.query_one(&sql, &[&self.partition, &key])?.map(|row| row.get(0)))
    }

    fn range(&mut self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<RawRows, TablesError> {
        let sql = format!(
            "SELECT key, body FROM {} WHERE partition = $1 AND key >= $2 AND key < $3 ORDER BY key LIMIT $4",
            name_of(table)
        );
        Ok(raw(&self.connection.query(&sql, &[&self.partition, &from, &to, &limit_of(rows_max)])?))
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), TablesError> {
        self.keys.entry(table).or_default().push(key.to_vec());
        Ok(())
    }

    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<(), TablesError> {
        let (firsts, beyonds) = self.ranges.entry(table).or_default();
        firsts.push(from.to_vec());
        beyonds.push(to.to_vec());
        Ok(())
    }
}
