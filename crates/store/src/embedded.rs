//! The embedded store: one directory with, for each partition, a log of segment files and tables in SQLite.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{OpenTables, PartitionLog, Store, StoreError};
use crate::log::{Log, LogError, LogOptions, Position};
use crate::moving;
use crate::tables::{SqliteRows, SqliteTables, TablesError};

/// A store in a directory. Opened by one process at a time: each log's lock sees to that.
#[derive(Debug, Clone)]
pub struct Embedded {
    dir: PathBuf,
    log: LogOptions,
}

impl Embedded {
    /// The store in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>, log: LogOptions) -> Self {
        Embedded { dir: dir.into(), log }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn partition_dir(&self, partition: u16) -> PathBuf {
        self.dir.join(format!("p{partition}"))
    }

    pub(crate) fn tables_path(&self, partition: u16) -> PathBuf {
        self.partition_dir(partition).join("tables.sqlite")
    }

    /// How many partitions there are, whatever a move has noted; creates that many in a store that is new.
    pub(crate) fn count(&self, wanted: u16) -> Result<u16, StoreError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Dir { path, source }
        };
        let dir = self.dir.as_path();
        fs::create_dir_all(dir).map_err(fail(dir))?;
        let path = dir.join("partitions");
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse::<u16>() {
                Ok(count) if count > 0 => Ok(count),
                _ => Err(StoreError::Partitions { path, found: text }),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let count = wanted.max(1);
                let draft = dir.join("partitions.tmp");
                fs::write(&draft, format!("{count}\n")).map_err(fail(&draft))?;
                fs::File::open(&draft).and_then(|file| file.sync_all()).map_err(fail(&draft))?;
                fs::rename(&draft, &path).map_err(fail(&path))?;
                fs::File::open(dir).and_then(|file| file.sync_all()).map_err(fail(dir))?;
                Ok(count)
            }
            Err(source) => Err(StoreError::Dir { path, source }),
        }
    }
}

impl Store for Embedded {
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError> {
        match moving::note_in(&self.dir)? {
            Some(note) => Err(StoreError::Unusable { cause: note.refusal(&self.dir.display().to_string()) }),
            None => self.count(wanted),
        }
    }

    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError> {
        let dir = self.partition_dir(partition);
        let made = fs::create_dir_all(&dir).and_then(|()| fs::File::open(&self.dir)?.sync_all());
        made.map_err(|source| TablesError::Dir { path: dir.clone(), source })?;
        let path = self.tables_path(partition);
        let tables = SqliteTables::open(&path)?;
        Ok((Box::new(tables), Arc::new(SqliteRows::new(path))))
    }

    fn open_log(
        &self,
        partition: u16,
        chance: u64,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Box<dyn PartitionLog>, LogError> {
        let options = LogOptions { salt_seed: chance, ..self.log.clone() };
        let (log, mut tail) = Log::open(&self.partition_dir(partition).join("log"), partition, options, from)?;
        if let Some(torn) = &tail.torn_tail {
            tracing::info!(?torn, "the log ended in a write cut short by a crash; what was never acknowledged was cut");
        }
        tail.replay(|position, bytes| {
            visit(position, bytes);
            Ok::<(), LogError>(())
        })?;
        Ok(Box::new(log))
    }
}

impl PartitionLog for Log {
    fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        Log::append(self, parts)
    }

    fn settle(&mut self) -> Result<Option<Position>, LogError> {
        // Its outcome is never unknown: a failed write poisons it, and the next opening finds out.
        Err(LogError::Poisoned { cause: "a batch's outcome was asked for that was never unknown".to_owned() })
    }

    fn remove_up_to(&mut self, contained: Position) -> Result<(), LogError> {
        Log::remove_up_to(self, contained).map(|_| ())
    }

    fn next(&self) -> Position {
        self.stats().next
    }
}
