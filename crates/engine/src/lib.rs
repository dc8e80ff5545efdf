//! Drives a core: takes commands in, batches them, makes them durable, and only then answers and releases effects.
//!
//! `threads` moves a partition in production, `driven` lets a simulator move it; the steps are the same: `decider`,
//! `commit`, `loader`, `applier`.
//!
//! What this crate does not know: what the rules are (`core`), how bytes become durable (`store`), any wire format.

mod ahead;
mod applier;
mod commit;
mod decider;
mod driven;
mod ending;
mod engine;
mod hub;
mod loader;
mod partition;
mod status;
mod threads;
mod world;

pub use commit::DurableBatch;
pub use decider::{Answer, DecidedBatch, Decider, Respond, Submission};
pub use driven::{Driven, Written};
pub use engine::{Engine, EngineOptions, OpenError, partition_of};
pub use hub::{Dispatched, EventNotice, Hub, Questions, RunNotice, WorkerInbox};
pub use partition::EngineError;
pub use status::{Health, Stats};
pub use world::{Machine, World};

// What readers of rows need of the store, so that adapters depend on the engine alone.
pub use mainspring_store::log::{LogOptions, SyncMode};
pub use mainspring_store::retention::Retention;
pub use mainspring_store::{Embedded, Page, Reader, RunFilter, Store};
