//! Entries of streams leave the tables when they are old enough and every group has acknowledged them.

use mainspring_core::Table;
use mainspring_core::id::{Ms, TenantId};
use mainspring_core::row::{self, Row, StreamEntryRow, StreamGroupRow, StreamProgressRow, StreamRow};
use mainspring_core::stream::Place as EntryPlace;
use rusqlite::{Transaction, params};

use super::{Place, execute};
use crate::tables::name_of;

/// Entries looked at for each row a step may look at: they come many at a time, and whole ranges of them go at once.
const ENTRIES_PER_ROW: usize = 16;
/// Bytes of entries read in one step.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// A stream as its retention sees it.
struct Kept {
    tenant: TenantId,
    row: StreamRow,
    groups: Vec<(String, StreamGroupRow)>,
}

/// Removes entries, and answers how many. A stream with much to remove is gone on with in the next step.
pub(super) fn sweep_streams(
    transaction: &Transaction<'_>,
    now: Ms,
    place: &mut Place,
    rows_max: usize,
) -> rusqlite::Result<usize> {
    if place.ended {
        return Ok(0);
    }
    let (mut room, mut bytes) = (rows_max.saturating_mul(ENTRIES_PER_ROW), BYTES_MAX);
    let before = room;
    let mut statement =
        transaction.prepare_cached("SELECT key, body FROM streams WHERE key > ?1 ORDER BY key LIMIT ?2")?;
    let mut rows = statement.query(params![place.after, rows_max as i64])?;
    let mut examined = 0;
    while let Some(row) = rows.next()? {
        examined += 1;
        let (key, body): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let kept = kept(transaction, &key, &body)?;
        if let Some(kept) = kept {
            trim(transaction, &kept, now, &mut room, &mut bytes)?;
        }
        if room == 0 || bytes == 0 {
            return Ok(before - room);
        }
        place.after = key;
    }
    place.looked_at(examined, rows_max);
    Ok(before - room)
}

/// A stream with its groups. `None` if something of it can't be read: then all of it is kept.
fn kept(transaction: &Transaction<'_>, key: &[u8], body: &[u8]) -> rusqlite::Result<Option<Kept>> {
    let (Some(tenant), Ok(row)) = (row::key::tenant_of(key), row::decode::<StreamRow>(body)) else { return Ok(None) };
    let prefix = row::key::stream_group(tenant, row.number, "");
    let mut groups = Vec::new();
    for (key, body) in rows_of(transaction, Table::StreamGroup, &prefix)? {
        let (Some(name), Some(group)) = (row::key::stream_group_of(&key), decoded(&body)) else { return Ok(None) };
        groups.push((name.to_owned(), group));
    }
    Ok(Some(Kept { tenant, row, groups }))
}

fn trim(
    transaction: &Transaction<'_>,
    kept: &Kept,
    now: Ms,
    room: &mut usize,
    bytes: &mut usize,
) -> rusqlite::Result<()> {
    let cutoff = now.saturating_sub(kept.row.keep_ms);
    let prefix = row::key::stream_group(kept.tenant, kept.row.number, "");
    for (key, _) in rows_of(transaction, Table::StreamPart, &prefix)? {
        let Some((generation, partition)) = row::key::stream_part_of(&key) else { continue };
        let floor = floor(transaction, kept, generation, partition)?;
        let of = |seq| row::key::stream_entry(kept.tenant, kept.row.number, EntryPlace { generation, partition, seq });
        let mut statement = transaction.prepare_cached(
            "SELECT key, body FROM stream_entries WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3",
        )?;
        let mut rows = statement.query(params![of(0), of(floor), *room as i64])?;
        let (mut last, mut ids) = (None, Vec::new());
        while let Some(row) = rows.next()? {
            let (key, body): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
            // One that can't be read is kept, and so is what follows it.
            let Some(entry) = decoded::<StreamEntryRow>(&body).filter(|entry| entry.at < cutoff) else { break };
            ids.extend(entry.id.filter(|_| entry.dead.is_none()));
            *room -= 1;
            *bytes = bytes.saturating_sub(body.len());
            last = Some(key);
            if *bytes == 0 {
                break;
            }
        }
        let Some(last) = last else { continue };
        let mut delete = transaction.prepare_cached("DELETE FROM stream_entries WHERE key >= ?1 AND key <= ?2")?;
        delete.execute(params![of(0), last])?;
        for id in ids {
            let key = row::key::stream_entry_id(kept.tenant, kept.row.number, &id);
            execute(transaction, "DELETE FROM stream_entry_ids WHERE key = ?1", &key)?;
        }
        if *room == 0 || *bytes == 0 {
            break;
        }
    }
    Ok(())
}

/// The first entry of a partition that some group has not acknowledged. The tables are behind what was decided, never
/// before it, so nothing is taken that is still to be read.
fn floor(transaction: &Transaction<'_>, kept: &Kept, generation: u32, partition: u16) -> rusqlite::Result<u64> {
    let mut floor = u64::MAX;
    for (name, group) in &kept.groups {
        if generation < group.generation {
            continue;
        }
        if generation > group.generation {
            return Ok(0);
        }
        let key = row::key::stream_progress(kept.tenant, kept.row.number, generation, partition, name);
        let mut statement = transaction.prepare_cached("SELECT body FROM stream_progress WHERE key = ?1")?;
        let body: Option<Vec<u8>> = statement.query_map(params![key], |row| row.get(0))?.next().transpose()?;
        let progress = body.and_then(|body| decoded::<StreamProgressRow>(&body));
        floor = floor.min(progress.map_or(0, |progress| progress.floor));
    }
    Ok(floor)
}

fn decoded<T: Row>(body: &[u8]) -> Option<T> {
    row::decode(body).ok()
}

/// All rows whose key begins with `prefix`.
fn rows_of(transaction: &Transaction<'_>, table: Table, prefix: &[u8]) -> rusqlite::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let sql = format!("SELECT key, body FROM {} WHERE key >= ?1 AND key < ?2", name_of(table));
    let mut statement = transaction.prepare_cached(&sql)?;
    let rows =
        statement.query_map(params![prefix, crate::backend::end_of(prefix)], |row| Ok((row.get(0)?, row.get(1)?)));
    rows?.collect()
}
