//! Drives a core: takes commands in, batches them, makes them durable, and only then answers and releases effects.
//!
//! One thread per partition decides; one makes durable; one applies to the tables. While one batch is being made durable
//! the next is already being decided. When little is going on, the deciding thread writes the log itself, which saves a
//! hand-over between threads.
//!
//! What this crate does not know: what the rules are (`core`), how bytes become durable (`store`), any wire format.

mod applier;
mod decider;
mod engine;
mod hub;
mod loader;
mod partition;
mod status;

pub use decider::{Answer, DecidedBatch, Decider, Respond, Submission};
pub use engine::{Engine, EngineOptions, OpenError};
pub use hub::{Dispatched, EventNotice, Hub, WorkerInbox};
pub use partition::EngineError;
pub use status::{Health, Stats};

// What readers of rows need of the store, so that adapters depend on the engine alone.
pub use mainspring_store::log::{LogOptions, SyncMode};
pub use mainspring_store::retention::Retention;
pub use mainspring_store::{Page, Reader, RunFilter};
