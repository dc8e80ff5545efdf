//! The reading side of a partition's tables.

use std::sync::Arc;

use mainspring_core::Table;
use mainspring_core::id::{RunId, TenantId};
use mainspring_store::TablesError;
use mainspring_store::backend::{Range, Rows, run_bounds};
use mainspring_store::reader::{RawRows, RunFilter};
use mainspring_store::tables::name_of;
use tokio_postgres::Row;

use crate::apply::text;
use crate::pool::Pool;

/// Reads a partition. Each call is one statement, and so sees one state of the tables.
#[derive(Debug)]
pub(crate) struct PostgresRows {
    pool: Arc<Pool>,
    partition: i32,
}

impl PostgresRows {
    pub(crate) fn new(pool: Arc<Pool>, partition: u16) -> PostgresRows {
        PostgresRows { pool, partition: i32::from(partition) }
    }
}

/// A number of rows as SQL has it.
pub(crate) fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(crate) fn raw(rows: &[Row]) -> RawRows {
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

impl Rows for PostgresRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let sql = format!("SELECT body FROM {} WHERE partition = $1 AND key = $2", name_of(table));
        let found = self.pool.read(|connection| connection.query_one(&sql, &[&self.partition, &key]))?;
        Ok(found.map(|row| row.get(0)))
    }

    fn range(&self, range: Range<'_>) -> Result<RawRows, TablesError> {
        let (name, order) = (name_of(range.table), if range.descending { "DESC" } else { "ASC" });
        let sql = format!(
            "SELECT key, body FROM {name} WHERE partition = $1 AND key >= $2 AND key < $3 ORDER BY key {order} LIMIT $4"
        );
        let limit = limit_of(range.limit);
        let read = |connection: &mut crate::link::Connection| {
            connection.query(&sql, &[&self.partition, &range.from, &range.to, &limit])
        };
        Ok(raw(&self.pool.read(read)?))
    }

    fn events_after(
        &self,
        tenant: TenantId,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<RawRows, TablesError> {
        // Bodies are measured where they are, so that no more of them travel than are wanted.
        let sql = "SELECT key, body FROM ( \
                 SELECT key, body, sum(octet_length(body)) OVER (ORDER BY substr(key, 25, 8), key \
                     ROWS UNBOUNDED PRECEDING) - octet_length(body) AS before \
                 FROM (SELECT key, body FROM events \
                     WHERE partition = $1 AND substr(key, 1, 16) = $2 AND substr(key, 25, 8) > $3 \
                     ORDER BY substr(key, 25, 8), key LIMIT $4) picked) measured \
             WHERE before < $5 ORDER BY substr(key, 25, 8), key";
        let (tenant, after) = (tenant.to_bytes(), after.to_be_bytes());
        let (tenant, after) = (tenant.as_slice(), after.as_slice());
        let (limit, bytes_max) = (limit_of(limit), limit_of(bytes_max));
        let found = self
            .pool
            .read(|connection| connection.query(sql, &[&self.partition, &tenant, &after, &limit, &bytes_max]))?;
        Ok(raw(&found))
    }

    fn runs(
        &self,
        tenant: TenantId,
        before: Option<RunId>,
        filter: &RunFilter,
        limit: usize,
        examined_max: usize,
    ) -> Result<(RawRows, Option<Vec<u8>>), TablesError> {
        if limit == 0 || examined_max == 0 {
            return Ok((RawRows::new(), None));
        }
        // In one statement, so that runs which are new meanwhile move nothing: those found; and, only if they are too few,
        // the last one that was looked at, if that is as far as it may be looked.
        let sql = "WITH found AS MATERIALIZED ( \
                 SELECT key, body FROM (SELECT key, body, workflow, state FROM runs \
                     WHERE partition = $1 AND key > $2 AND key < $3 ORDER BY key DESC LIMIT $4) looked \
                 WHERE ($5::text IS NULL OR workflow = $5) AND ($6::text IS NULL OR state = $6) \
                 ORDER BY key DESC LIMIT $7) \
             SELECT key, body FROM found \
             UNION ALL \
             SELECT key, NULL FROM (SELECT key FROM runs \
                 WHERE partition = $1 AND key > $2 AND key < $3 ORDER BY key DESC LIMIT 1 OFFSET $8) last \
             WHERE (SELECT count(*) FROM found) < $7";
        let (from, to) = run_bounds(tenant, before);
        let (workflow, state) = (filter.workflow.as_deref().map(text), filter.state.as_deref().map(text));
        let (examined, rows_max) = (limit_of(examined_max), limit_of(limit));
        let rows = self.pool.read(|connection| {
            let last = examined - 1;
            connection.query(sql, &[&self.partition, &from, &to, &examined, &workflow, &state, &rows_max, &last])
        })?;
        let (mut found, mut last) = (RawRows::with_capacity(rows.len()), None);
        for row in rows {
            match row.get::<_, Option<Vec<u8>>>(1) {
                Some(body) => found.push((row.get(0), body)),
                None => last = Some(row.get(0)),
            }
        }
        // Nothing says that one part of such a union comes before the other, nor that its order is kept.
        found.sort_unstable_by(|one, other| other.0.cmp(&one.0));
        if found.len() == limit {
            last = found.last().map(|(key, _)| key.clone());
        }
        Ok((found, last))
    }
}
