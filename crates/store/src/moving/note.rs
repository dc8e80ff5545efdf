//! What a move notes in a store: words, one fact a line, so that a person can read them where they are kept.

use mainspring_core::Table;

use super::Totals;
use crate::tables::name_of;

/// What a move has noted in a store. One that has a note is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// It is being filled.
    Filling {
        /// How far.
        progress: Progress,
    },
    /// It holds everything and was read back; whether its source knows that is not certain yet.
    Filled {
        /// From which store.
        from: String,
        /// What it was filled with.
        totals: Totals,
    },
    /// Everything that was in it is elsewhere.
    Moved {
        /// Where.
        to: String,
    },
}

/// How far a target is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// From which store.
    pub from: String,
    /// Where that one's tables stood, by partition.
    pub standing: Vec<u64>,
    /// The source's partition that is being read.
    pub partition: u16,
    /// The place in [`Table::ALL`] of the table that is being read.
    pub table: usize,
    /// The last key of it that was put.
    pub after: Option<Vec<u8>>,
    /// What was put so far.
    pub totals: Totals,
}

impl Progress {
    /// Nothing was put yet.
    pub fn new(from: String, standing: Vec<u64>) -> Progress {
        Progress { from, standing, partition: 0, table: 0, after: None, totals: Totals::default() }
    }
}

impl Note {
    /// Why a store with this note is not served, and what to do.
    pub fn refusal(&self, name: &str) -> String {
        match self {
            Note::Moved { to } => format!("what was in {name} was moved to {to}: serve that"),
            Note::Filling { progress: Progress { from, .. } } | Note::Filled { from, .. } => format!(
                "the move from {from} to {name} is not complete: finish it with 'mainspring move', or serve {from} and \
                 remove {name}"
            ),
        }
    }

    /// As text.
    pub fn write(&self) -> String {
        match self {
            Note::Moved { to } => format!("moved\nto {to}\n"),
            Note::Filled { from, totals } => format!("filled\nfrom {from}\n{}", write_totals(totals)),
            Note::Filling { progress } => {
                let standing: Vec<String> = progress.standing.iter().map(u64::to_string).collect();
                let after: String = progress.after.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
                format!(
                    "filling\nfrom {}\nstanding {}\npartition {}\ntable {}\nafter {after}\n{}",
                    progress.from,
                    standing.join(","),
                    progress.partition,
                    progress.table,
                    write_totals(&progress.totals),
                )
            }
        }
    }

    /// Read from text, or `None` if it is none.
    pub fn read(text: &str) -> Option<Note> {
        let mut lines = text.lines();
        let kind = lines.next()?;
        let mut word = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        Some(match kind {
            "moved" => Note::Moved { to: word("to")? },
            "filled" => Note::Filled { from: word("from")?, totals: read_totals(lines)? },
            "filling" => {
                let (from, standing) = (word("from")?, word("standing")?);
                let (partition, table, after) = (word("partition")?, word("table")?, word("after")?);
                let standing = standing.split(',').map(|at| at.parse().ok()).collect::<Option<_>>()?;
                let after = (0..after.len() / 2)
                    .map(|nth| u8::from_str_radix(after.get(2 * nth..2 * nth + 2)?, 16).ok())
                    .collect::<Option<Vec<u8>>>()?;
                let after = if after.is_empty() { None } else { Some(after) };
                let (partition, table) = (partition.parse().ok()?, table.parse().ok()?);
                let totals = read_totals(lines)?;
                Note::Filling { progress: Progress { from, standing, partition, table, after, totals } }
            }
            _ => return None,
        })
    }
}

fn write_totals(totals: &Totals) -> String {
    totals.each().map(|(table, rows, hash)| format!("rows {} {rows} {hash:016x}\n", name_of(table))).collect()
}

fn read_totals<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Totals> {
    let mut totals = Totals::default();
    for line in lines {
        let mut words = line.strip_prefix("rows ")?.split(' ');
        let (name, rows, hash) = (words.next()?, words.next()?, words.next()?);
        let table = Table::ALL.into_iter().find(|table| name_of(*table) == name)?;
        totals.set(table, rows.parse().ok()?, u64::from_str_radix(hash, 16).ok()?);
    }
    Some(totals)
}
