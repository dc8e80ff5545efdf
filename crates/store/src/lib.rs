//! The log and the tables: what survives.
//!
//! The log is the truth; the tables are what the log says, applied behind it. Between the two stands [`unapplied`]:
//! batches that are durable in the log and not yet in the tables, so that a read by id never misses one.
//!
//! What this crate does not know: what a row means beyond the few columns listings need, who decides, what time it is.

pub mod backend;
#[cfg(test)]
mod chance;
pub mod conformance;
pub mod embedded;
pub mod log;
pub mod moving;
pub mod reader;
pub mod retention;
pub mod tables;
pub mod unapplied;

pub use backend::{PartitionLog, Rows, Store, StoreError, TableStore};
pub use embedded::Embedded;
pub use reader::{Page, Reader, RunFilter};
pub use tables::TablesError;
pub use unapplied::{Batch, Unapplied};
