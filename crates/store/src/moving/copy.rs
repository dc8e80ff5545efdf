//! Carrying rows over, page by page, and counting them.

use std::collections::BTreeMap;

use mainspring_core::Table;
use mainspring_core::id::fingerprint;
use mainspring_core::row::{self, MetaRow, key};

use super::{Filling, Movable, MoveError, Note, Place, Progress};
use crate::backend::{Range, Rows};
use crate::reader::RawRows;
use crate::tables::{TablesError, name_of};

/// Bytes of a page, as far as they can be foretold from the page before.
const PAGE_BYTES: usize = 4 << 20;
/// Rows of a page at most, and of a table's first one.
const PAGE_ROWS: (usize, usize) = (10_000, 100);
/// Pages after which the target notes how far it is. Between two notes rows are put again after a kill.
const NOTE_PAGES: u64 = 16;
/// Rows after which it is told how far it is.
const TELL_ROWS: u64 = 250_000;
/// Keys of tables are shorter.
const KEY_END: [u8; 4_096] = [0xff; 4_096];

/// How many rows there are of each table, and a hash of them that does not depend on their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals(BTreeMap<Table, (u64, u64)>);

impl Totals {
    /// Each table that has rows: how many, and their hash.
    pub fn each(&self) -> impl Iterator<Item = (Table, u64, u64)> {
        self.0.iter().map(|(table, (rows, hash))| (*table, *rows, *hash))
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.0.values().map(|(rows, _)| rows).sum()
    }

    pub(super) fn set(&mut self, table: Table, rows: u64, hash: u64) {
        self.0.insert(table, (rows, hash));
    }

    fn add(&mut self, table: Table, key: &[u8], body: &[u8]) {
        let (rows, hash) = self.0.entry(table).or_default();
        *rows += 1;
        // A sum, so that rows may be counted in any order; of mixed hashes, so that none undoes another.
        *hash = hash.wrapping_add(mainspring_core::id::mix(fingerprint([key, body])));
    }

    /// The first table in which others differ from these, in words.
    pub fn difference(&self, others: &Totals) -> Option<String> {
        let tables = self.0.keys().chain(others.0.keys());
        let of = |totals: &Totals, table: Table| totals.0.get(&table).copied().unwrap_or_default();
        let mut differing = tables.filter(|table| of(self, **table) != of(others, **table));
        differing.next().map(|&table| {
            let ((rows, hash), (found, other)) = (of(self, table), of(others, table));
            format!("{} has {found} rows with hash {other:016x}, not {rows} with {hash:016x}", name_of(table))
        })
    }
}

/// Puts every row of the source into the target, from where `progress` stands.
pub(super) fn copy(
    from: &dyn Movable,
    to: &dyn Movable,
    (sources, targets): (u16, u16),
    place: Place,
    mut progress: Progress,
    tell: &mut dyn FnMut(&str),
) -> Result<Totals, MoveError> {
    let mut fillings = (0..targets).map(|partition| to.filling(partition)).collect::<Result<Vec<_>, _>>()?;
    let (mut pages, mut told) = (0_u64, progress.totals.rows());
    while progress.partition < sources {
        let rows = from.reading(progress.partition)?;
        while let Some(&table) = Table::ALL.get(progress.table) {
            // What is each partition's own comes last.
            if table != Table::Meta {
                let mut reading = Paging::new(table, progress.after.take());
                while let Some(page) = reading.next(&*rows)? {
                    put(&mut fillings, table, &page, place)?;
                    page.iter().for_each(|(key, body)| progress.totals.add(table, key, body));
                    progress.after = page.last().map(|(key, _)| key.clone());
                    pages += 1;
                    if pages.is_multiple_of(NOTE_PAGES) {
                        settle(&mut fillings)?;
                        to.set_note(Some(&Note::Filling { progress: progress.clone() }))?;
                    }
                    if progress.totals.rows() - told >= TELL_ROWS {
                        told = progress.totals.rows();
                        tell(&format!("{told} rows, in {} of partition {}", name_of(table), progress.partition));
                    }
                }
            }
            progress.after = None;
            progress.table += 1;
        }
        progress.table = 0;
        progress.partition += 1;
    }
    let meta = metas(from, sources)?;
    for filling in &mut fillings {
        filling.put(Table::Meta, &meta)?;
    }
    settle(&mut fillings)?;
    Ok(progress.totals)
}

