//! The schema, how it is brought up to date, and who may use it.
//!
//! Versions go forward only, each in one transaction that holds a lock, so that of several processes that start at once
//! one migrates and the others find it done. A version may add tables, columns with defaults and indices; what a process
//! of the release before still reads and writes goes one release later, so that old and new ones run side by side.

use mainspring_core::Table;
use mainspring_store::StoreError;
use mainspring_store::tables::name_of;

use crate::link::Connection;
use crate::trouble::Trouble;

/// The schema this release writes.
const VERSION: i32 = 2;
/// The oldest server that is used, as it numbers itself, and in words.
const SERVER_MIN: (i32, &str) = (130_000, "13");
/// Held while the schema is looked at and changed: the first bytes of "mainspring".
const LOCK: i64 = 0x6d61_696e_7370_7269;

/// Columns of a table beside its key and body, with their types.
pub(crate) fn columns(table: Table) -> &'static [(&'static str, &'static str)] {
    match table {
        Table::Run => &[
            ("workflow", "text NOT NULL"),
            ("state", "text NOT NULL"),
            ("run_key", "text"),
            ("created_at", "bigint NOT NULL"),
            ("finished_at", "bigint"),
            ("live", "boolean NOT NULL"),
        ],
        Table::Message => &[("accepted_at", "bigint NOT NULL"), ("live", "boolean NOT NULL")],
        Table::Event => &[("name", "text NOT NULL"), ("at", "bigint NOT NULL")],
        Table::Document | Table::Revision => &[("expires_at", "bigint")],
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
        | Table::Pending => &[],
    }
}

/// How the rows a restart needs are found, for tables that have any. The parameter is the partition.
pub(crate) fn live_query(table: Table) -> Option<String> {
    let name = name_of(table);
    match table {
        Table::Run | Table::Message => {
            Some(format!("SELECT key, body FROM {name} WHERE partition = $1 AND live ORDER BY key"))
        }
        // Their keys begin with their run's key, so those of a live run are one short range.
        Table::Task | Table::Child => Some(format!(
            "SELECT o.key, o.body FROM runs r CROSS JOIN LATERAL (SELECT key, body FROM {name} \
             WHERE partition = $1 AND key > r.key AND key < r.key || '\\xffffffffffffffffffffff'::bytea) o \
             WHERE r.partition = $1 AND r.live ORDER BY r.key, o.key"
        )),
        Table::Meta
        | Table::Tenant
        | Table::Workflow
        | Table::Inbox
        | Table::Idempotency
        | Table::Token
        | Table::Worker
        | Table::Rate
        | Table::Stream
        | Table::StreamPart
        | Table::StreamGroup
        | Table::StreamProgress
        | Table::Pending => Some(format!("SELECT key, body FROM {name} WHERE partition = $1 ORDER BY key")),
        Table::Journal | Table::Event | Table::Payload | Table::Log | Table::Document | Table::Revision => None,
        Table::StreamEntry | Table::StreamEntryId => None,
    }
}

/// What each connection says first.
pub(crate) fn greeting(schema: &str, patience_ms: u128) -> String {
    // Whoever waits for a row goes by what it is then, as READ COMMITTED has it, whatever the database's default is. A
    // transaction whose client is gone or stopped must not hold up who takes its partition over; a lock is not waited
    // for longer than the answer is; and durable means durable, whatever the server's configuration says.
    format!(
        "SET search_path = \"{schema}\"; SET jit = off; \
         SET default_transaction_isolation = 'read committed'; SET idle_in_transaction_session_timeout = {}; \
         SET lock_timeout = {}; \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
        patience_ms / 2,
        patience_ms * 3 / 4,
    )
}

/// Brings the schema up to date and answers how many partitions there are; creates `wanted`, at least one, if there are
/// none yet.
pub(crate) fn prepare(
    connection: &mut Connection,
    schema: &str,
    cluster: &str,
    wanted: u16,
) -> Result<u16, StoreError> {
    let server = connection
        .query_one("SELECT current_setting('server_version_num')::int, current_setting('server_version')", &[])?
        .map_or((0, String::new()), |row| (row.get::<_, i32>(0), row.get::<_, String>(1)));
    if server.0 < SERVER_MIN.0 {
        return refuse(format!("PostgreSQL {} is too old: use {} or newer", server.1, SERVER_MIN.1));
    }
    let (found_cluster, partitions) = connection.transaction(|connection| {
        connection.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
        let found = version(connection)?;
        if found > VERSION {
            return refuse(format!(
                "the schema {schema} has version {found}, this release knows up to {VERSION}: run the release that \
                 wrote it, or a newer one"
            ));
        }
        if found < VERSION {
            bring_up(connection, schema, found)?;
        }
        let sql = "INSERT INTO cluster (id, name, partitions) VALUES (0, $1, $2) ON CONFLICT (id) DO NOTHING";
        let is_new = connection.execute(sql, &[&cluster, &i32::from(wanted.max(1))])? == 1;
        let kept = connection.query_one("SELECT name, partitions FROM cluster", &[])?;
        let Some(kept) = kept else { return refuse(format!("the schema {schema} is damaged: its cluster is gone")) };
        let (name, partitions): (String, i32) = (kept.get(0), kept.get(1));
        if is_new {
            for table in ["partitions", "applied"] {
                let sql = format!("INSERT INTO {table} (partition) SELECT generate_series(0, $1 - 1)");
                connection.execute(&sql, &[&partitions])?;
            }
        }
        Ok((name, partitions))
    })?;
    if found_cluster != cluster {
        return refuse(format!(
            "the schema {schema} belongs to the cluster {found_cluster:?}, not to {cluster:?}: name another schema, or \
             that cluster"
        ));
    }
    match u16::try_from(partitions) {
        Ok(partitions) if partitions > 0 => Ok(partitions),
        _ => refuse(format!("the schema {schema} is damaged: it says it has {partitions} partitions")),
    }
}

