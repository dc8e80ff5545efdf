//! Writing folded batches: for each table one statement that puts and one that deletes, given arrays.

use mainspring_core::Table;
use mainspring_core::row::{self, DocumentRow, EventRow, MessageRow, MessageState, Row, RunRow};
use mainspring_store::TablesError;
use mainspring_store::tables::{Folded, name_of};
use tokio_postgres::types::ToSql;

use crate::link::Later;
use crate::schema;

/// What is written to one table.
#[derive(Default)]
struct Writes<'a> {
    deleted: Vec<&'a [u8]>,
    keys: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
}

/// What writes what batches come to, within a transaction.
pub(crate) fn write(partition: i32, folded: Folded<'_>) -> Result<Vec<Later<'_>>, TablesError> {
    let mut all = Vec::new();
    let mut rows = folded.into_iter().peekable();
    while let Some(&((table, _), _)) = rows.peek() {
        let mut writes = Writes::default();
        while let Some(((_, key), body)) = rows.next_if(|((next, _), _)| *next == table) {
            match body {
                Some(body) => {
                    writes.keys.push(key);
                    writes.bodies.push(body);
                }
                None => writes.deleted.push(key),
            }
        }
        if !writes.deleted.is_empty() {
            all.push(delete(partition, table, writes.deleted));
        }
        if !writes.keys.is_empty() {
            let further = further(table, &writes.bodies)?;
            let mut params: Vec<Box<dyn ToSql + Sync>> =
                vec![Box::new(partition), Box::new(writes.keys), Box::new(writes.bodies)];
            params.extend(further);
            all.push(Later { sql: put_statement(table), params });
        }
    }
    Ok(all)
}

/// What deletes rows by their keys.
pub(crate) fn delete<'a, K: ToSql + Sync + 'a>(partition: i32, table: Table, keys: Vec<K>) -> Later<'a> {
    let sql = format!("DELETE FROM {} WHERE partition = $1 AND key = ANY($2)", name_of(table));
    Later { sql, params: vec![Box::new(partition), Box::new(keys)] }
}

/// The further columns of rows, each as an array, in their order.
fn further(table: Table, bodies: &[&[u8]]) -> Result<Vec<Box<dyn ToSql + Sync>>, TablesError> {
    Ok(match table {
        Table::Run => {
            let rows: Vec<RunRow> = decoded(table, bodies)?;
            vec![
                column(&rows, |run| text(&run.workflow)),
                column(&rows, |run| run.state.word()),
                column(&rows, |run| run.key.as_deref().map(text)),
                column(&rows, |run| run.created_at as i64),
                column(&rows, |run| run.finished_at.map(|at| at as i64)),
                column(&rows, |run| !run.state.ended()),
            ]
        }
        Table::Message => {
            let rows: Vec<MessageRow> = decoded(table, bodies)?;
            vec![
                column(&rows, |message| message.accepted_at as i64),
                column(&rows, |message| !matches!(message.state, MessageState::Done { .. })),
            ]
        }
        Table::Event => {
            let rows: Vec<EventRow> = decoded(table, bodies)?;
            vec![column(&rows, |event| text(&event.name)), column(&rows, |event| event.at as i64)]
        }
        Table::Document | Table::Revision => {
            let rows: Vec<DocumentRow> = decoded(table, bodies)?;
            vec![column(&rows, |row| row.expires_at.map(|at| at as i64))]
        }
        Table::Meta
        | Table::Tenant
        | Table::Workflow
        | Table::Task
        | Table::Journal
        | Table::Inbox
        | Table::Idempotency
        | Table::Token
        | Table::Payload
        | Table::Worker
        | Table::Rate
        | Table::Child
        | Table::Log
        | Table::Stream
        | Table::StreamPart
        | Table::StreamEntry
        | Table::StreamEntryId
        | Table::StreamGroup
        | Table::StreamProgress
        | Table::Pending => Vec::new(),
    })
}

fn column<R, T: ToSql + Sync + 'static>(rows: &[R], of: impl Fn(&R) -> T) -> Box<dyn ToSql + Sync> {
    Box::new(rows.iter().map(of).collect::<Vec<T>>())
}

/// Puts rows given as arrays: keys, bodies, then the further columns in their order.
fn put_statement(table: Table) -> String {
    let (mut arrays, mut names, mut sets) = (String::new(), String::new(), String::new());
    for (nth, (column, of)) in schema::columns(table).iter().enumerate() {
        let of = of.trim_end_matches(" NOT NULL");
        arrays.push_str(&format!(", ${}::{of}[]", nth + 4));
        names.push_str(&format!(", {column}"));
        sets.push_str(&format!(", {column} = excluded.{column}"));
    }
    format!(
        "INSERT INTO {} (partition, key, body{names}) \
         SELECT $1::int, n.* FROM unnest($2::bytea[], $3::bytea[]{arrays}) AS n(key, body{names}) \
         ON CONFLICT (partition, key) DO UPDATE SET body = excluded.body{sets}",
        name_of(table)
    )
}

fn decoded<T: Row>(table: Table, bodies: &[&[u8]]) -> Result<Vec<T>, TablesError> {
    bodies.iter().map(|body| row::decode(body).map_err(|source| TablesError::Row { table, source })).collect()
}

/// A text as a column can hold it: PostgreSQL has no text with a zero byte. The body has it as it is.
pub(crate) fn text(of: &str) -> String {
    of.replace('\0', "\u{fffd}")
}