/// Counts every row of a store, and holds each to the partition it must be in.
pub(super) fn totals(
    store: &dyn Movable,
    partitions: u16,
    place: Place,
    tell: &mut dyn FnMut(&str),
) -> Result<Totals, MoveError> {
    let (mut totals, mut told) = (Totals::default(), 0);
    for partition in 0..partitions {
        let rows = store.reading(partition)?;
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Meta) {
            let mut reading = Paging::new(table, None);
            while let Some(page) = reading.next(&*rows)? {
                for (key, body) in &page {
                    if target_of(table, key, place, partitions)? != partition {
                        return Err(stray(table));
                    }
                    totals.add(table, key, body);
                }
                if totals.rows() - told >= TELL_ROWS {
                    told = totals.rows();
                    tell(&format!("{told} rows read back"));
                }
            }
        }
    }
    Ok(totals)
}

fn settle(fillings: &mut [Box<dyn Filling>]) -> Result<(), TablesError> {
    fillings.iter_mut().try_for_each(|filling| filling.settle())
}

fn put(fillings: &mut [Box<dyn Filling>], table: Table, page: &RawRows, place: Place) -> Result<(), MoveError> {
    let count = fillings.len() as u16;
    let mut parted: BTreeMap<u16, RawRows> = BTreeMap::new();
    for (key, body) in page {
        let target = target_of(table, key, place, count)?;
        parted.entry(target).or_default().push((key.clone(), body.clone()));
    }
    for (target, rows) in parted {
        fillings[usize::from(target)].put(table, &rows)?;
    }
    Ok(())
}

fn target_of(table: Table, key: &[u8], place: Place, count: u16) -> Result<u16, MoveError> {
    key::tenant_of(key).map(|tenant| place(tenant, count)).ok_or_else(|| stray(table))
}

fn stray(table: Table) -> MoveError {
    MoveError::Refused {
        why: format!("a row of {} belongs to no tenant that lives where it is: report it", name_of(table)),
    }
}

/// What every partition of the target begins with: no time it decided at comes again, nor an event's number.
fn metas(from: &dyn Movable, sources: u16) -> Result<RawRows, MoveError> {
    let mut meta = MetaRow::default();
    for partition in 0..sources {
        let mut page = Paging::new(Table::Meta, None);
        while let Some(rows) = page.next(&*from.reading(partition)?)? {
            for (_, body) in rows {
                let one: MetaRow =
                    row::decode(&body).map_err(|source| TablesError::Row { table: Table::Meta, source })?;
                meta = MetaRow { now: meta.now.max(one.now), event_seq: meta.event_seq.max(one.event_seq) };
            }
        }
    }
    let mut body = Vec::new();
    row::encode(&meta, &mut body);
    Ok(vec![(b"partition".to_vec(), body)])
}

/// Reads a table from a key on, page by page.
struct Paging {
    table: Table,
    after: Option<Vec<u8>>,
    rows_max: usize,
    done: bool,
}

impl Paging {
    fn new(table: Table, after: Option<Vec<u8>>) -> Paging {
        Paging { table, after, rows_max: PAGE_ROWS.1, done: false }
    }

    fn next(&mut self, rows: &dyn Rows) -> Result<Option<RawRows>, TablesError> {
        if self.done {
            return Ok(None);
        }
        // The least key after the last.
        let from = self.after.as_ref().map_or_else(Vec::new, |after| [after.as_slice(), &[0]].concat());
        let range = Range { table: self.table, from: &from, to: &KEY_END, descending: false, limit: self.rows_max };
        let page = rows.range(range)?;
        self.done = page.len() < self.rows_max;
        let bytes: usize = page.iter().map(|(key, body)| key.len() + body.len()).sum();
        if let Some((last, _)) = page.last() {
            self.after = Some(last.clone());
            self.rows_max = (PAGE_BYTES * page.len() / bytes.max(1)).clamp(1, PAGE_ROWS.0);
        }
        Ok(if page.is_empty() { None } else { Some(page) })
    }
}
