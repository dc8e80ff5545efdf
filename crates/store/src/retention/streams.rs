//! Entries of streams leave the tables when they are old enough and every group has acknowledged them.

use mainspring_core::Table;
use mainspring_core::id::{Ms, TenantId};
use mainspring_core::row::{self, Row, StreamEntryRow, StreamGroupRow, StreamProgressRow, StreamRow};
use mainspring_core::stream::Place as EntryPlace;

use super::{Place, Sweepable};
use crate::backend::end_of;

/// Entries looked at for each row a step may look at: they come many at a time, and whole ranges of them go at once.
const ENTRIES_PER_ROW: usize = 16;
/// Entries read at once: each may have a megabyte.
const ENTRIES_AT_ONCE: usize = 64;
/// Bytes of entries read in one step.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// A stream as its retention sees it.
struct Kept {
    tenant: TenantId,
    row: StreamRow,
    groups: Vec<(String, StreamGroupRow)>,
}

/// Removes entries, and answers how many. A stream with much to remove is gone on with in the next step.
pub(super) fn sweep_streams<S: Sweepable>(
    tables: &mut S,
    now: Ms,
    place: &mut Place,
    rows_max: usize,
) -> Result<usize, S::Error> {
    if place.ended {
        return Ok(0);
    }
    let (mut room, mut bytes) = (rows_max.saturating_mul(ENTRIES_PER_ROW), BYTES_MAX);
    let before = room;
    // The first key after one is that with a zero byte more.
    let from = [place.after.as_slice(), &[0]].concat();
    let streams = tables.range(Table::Stream, &from, &[0xff; 64], rows_max)?;
    let examined = streams.len();
    for (key, body) in streams {
        if let Some(kept) = kept(tables, &key, &body)? {
            trim(tables, &kept, now, &mut room, &mut bytes)?;
        }
        if room == 0 || bytes == 0 {
            return Ok(before - room);
        }
        place.after = key;
    }
    place.ended = examined < rows_max;
    Ok(before - room)
}

/// A stream with its groups. `None` if something of it can't be read: then all of it is kept.
fn kept<S: Sweepable>(tables: &mut S, key: &[u8], body: &[u8]) -> Result<Option<Kept>, S::Error> {
    let (Some(tenant), Ok(row)) = (row::key::tenant_of(key), row::decode::<StreamRow>(body)) else { return Ok(None) };
    let prefix = row::key::stream_group(tenant, row.number, "");
    let mut groups = Vec::new();
    for (key, body) in tables.range(Table::StreamGroup, &prefix, &end_of(&prefix), usize::MAX)? {
        let (Some(name), Some(group)) = (row::key::stream_group_of(&key), decoded(&body)) else { return Ok(None) };
        groups.push((name.to_owned(), group));
    }
    Ok(Some(Kept { tenant, row, groups }))
}

fn trim<S: Sweepable>(
    tables: &mut S,
    kept: &Kept,
    now: Ms,
    room: &mut usize,
    bytes: &mut usize,
) -> Result<(), S::Error> {
    let cutoff = now.saturating_sub(kept.row.keep_ms);
    let prefix = row::key::stream_group(kept.tenant, kept.row.number, "");
    for (key, _) in tables.range(Table::StreamPart, &prefix, &end_of(&prefix), usize::MAX)? {
        let Some((generation, partition)) = row::key::stream_part_of(&key) else { continue };
        let floor = floor(tables, kept, generation, partition)?;
        let of = |seq| row::key::stream_entry(kept.tenant, kept.row.number, EntryPlace { generation, partition, seq });
        let (mut from, mut ended) = (of(0), false);
        // A few at a time, because there is no limit on the bytes of those that are looked at at once.
        while !ended && *room > 0 && *bytes > 0 {
            let rows_max = (*room).min(ENTRIES_AT_ONCE);
            let entries = tables.range(Table::StreamEntry, &from, &of(floor), rows_max)?;
            ended = entries.len() < rows_max;
            let mut beyond = None;
            for (key, body) in entries {
                // One that can't be read is kept, and so is what follows it.
                let Some(entry) = decoded::<StreamEntryRow>(&body).filter(|entry| entry.at < cutoff) else {
                    ended = true;
                    break;
                };
                if let Some(id) = entry.id.filter(|_| entry.dead.is_none()) {
                    let key = row::key::stream_entry_id(kept.tenant, kept.row.number, &id);
                    tables.delete(Table::StreamEntryId, &key)?;
                }
                *room -= 1;
                *bytes = bytes.saturating_sub(body.len());
                beyond = Some([key.as_slice(), &[0]].concat());
                if *bytes == 0 {
                    break;
                }
            }
            let Some(beyond) = beyond else { break };
            tables.delete_range(Table::StreamEntry, &from, &beyond)?;
            from = beyond;
        }
        if *room == 0 || *bytes == 0 {
            break;
        }
    }
    Ok(())
}

/// The first entry of a partition that some group has not acknowledged. The tables are behind what was decided, never
/// before it, so nothing is taken that is still to be read.
fn floor<S: Sweepable>(tables: &mut S, kept: &Kept, generation: u32, partition: u16) -> Result<u64, S::Error> {
    let mut floor = u64::MAX;
    for (name, group) in &kept.groups {
        if generation < group.generation {
            continue;
        }
        if generation > group.generation {
            return Ok(0);
        }
        let key = row::key::stream_progress(kept.tenant, kept.row.number, generation, partition, name);
        let progress = tables.get(Table::StreamProgress, &key)?;
        let progress = progress.and_then(|body| decoded::<StreamProgressRow>(&body));
        floor = floor.min(progress.map_or(0, |progress| progress.floor));
    }
    Ok(floor)
}

fn decoded<T: Row>(body: &[u8]) -> Option<T> {
    row::decode(body).ok()
}
