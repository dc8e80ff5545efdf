//! Rows are read ahead of whoever makes a core of them, each on a core of the processor: with a million runs that wait,
//! either takes seconds.

use std::sync::mpsc::sync_channel;

use mainspring_core::recover::Recovery;
use mainspring_core::write::Op;
use mainspring_core::{Core, Table};
use mainspring_store::TableStore;

use crate::engine::OpenError;

/// Bytes of rows that are handed over together.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that may wait.
const CHUNKS_MAX: usize = 16;

/// Rows, one after the other.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Of each row the table, and where its key and its body end.
    rows: Vec<(Table, usize, usize)>,
}

impl Chunk {
    fn add(&mut self, table: Table, key: &[u8], body: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_ends = self.bytes.len();
        self.bytes.extend_from_slice(body);
        self.rows.push((table, key_ends, self.bytes.len()));
    }

    fn rows(&self) -> impl Iterator<Item = (Table, &[u8], &[u8])> {
        let begins = std::iter::once(0).chain(self.rows.iter().map(|(_, _, ends)| *ends));
        begins.zip(&self.rows).map(|(from, (table, key_ends, ends))| {
            (*table, &self.bytes[from..*key_ends], &self.bytes[*key_ends..*ends])
        })
    }
}

/// A core of the live rows, and of the log's tail, which the recovery has been told.
pub(crate) fn recover(tables: &dyn TableStore, mut recovery: Recovery) -> Result<Core, OpenError> {
    let (full, chunks) = sync_channel::<Chunk>(CHUNKS_MAX);
    std::thread::scope(|scope| {
        let making = scope.spawn(move || {
            for chunk in chunks {
                for (table, key, body) in chunk.rows() {
                    recovery.row(table, key, body)?;
                }
            }
            recovery.finish()
        });
        let mut chunk = Chunk::default();
        let mut hand_over = |op: Op<'_>| {
            let Some(body) = op.body else { return };
            chunk.add(op.table, op.key, body);
            if chunk.bytes.len() >= CHUNK_BYTES {
                // Whoever takes them may have found one that can't be read, and says so in the end.
                let _ = full.send(std::mem::take(&mut chunk));
            }
        };
        let read = tables.live_rows(&mut hand_over);
        let _ = full.send(chunk);
        drop(full);
        let made = making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read?;
        Ok(made?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_of_a_chunk_as_they_went_in() {
        let rows: [(Table, &[u8], &[u8]); 4] = [
            (Table::Meta, b"partition", b"now"),
            (Table::Run, b"", b""),
            (Table::Run, b"a", b""),
            (Table::Task, b"", b"b"),
        ];
        let mut chunk = Chunk::default();
        for (table, key, body) in rows {
            chunk.add(table, key, body);
        }
        assert_eq!(chunk.rows().collect::<Vec<_>>(), rows);
        assert_eq!(Chunk::default().rows().count(), 0);
    }
}
