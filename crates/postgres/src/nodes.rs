//! The nodes of a cluster and their leases, as the database has them.
//!
//! A node has one row, renewed at each round; whether a lease stands is judged by the clock of the database alone, so the
//! nodes' own clocks may be as wrong as they like.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mainspring_store::StoreError;

use crate::link::{Connection, Link};
use crate::options::PostgresOptions;
use crate::pool::Pool;
use crate::schema;
use crate::trouble::Trouble;

/// Whether the lease of the node `n` stands, in SQL.
pub(crate) const ALIVE: &str = "n.seen_at + n.lease_ms * interval '1 millisecond' > clock_timestamp()";

/// How long the row of a node that vanished is kept, for whoever looks for it.
const FORGET: &str = "interval '1 hour'";

/// Which node: drawn anew by each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(NodeId)
    }
}

/// A node, as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its id.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Where the others reach it: host and port.
    pub address: String,
    /// Its release.
    pub release: String,
    /// Whether its lease stands.
    pub alive: bool,
    /// Whether it is about to end and takes nothing more.
    pub leaving: bool,
}

/// A partition and who holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRow {
    /// Its number.
    pub number: u16,
    /// The node that took it last and did not release it.
    pub node: Option<NodeId>,
    /// How often it was taken.
    pub epoch: i64,
}

/// Who is there and who holds what, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// All nodes that were heard of lately, by id.
    pub nodes: Vec<NodeRow>,
    /// All partitions, by number.
    pub partitions: Vec<PartitionRow>,
}

/// The database did not do it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{cause}")]
pub struct NodesError {
    /// What it said.
    pub cause: String,
}

impl From<Trouble> for NodesError {
    fn from(trouble: Trouble) -> Self {
        NodesError { cause: trouble.to_string() }
    }
}

/// One node's way to the roster. Calls block, for as long as its patience at most.
#[derive(Debug)]
pub struct Nodes {
    /// Of its own, so that nothing else can keep a lease from being renewed.
    pool: Pool,
    id: NodeId,
    name: String,
    address: String,
    release: String,
    lease: Duration,
}

impl Nodes {
    /// For the node `options` name, reached by the others at `address`, whose lease lasts for `lease` after each round.
    /// Nothing is asked of the database yet.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] if the options can't be used or name no node.
    pub fn new(
        options: &PostgresOptions,
        name: &str,
        address: &str,
        release: &str,
        lease: Duration,
    ) -> Result<Nodes, StoreError> {
        let fail = |cause: String| StoreError::Unusable { cause };
        let id = options.node.ok_or_else(|| fail("the options of the store name no node".to_owned()))?;
        // An answer that takes longer than half the lease comes too late for a second try.
        let patience = options.patience.min(lease / 2);
        let (config, tls) = PostgresOptions { patience, ..options.clone() }.checked()?;
        let link = Link::new(config, tls, schema::greeting(&options.schema, patience.as_millis()), patience);
        let link = link.map_err(|error| fail(format!("the thread for leases can't be started: {error}")))?;
        let pool = Pool::new(link, 1);
        let (name, address, release) = (name.to_owned(), address.to_owned(), release.to_owned());
        Ok(Nodes { pool, id, name, address, release, lease })
    }

    /// Which node this is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// How long a lease lasts.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Introduces the node. Whoever was at the same address before is gone, or this one could not listen there, so what
    /// that one held need not wait for its lease to end.
    ///
    /// # Errors
    /// [`NodesError`], also for a key that is not the cluster's: `signed_by` says which key tokens are signed with, and
    /// all nodes must have the same.
    pub fn join(&self, signed_by: &str) -> Result<(), NodesError> {
        let mut connection = self.pool.lend()?;
        connection.execute("UPDATE cluster SET signed_by = $1 WHERE signed_by IS NULL", &[&signed_by])?;
        let found = connection.query_one("SELECT signed_by FROM cluster", &[])?;
        if found.is_none_or(|row| row.get::<_, Option<String>>(0).as_deref() != Some(signed_by)) {
            let cause = "this node's signing key is not the one of the cluster: copy keys/signing.pem from the directory \
                         of a node that is in it, or name that file with server.signing_key";
            return Err(NodesError { cause: cause.to_owned() });
        }
        connection
            .execute("DELETE FROM nodes WHERE address = $1 AND id <> $2", &[&self.address, &self.id.to_string()])?;
        self.renew(&mut connection, false)?;
        Ok(())
    }

    /// Renews the lease and tells who is there and who holds what.
    ///
    /// # Errors
    /// [`NodesError`]: the lease was perhaps renewed, and perhaps not.
    pub fn round(&self, leaving: bool) -> Result<Roster, NodesError> {
        let mut connection = self.pool.lend()?;
        self.renew(&mut connection, leaving)?;
        let sql = format!("SELECT n.id, n.name, n.address, n.release, {ALIVE}, n.leaving FROM nodes n ORDER BY n.id");
        let rows = connection.query(&sql, &[])?;
        let nodes = rows.iter().filter_map(|row| {
            let id = row.get::<_, &str>(0).parse().ok()?;
            let (name, address, release) = (row.get(1), row.get(2), row.get(3));
            Some(NodeRow { id, name, address, release, alive: row.get(4), leaving: row.get(5) })
        });
        let nodes = nodes.collect();
        let rows = connection.query("SELECT partition, node, epoch FROM partitions ORDER BY partition", &[])?;
        let partitions = rows.iter().map(|row| PartitionRow {
            number: row.get::<_, i32>(0) as u16,
            node: row.get::<_, Option<&str>>(1).and_then(|id| id.parse().ok()),
            epoch: row.get(2),
        });
        Ok(Roster { nodes, partitions: partitions.collect() })
    }

    fn renew(&self, connection: &mut Connection, leaving: bool) -> Result<(), Trouble> {
        let sql = "INSERT INTO nodes (id, name, address, release, lease_ms, seen_at, leaving) \
             VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6) \
             ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), leaving = excluded.leaving";
        let lease_ms = self.lease.as_millis() as i64;
        let id = self.id.to_string();
        connection.execute(sql, &[&id, &self.name, &self.address, &self.release, &lease_ms, &leaving])?;
        connection.execute(&format!("DELETE FROM nodes WHERE seen_at < clock_timestamp() - {FORGET}"), &[])?;
        Ok(())
    }

    /// Lets go of a partition: anybody may take it at once. Does nothing if somebody else has it by now.
    ///
    /// # Errors
    /// [`NodesError`]: it is free when this node's lease has ended.
    pub fn release(&self, partition: u16) -> Result<(), NodesError> {
        let sql = "UPDATE partitions SET node = NULL WHERE partition = $1 AND node = $2";
        self.pool.lend()?.execute(sql, &[&i32::from(partition), &self.id.to_string()])?;
        Ok(())
    }

    /// Takes the node out of the roster, with whatever it still holds.
    ///
    /// # Errors
    /// [`NodesError`]: the others notice when its lease has ended.
    pub fn leave(&self) -> Result<(), NodesError> {
        self.pool.lend()?.execute("DELETE FROM nodes WHERE id = $1", &[&self.id.to_string()])?;
        Ok(())
    }
}
