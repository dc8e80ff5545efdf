//! What the tables hold of rows that are read again and again, so that they need not be asked each time.
//!
//! Only documents: a turn reads half a dozen, most of which are as they were, and where the tables are in a database each
//! would be a question to it. What is here is as the tables have it, because every write to a row passes the index on its
//! way to them, and is noted here when it leaves it.

use std::collections::HashMap;
use std::mem;

use mainspring_core::Table;

/// Bytes kept, for each partition.
const BYTES_MAX: usize = 2 << 20;
/// A row that is larger is not kept.
const ROW_BYTES_MAX: usize = 32 << 10;
/// What a row costs beside its key and body.
const OVERHEAD: usize = 96;

/// Rows of the tables by key; of a row that is not there, that it is not. Two halves: whatever is asked for is in the
/// younger one, and when that is full, the older one is let go.
#[derive(Debug, Default)]
pub(super) struct Known {
    young: HashMap<Vec<u8>, Option<Vec<u8>>>,
    young_bytes: usize,
    old: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

fn bytes_of(key: &[u8], body: Option<&Vec<u8>>) -> usize {
    OVERHEAD + key.len() + body.map_or(0, Vec::len)
}

impl Known {
    /// Whether rows of this table are kept at all.
    pub(super) fn keeps(table: Table) -> bool {
        table == Table::Document
    }

    pub(super) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// The row as the tables have it, if that is known.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        if let Some(body) = self.young.get(key) {
            return Some(body.clone());
        }
        let body = self.old.remove(key)?;
        self.put(key, body.clone());
        Some(body)
    }

    /// Keeps a row that was read in the tables.
    pub(super) fn put(&mut self, key: &[u8], body: Option<Vec<u8>>) {
        self.remove(key);
        let bytes = bytes_of(key, body.as_ref());
        if bytes > ROW_BYTES_MAX {
            return;
        }
        if self.young_bytes + bytes > BYTES_MAX / 2 {
            self.old = mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key.to_vec(), body);
    }

    /// The tables have this now. Kept only if the row was asked for before.
    pub(super) fn refresh(&mut self, key: &[u8], body: Option<Vec<u8>>) {
        if self.young.contains_key(key) || self.old.contains_key(key) {
            self.put(key, body);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        self.old.remove(key);
        if let Some(body) = self.young.remove(key) {
            self.young_bytes -= bytes_of(key, body.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let mut known = Known::default();
        let body = vec![7; 1_000];
        known.put(b"wanted", Some(body.clone()));
        known.put(b"absent", None);
        for nth in 0..10_000_u32 {
            known.put(&nth.to_be_bytes(), Some(body.clone()));
            if nth % 100 == 0 {
                assert_eq!(known.get(b"wanted"), Some(Some(body.clone())));
                assert_eq!(known.get(b"absent"), Some(None));
            }
        }
        assert_eq!(known.get(&0_u32.to_be_bytes()), None);
        assert_eq!(known.get(&9_999_u32.to_be_bytes()), Some(Some(body.clone())));
        let kept: usize = [&known.young, &known.old]
            .iter()
            .flat_map(|half| half.iter())
            .map(|(key, body)| bytes_of(key, body.as_ref()))
            .sum();
        assert!(kept <= BYTES_MAX, "{kept}");
    }

    #[test]
    fn a_row_that_grows_too_large_is_not_kept_as_it_was() {
        let mut known = Known::default();
        known.put(b"key", Some(vec![1]));
        known.refresh(b"key", Some(vec![2; ROW_BYTES_MAX]));
        assert_eq!(known.get(b"key"), None);
        known.refresh(b"other", Some(vec![3]));
        assert_eq!(known.get(b"other"), None, "nobody asked for it");
        assert_eq!(known.young_bytes, 0);
    }
}
