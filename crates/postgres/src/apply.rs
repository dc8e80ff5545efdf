//! Writing folded batches: for each table one statement that puts and one that deletes, given arrays.

use mainspring_core::Table;
use mainspring_core::row::{self, DocumentRow, EventRow, MessageRow, MessageState, Row, RunRow};
use mainspring_store::TablesError;
use mainspring_store::tables::{Folded, name_of};

use crate::link::{Connection, Params};
use crate::schema;

/// What is written to one table.
#[derive(Default)]
struct Writes<'a> {
    deleted: Vec<&'a [u8]>,
    keys: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
}

/// Writes what batches come to, within the transaction that is under way.
pub(crate) fn write(connection: &mut Connection, partition: i32, folded: Folded<'_>) -> Result<(), TablesError> {
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
            delete(connection, partition, table, &writes.deleted)?;
        }
        if !writes.keys.is_empty() {
            put(connection, partition, table, &writes)?;
        }
    }
    Ok(())
}

/// Deletes rows by their keys.
pub(crate) fn delete<K: tokio_postgres::types::ToSql + Sync>(
    connection: &mut Connection,
    partition: i32,
    table: Table,
    keys: &[K],
) -> Result<(), TablesError> {
    let sql = format!("DELETE FROM {} WHERE partition = $1 AND key = ANY($2)", name_of(table));
    connection.execute(&sql, &[&partition, &keys])?;
    Ok(())
}

fn put(connection: &mut Connection, partition: i32, table: Table, writes: &Writes<'_>) -> Result<(), TablesError> {
    let sql = put_statement(table);
    let mut put = |more: &Params<'_>| {
        let mut params: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            vec![&partition, &writes.keys, &writes.bodies];
        params.extend(more);
        connection.execute(&sql, &params)
    };
    match table {
        Table::Run => {
            let rows: Vec<RunRow> = decoded(table, &writes.bodies)?;
            let workflow: Vec<String> = rows.iter().map(|run| text(&run.workflow)).collect();
            let state: Vec<&str> = rows.iter().map(|run| run.state.word()).collect();
            let key: Vec<Option<String>> = rows.iter().map(|run| run.key.as_deref().map(text)).collect();
            let created_at: Vec<i64> = rows.iter().map(|run| run.created_at as i64).collect();
            let finished_at: Vec<Option<i64>> = rows.iter().map(|run| run.finished_at.map(|at| at as i64)).collect();
            let live: Vec<bool> = rows.iter().map(|run| !run.state.ended()).collect();
            put(&[&workflow, &state, &key, &created_at, &finished_at, &live])?;
        }
        Table::Message => {
            let rows: Vec<MessageRow> = decoded(table, &writes.bodies)?;
            let accepted_at: Vec<i64> = rows.iter().map(|message| message.accepted_at as i64).collect();
            let is_live = |message: &MessageRow| !matches!(message.state, MessageState::Done { .. });
            let live: Vec<bool> = rows.iter().map(is_live).collect();
            put(&[&accepted_at, &live])?;
        }
        Table::Event => {
            let rows: Vec<EventRow> = decoded(table, &writes.bodies)?;
            let name: Vec<String> = rows.iter().map(|event| text(&event.name)).collect();
            let at: Vec<i64> = rows.iter().map(|event| event.at as i64).collect();
            put(&[&name, &at])?;
        }
        Table::Document | Table::Revision => {
            let rows: Vec<DocumentRow> = decoded(table, &writes.bodies)?;
            let expires_at: Vec<Option<i64>> = rows.iter().map(|row| row.expires_at.map(|at| at as i64)).collect();
            put(&[&expires_at])?;
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
        | Table::StreamProgress => {
            put(&[])?;
        }
    }
    Ok(())
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
