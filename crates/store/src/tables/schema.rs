//! The schema, and the settings of a connection.

use mainspring_core::Table;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

/// The schema this release writes.
pub(super) const VERSION: i64 = 6;

/// The SQL name of a table, wherever it is kept.
pub fn name_of(table: Table) -> &'static str {
    match table {
        Table::Meta => "meta",
        Table::Tenant => "tenants",
        Table::Workflow => "workflows",
        Table::Run => "runs",
        Table::Task => "tasks",
        Table::Journal => "journal",
        Table::Message => "messages",
        Table::Inbox => "inboxes",
        Table::Event => "events",
        Table::Idempotency => "idempotency",
        Table::Token => "tokens",
        Table::Payload => "payloads",
        Table::Worker => "workers",
        Table::Rate => "rates",
        Table::Child => "children",
        Table::Log => "logs",
        Table::Document => "documents",
        Table::Revision => "revisions",
        Table::Stream => "streams",
        Table::StreamPart => "stream_parts",
        Table::StreamEntry => "stream_entries",
        Table::StreamEntryId => "stream_entry_ids",
        Table::StreamGroup => "stream_groups",
        Table::StreamProgress => "stream_progress",
        Table::Pending => "pending",
    }
}

/// How the rows a restart needs are found, for tables that have any.
pub(super) fn live_query(table: Table) -> Option<&'static str> {
    match table {
        Table::Meta => Some("SELECT key, body FROM meta"),
        Table::Tenant => Some("SELECT key, body FROM tenants"),
        Table::Workflow => Some("SELECT key, body FROM workflows"),
        Table::Run => Some("SELECT key, body FROM runs INDEXED BY runs_live WHERE live = 1 ORDER BY key"),
        // A task's key begins with its run's key, so the tasks of a live run are one short range, which is read in its
        // own order. To ask for that as well would have SQLite sort each of these ranges.
        Table::Task => Some(
            "SELECT t.key, t.body FROM runs r INDEXED BY runs_live CROSS JOIN tasks t \
             WHERE r.live = 1 AND t.key > r.key AND t.key < CAST(r.key || x'ffffff' AS BLOB) ORDER BY r.key",
        ),
        Table::Message => Some("SELECT key, body FROM messages INDEXED BY messages_live WHERE live = 1 ORDER BY key"),
        Table::Inbox => Some("SELECT key, body FROM inboxes"),
        Table::Idempotency => Some("SELECT key, body FROM idempotency"),
        Table::Token => Some("SELECT key, body FROM tokens"),
        Table::Worker => Some("SELECT key, body FROM workers"),
        Table::Rate => Some("SELECT key, body FROM rates"),
        // As tasks.
        Table::Child => Some(
            "SELECT c.key, c.body FROM runs r INDEXED BY runs_live CROSS JOIN children c \
             WHERE r.live = 1 AND c.key > r.key AND c.key < CAST(r.key || x'ffffffffffffffffffffff' AS BLOB) \
             ORDER BY r.key",
        ),
        Table::Stream => Some("SELECT key, body FROM streams"),
        Table::StreamPart => Some("SELECT key, body FROM stream_parts"),
        Table::StreamGroup => Some("SELECT key, body FROM stream_groups"),
        Table::StreamProgress => Some("SELECT key, body FROM stream_progress"),
        Table::Pending => Some("SELECT key, body FROM pending"),
        Table::Journal | Table::Event | Table::Payload | Table::Log | Table::Document | Table::Revision => None,
        Table::StreamEntry | Table::StreamEntryId => None,
    }
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The tables that came with a version of the schema.
pub(super) fn new_in(version: i64) -> &'static [Table] {
    match version {
        1 => &Table::ALL[..12],
        2 => &Table::ALL[12..16],
        3 => &Table::ALL[16..18],
        5 => &Table::ALL[18..24],
        6 => &Table::ALL[24..25],
        _ => &[],
    }
}

/// Brings the schema from the version it has (0: there is none) to the present one, whole or not at all.
pub(super) fn bring_up(connection: &Connection, found: i64) -> rusqlite::Result<()> {
    let mut sql = String::from("BEGIN;");
    for table in (found + 1..=VERSION).flat_map(new_in).copied() {
        let name = name_of(table);
        let columns = match table {
            Table::Run => {
                "workflow TEXT NOT NULL, state TEXT NOT NULL, run_key TEXT, created_at INTEGER NOT NULL, \
                 finished_at INTEGER, live INTEGER NOT NULL, "
            }
            Table::Message => "accepted_at INTEGER NOT NULL, live INTEGER NOT NULL, ",
            Table::Event => "name TEXT NOT NULL, at INTEGER NOT NULL, ",
            Table::Document | Table::Revision => "expires_at INTEGER, ",
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
            | Table::Pending => "",
        };
        // Payloads can be large, and large rows make a WITHOUT ROWID tree deep.
        let large = matches!(table, Table::Payload | Table::Document | Table::Revision);
        let storage = if large { "" } else { "WITHOUT ROWID" };
        sql.push_str(&format!(
            "CREATE TABLE {name}(key BLOB PRIMARY KEY NOT NULL, {columns}body BLOB NOT NULL) {storage};"
        ));
    }
    if found == 0 {
        sql.push_str("CREATE INDEX runs_live ON runs(key) WHERE live = 1;");
        sql.push_str("CREATE INDEX messages_live ON messages(key) WHERE live = 1;");
        sql.push_str("CREATE TABLE applied(id INTEGER PRIMARY KEY CHECK (id = 0), position INTEGER NOT NULL);");
        sql.push_str("INSERT INTO applied VALUES (0, 0);");
    }
    if found < 4 {
        // A tenant's events in the order they happened in, whatever their scope.
        sql.push_str("CREATE INDEX events_in_order ON events(substr(key, 1, 16), substr(key, 25, 8));");
    }
    sql.push_str(&format!("PRAGMA user_version = {VERSION}; COMMIT;"));
    connection.execute_batch(&sql)
}

/// What SQLite makes durable itself while the tables are written: the beginning of its write-ahead log, whenever it begins
/// that again.
pub(super) const SYNCHRONOUS: &str = "PRAGMA synchronous = NORMAL";

pub(super) fn prepare_writer(connection: &Connection) -> rusqlite::Result<()> {
    // Automatic checkpoints are off: the applier decides when, and how is in `Paced`.
    connection.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; \
         PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY; PRAGMA busy_timeout = 10000;",
    )?;
    connection.execute_batch(SYNCHRONOUS)?;
    prepare_any(connection)
}

pub(super) fn prepare_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute_batch("PRAGMA cache_size = -4096; PRAGMA busy_timeout = 10000; PRAGMA mmap_size = 268435456;")?;
    prepare_any(connection)
}

fn prepare_any(connection: &Connection) -> rusqlite::Result<()> {
    // Plans that depend on what is bound are made anew each time another key is, which took longer than the reading.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}
