//! How a store in PostgreSQL is moved: notes are a row, and rows are put with arrays, fenced like an application.

use std::sync::Arc;

use mainspring_core::Table;
use mainspring_store::moving::{Filling, Movable, Note};
use mainspring_store::reader::RawRows;
use mainspring_store::tables::name_of;
use mainspring_store::{Rows, StoreError, TablesError};

use crate::apply;
use crate::link::Connection;
use crate::nodes::ALIVE;
use crate::schema;
use crate::store::{Postgres, claim};
use crate::tables::PostgresTables;
use crate::trouble::Trouble;

impl Postgres {
    /// Brings the schema up to date, creating it with so many partitions if there is none, and answers its version before
    /// and after, and how many partitions there are.
    ///
    /// # Errors
    /// [`StoreError`], as [`mainspring_store::Store::partitions`] has it.
    pub fn migrate(&self, wanted: u16) -> Result<(i32, i32, u16), StoreError> {
        let mut connection = self.table_pool.lend()?;
        let before = schema::version(&mut connection)?;
        let partitions = self.prepare(&mut connection, wanted)?;
        Ok((before, schema::version(&mut connection)?, partitions))
    }

    fn prepare(&self, connection: &mut Connection, wanted: u16) -> Result<u16, StoreError> {
        schema::prepare(connection, &self.options.schema, &self.options.cluster, wanted)
    }
}

/// What a move has noted in the schema of this connection.
pub(crate) fn note_in(connection: &mut Connection) -> Result<Option<Note>, StoreError> {
    if !has(connection, "moves")? {
        return Ok(None);
    }
    let Some(row) = connection.query_one("SELECT note FROM moves WHERE id = 0", &[])? else { return Ok(None) };
    let damaged = || StoreError::Unusable { cause: "what a move noted in the database is damaged".to_owned() };
    Note::read(row.get(0)).map(Some).ok_or_else(damaged)
}

fn has(connection: &mut Connection, table: &str) -> Result<bool, Trouble> {
    let found = connection.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])?;
    Ok(found.is_some_and(|row| row.get(0)))
}

impl Movable for Postgres {
    fn name(&self) -> String {
        self.options.name()
    }

    fn note(&self) -> Result<Option<Note>, StoreError> {
        note_in(&mut *self.table_pool.lend()?)
    }

    fn set_note(&self, note: Option<&Note>) -> Result<(), StoreError> {
        let mut connection = self.table_pool.lend()?;
        match note {
            Some(note) => {
                let sql = "INSERT INTO moves (id, note) VALUES (0, $1) ON CONFLICT (id) DO UPDATE SET note = $1";
                connection.execute(sql, &[&note.write()])?;
            }
            None => {
                connection.execute("DELETE FROM moves", &[])?;
            }
        }
        Ok(())
    }

    fn kept(&self) -> Result<Option<u16>, StoreError> {
        let mut connection = self.table_pool.lend()?;
        // Also whether it may be used at all: what is not there yet has no version.
        if !has(&mut connection, "cluster")? { Ok(None) } else { self.prepare(&mut connection, 1).map(Some) }
    }

    fn create(&self, wanted: u16) -> Result<u16, StoreError> {
        self.prepare(&mut *self.table_pool.lend()?, wanted)
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        let mut connection = self.table_pool.lend()?;
        for name in Table::ALL.map(name_of).into_iter().chain(["batches", "applied WHERE position > 0"]) {
            if connection.query_one(&format!("SELECT 1 FROM {name} LIMIT 1"), &[])?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn clear(&self) -> Result<(), StoreError> {
        let tables: Vec<&str> = Table::ALL.into_iter().map(name_of).chain(["batches"]).collect();
        let mut connection = self.table_pool.lend()?;
        connection.transaction(|connection| {
            connection.run(&format!("TRUNCATE {}", tables.join(", ")))?;
            connection.run("UPDATE applied SET position = 0; UPDATE partitions SET removed = 0, attempt = 0")
        })?;
        Ok(())
    }

    fn served_by(&self) -> Result<Vec<String>, StoreError> {
        let sql = format!("SELECT n.name FROM nodes n WHERE {ALIVE} ORDER BY n.name");
        let nodes = self.table_pool.lend()?.query(&sql, &[])?;
        Ok(nodes.iter().map(|row| format!("the node {}", row.get::<_, &str>(0))).collect())
    }

    fn filling(&self, partition: u16) -> Result<Box<dyn Filling>, TablesError> {
        let epoch = claim(&mut *self.table_pool.lend()?, partition, None)?;
        Ok(Box::new(PostgresTables::new(self.table_pool.clone(), self.apply_pool.clone(), partition, epoch)))
    }

    fn reading(&self, partition: u16) -> Result<Arc<dyn Rows>, TablesError> {
        Ok(self.rows(partition))
    }
}

impl Filling for PostgresTables {
    fn put(&mut self, table: Table, rows: &RawRows) -> Result<(), TablesError> {
        let folded = rows.iter().map(|(key, body)| ((table, key.as_slice()), Some(body.as_slice()))).collect();
        self.fenced(|connection, _| Ok(connection.all(&apply::write(self.partition, folded)?)?))
    }

    fn settle(&mut self) -> Result<(), TablesError> {
        // Each transaction was durable when it was answered.
        Ok(())
    }
}
