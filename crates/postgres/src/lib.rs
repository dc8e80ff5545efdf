//! The store on PostgreSQL, 13 or newer: for each partition a log in one table and rows in others, reached by several
//! processes of which one owns a partition at a time.
//!
//! # What is decided
//! - **One append is one statement**: a row of `batches`, inserted only where the partition's row still has the writer's
//!   *epoch* and *attempt*, and with that row locked. So a take-over, which changes that row, waits for an append that is
//!   under way, and none comes after it. The statement commits by itself: it is durable when it is answered. What several
//!   partitions append while the database is busy goes in one statement (`appends.rs`), which waits for nobody's lock.
//! - **The epoch** counts owners of a partition. Whoever opens its tables takes the partition over, which fences the log
//!   and the tables of whoever had it. **The attempt** counts, within an epoch, how often an outcome was unknown: to find
//!   out what became of a batch, its attempt is ended first, so that a statement still on its way can do nothing any more,
//!   and only then it is looked for. Position, epoch and attempt together are the id of a batch.
//! - **One table for each kind of row**, named as in SQLite, with `partition` before the key and the same few columns
//!   for listings. An application is one transaction, fenced by the epoch in `applied`, with one statement that puts and
//!   one that deletes for each table, given arrays, and sent without waiting for each.
//! - **Calls block**, as the traits want it. One thread tends all connections; connections are lent from three pools, so
//!   that neither readers nor those who write tables keep the log waiting.
//!
//! - **Leases** (`nodes.rs`): a node has a row that it renews, and its partitions name it. A partition is taken only from
//!   nobody, or from a node whose row is older than its lease, by the clock of the database. So a lease says when one may
//!   take over; that the other then does nothing more is the fence's doing, and needs no clock. Whoever takes a partition
//!   from a node that vanished ends that node's connections: it may be frozen with locks in hand.
//!
//! What this crate does not know: what a row means beyond the columns listings need, who decides, what time it is, which
//! node should have which partition.

mod appends;
mod apply;
mod link;
mod log;
mod look;
mod moving;
mod nodes;
mod options;
mod pool;
mod rows;
mod schema;
mod store;
mod sweep;
mod tables;
mod trouble;

pub use nodes::{NodeId, NodeRow, Nodes, NodesError, PartitionRow, Roster};
pub use options::PostgresOptions;
pub use store::Postgres;