fn refuse<T>(cause: String) -> Result<T, StoreError> {
    Err(StoreError::Unusable { cause })
}

/// The version found: 0 where there is none.
pub(crate) fn version(connection: &mut Connection) -> Result<i32, Trouble> {
    let exists = connection.query_one("SELECT to_regclass('schema_version') IS NOT NULL", &[])?;
    if !exists.is_some_and(|row| row.get(0)) {
        return Ok(0);
    }
    let found = connection.query_one("SELECT version FROM schema_version", &[])?;
    Ok(found.map_or(0, |row| row.get(0)))
}

fn bring_up(connection: &mut Connection, schema: &str, found: i32) -> Result<(), Trouble> {
    // Not "IF NOT EXISTS": that needs the right to create schemas even where there is nothing to create.
    let exists = connection.query_one("SELECT to_regnamespace($1) IS NOT NULL", &[&schema])?;
    if !exists.is_some_and(|row| row.get(0)) {
        connection.run(&format!("CREATE SCHEMA \"{schema}\""))?;
    }
    for version in found + 1..=VERSION {
        tracing::info!(schema, version, "the schema is brought up to date");
        connection.run(&migration(version))?;
        connection.execute("UPDATE schema_version SET version = $1", &[&version])?;
    }
    Ok(())
}

/// What a version brings. What has been released is never changed.
fn migration(version: i32) -> String {
    match version {
        1 => first(),
        2 => created(Table::Pending),
        _ => String::new(),
    }
}

fn first() -> String {
    let mut sql = String::from(
        "CREATE TABLE schema_version (id int PRIMARY KEY CHECK (id = 0), version int NOT NULL); \
         INSERT INTO schema_version VALUES (0, 0); \
         CREATE TABLE cluster (id int PRIMARY KEY CHECK (id = 0), name text NOT NULL, partitions int NOT NULL, \
             signed_by text); \
         CREATE TABLE nodes (id text PRIMARY KEY, name text NOT NULL, address text NOT NULL, \
             release text NOT NULL, lease_ms bigint NOT NULL, seen_at timestamptz NOT NULL, \
             leaving boolean NOT NULL) WITH (fillfactor = 10); \
         CREATE TABLE partitions (partition int PRIMARY KEY, node text, epoch bigint NOT NULL DEFAULT 0, \
             attempt bigint NOT NULL DEFAULT 0, removed bigint NOT NULL DEFAULT 0) WITH (fillfactor = 10); \
         CREATE TABLE applied (partition int PRIMARY KEY, epoch bigint NOT NULL DEFAULT 0, \
             position bigint NOT NULL DEFAULT 0) WITH (fillfactor = 10); \
         CREATE TABLE batches (partition int NOT NULL, position bigint NOT NULL, epoch bigint NOT NULL, \
             attempt bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (partition, position)); \
         ALTER TABLE batches ALTER COLUMN body SET STORAGE EXTERNAL; \
         CREATE TABLE moves (id int PRIMARY KEY CHECK (id = 0), note text NOT NULL);",
    );
    for table in &Table::ALL[..24] {
        sql.push_str(&created(*table));
    }
    // A tenant's events in the order they happened in, whatever their scope.
    sql.push_str(
        "CREATE INDEX runs_live ON runs (partition, key) WHERE live; \
         CREATE INDEX messages_live ON messages (partition, key) WHERE live; \
         CREATE INDEX events_in_order ON events (partition, substr(key, 1, 16), substr(key, 25, 8), key); ",
    );
    // Batches come and go: what a busy log leaves behind in a minute is more than it ever holds, and a share of the table
    // is no measure for it. Rows that are written again find room on their page, and are cleaned up before they are many.
    sql.push_str(
        "ALTER TABLE batches SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, \
             toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 50000);",
    );
    for table in [Table::Run, Table::Task, Table::Inbox, Table::Document, Table::Rate, Table::StreamProgress] {
        let name = name_of(table);
        sql.push_str(&format!("ALTER TABLE {name} SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);"));
    }
    sql
}

fn created(table: Table) -> String {
    let name = name_of(table);
    let columns: String = columns(table).iter().map(|(column, of)| format!("{column} {of}, ")).collect();
    format!(
        "CREATE TABLE {name} (partition int NOT NULL, key bytea NOT NULL, {columns}body bytea NOT NULL, \
         PRIMARY KEY (partition, key));"
    )
}
