//! Reading streams: entries by where they are, the oldest that are kept, and how far groups have come.

use std::collections::BTreeMap;

use mainspring_core::Table;
use mainspring_core::command::StreamOldest;
use mainspring_core::id::TenantId;
use mainspring_core::row::{self, StreamEntryRow, StreamPartRow};
use mainspring_core::stream::{Place, Span};

use super::{Reader, decode};
use crate::backend::Range;
use crate::tables::TablesError;

/// Entries read from the tables at once: each may have hundreds of kilobytes.
const AT_ONCE: usize = 256;

impl Reader {
    /// The entries of a span that are kept, in order, and no more after those that together have `bytes_max`. Shows
    /// everything that is durable.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn stream_entries(
        &self,
        tenant: TenantId,
        stream: u32,
        span: Span,
        bytes_max: usize,
    ) -> Result<Vec<(Place, StreamEntryRow)>, TablesError> {
        let Span { generation, partition, from, to } = span;
        let place = |seq| Place { generation, partition, seq };
        let key = |seq| row::key::stream_entry(tenant, stream, place(seq));
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, from);
        while next < to && bytes < bytes_max {
            let end = to.min(next.saturating_add(AT_ONCE as u64));
            let (first, last) = (key(next), key(end));
            // In this order: an entry that moves from one to the other is then seen twice, and never missed.
            let waiting = self.unapplied.between(Table::StreamEntry, &first, &last);
            let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = if waiting.len() as u64 == end - next {
                BTreeMap::new()
            } else {
                let range =
                    Range { table: Table::StreamEntry, from: &first, to: &last, descending: false, limit: AT_ONCE };
                self.rows.range(range)?.into_iter().collect()
            };
            rows.extend(waiting.into_iter().filter_map(|(key, body)| Some((key, body?))));
            for (key, body) in rows {
                if bytes >= bytes_max {
                    break;
                }
                let Some(place) = row::key::stream_place_of(&key) else { continue };
                bytes += body.len();
                entries.push((place, decode(Table::StreamEntry, &body)?));
            }
            next = end;
        }
        Ok(entries)
    }

    /// The first entry of a partition from a number on that is kept.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn stream_first(
        &self,
        tenant: TenantId,
        stream: u32,
        from: Place,
    ) -> Result<Option<(Place, StreamEntryRow)>, TablesError> {
        let key = |seq| row::key::stream_entry(tenant, stream, Place { seq, ..from });
        let (first, last) = (key(from.seq), key(u64::MAX));
        let waiting = self.unapplied.first_between(Table::StreamEntry, &first, &last);
        let range = Range { table: Table::StreamEntry, from: &first, to: &last, descending: false, limit: 1 };
        let kept = self.rows.range(range)?.pop();
        let found = kept.into_iter().chain(waiting).min_by(|(a, _), (b, _)| a.cmp(b));
        let Some((key, body)) = found else { return Ok(None) };
        let Some(place) = row::key::stream_place_of(&key) else { return Ok(None) };
        Ok(Some((place, decode(Table::StreamEntry, &body)?)))
    }

    /// The number the next entry gets, of each partition that has any: generation, partition, number.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn stream_heads(&self, tenant: TenantId, stream: u32) -> Result<Vec<(u32, u16, u64)>, TablesError> {
        let parts = self.prefixed(Table::StreamPart, &row::key::stream_group(tenant, stream, ""))?;
        let head = |(key, body): (Vec<u8>, Vec<u8>)| {
            let (generation, partition) = row::key::stream_part_of(&key)?;
            Some(decode::<StreamPartRow>(Table::StreamPart, &body).map(|part| (generation, partition, part.next)))
        };
        parts.into_iter().filter_map(head).collect()
    }

    /// The number of the oldest entry that is kept in each partition that ever had any: of one that has none left, the
    /// next.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn stream_oldest(&self, tenant: TenantId, stream: u32) -> Result<StreamOldest, TablesError> {
        let heads = self.stream_heads(tenant, stream)?;
        let mut oldest = Vec::with_capacity(heads.len());
        for (generation, partition, next) in heads {
            let first = self.stream_first(tenant, stream, Place { generation, partition, seq: 0 })?;
            oldest.push(((generation, partition), first.map_or(next, |(place, _)| place.seq)));
        }
        Ok(oldest)
    }
}
