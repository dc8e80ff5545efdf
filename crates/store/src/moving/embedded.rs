//! How a store in a directory is moved: notes are a file in it, and rows are put by SQLite itself.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use mainspring_core::Table;

use super::{Filling, Movable, Note};
use crate::backend::{Rows, Store, StoreError};
use crate::embedded::Embedded;
use crate::reader::RawRows;
use crate::tables::{SqliteRows, SqliteTables, TablesError};

/// The file a note is in.
const NOTE: &str = "move";

/// What a move has noted in this directory.
///
/// # Errors
/// [`StoreError`], also for a note that can't be read.
pub(crate) fn note_in(dir: &Path) -> Result<Option<Note>, StoreError> {
    let path = dir.join(NOTE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Dir { path, source }),
    };
    let damaged = || StoreError::Unusable { cause: format!("{} is damaged: restore it from a backup", path.display()) };
    Note::read(&text).map(Some).ok_or_else(damaged)
}

impl Movable for Embedded {
    fn name(&self) -> String {
        let dir = self.dir();
        fs::canonicalize(dir)
            .or_else(|_| std::path::absolute(dir))
            .unwrap_or_else(|_| dir.to_owned())
            .display()
            .to_string()
    }

    fn note(&self) -> Result<Option<Note>, StoreError> {
        note_in(self.dir())
    }

    fn set_note(&self, note: Option<&Note>) -> Result<(), StoreError> {
        let (dir, path) = (self.dir(), self.dir().join(NOTE));
        let draft = dir.join("move.tmp");
        let write = || -> io::Result<()> {
            match note {
                Some(note) => {
                    fs::create_dir_all(dir)?;
                    let mut file = fs::File::create(&draft)?;
                    file.write_all(note.write().as_bytes())?;
                    file.sync_all()?;
                    fs::rename(&draft, &path)?;
                }
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
            }
            fs::File::open(dir)?.sync_all()
        };
        write().map_err(|source| StoreError::Dir { path: path.clone(), source })
    }

    fn kept(&self) -> Result<Option<u16>, StoreError> {
        if self.dir().join("partitions").exists() { self.count(0).map(Some) } else { Ok(None) }
    }

    fn create(&self, wanted: u16) -> Result<u16, StoreError> {
        self.count(wanted)
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        Ok((0..self.kept()?.unwrap_or(0)).all(|partition| !self.partition_dir(partition).exists()))
    }

    fn clear(&self) -> Result<(), StoreError> {
        for partition in 0..self.kept()?.unwrap_or(0) {
            let path = self.partition_dir(partition);
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Dir { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn served_by(&self) -> Result<Vec<String>, StoreError> {
        // Each log's lock says so when it is opened.
        Ok(Vec::new())
    }

    fn filling(&self, partition: u16) -> Result<Box<dyn Filling>, TablesError> {
        self.open_tables(partition)?;
        Ok(Box::new(SqliteTables::open(&self.tables_path(partition))?))
    }

    fn reading(&self, partition: u16) -> Result<Arc<dyn Rows>, TablesError> {
        Ok(Arc::new(SqliteRows::new(self.tables_path(partition))))
    }
}

impl Filling for SqliteTables {
    fn put(&mut self, table: Table, rows: &RawRows) -> Result<(), TablesError> {
        self.write(rows.iter().map(|(key, body)| ((table, key.as_slice()), Some(body.as_slice()))).collect())
    }

    fn settle(&mut self) -> Result<(), TablesError> {
        crate::backend::TableStore::checkpoint(self)
    }
}
