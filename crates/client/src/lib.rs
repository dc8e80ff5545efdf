//! What programs are written against: typed calls to an engine, workers, and durable functions.
//!
//! A durable function is an ordinary `async fn` that does everything with consequences through its [`Context`]. What it
//! asked and what came of it is kept in a journal; after a crash it is run again from the top and reads the journal back,
//! so it goes on where it was. Therefore it must ask the same things in the same order every time: no clock, no
//! randomness, no I/O outside [`Context::run`].
//!
//! ```no_run
//! # use mainspring_client::{Client, Context, Failure, Worker};
//! # use mainspring_client::WorkflowDef;
//! async fn refund(ctx: Context, order: String) -> Result<String, Failure> {
//!     let receipt: String = ctx.run("call the bank", || async { Ok("receipt 17".to_owned()) }).await?;
//!     ctx.sleep(std::time::Duration::from_secs(60)).await?;
//!     ctx.emit("order.refunded", &serde_json::json!({ "order": order, "receipt": receipt })).await?;
//!     Ok(receipt)
//! }
//!
//! # async fn start(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let worker = Worker::new(client.clone(), "refunds").function(WorkflowDef::single("refund", true), refund);
//! let running = worker.start().await?;
//! let run = client.start("refund", &"order 5").await?;
//! let receipt: String = client.wait(run).await?;
//! # running.stop().await; Ok(()) }
//! ```
//!
//! What this crate does not know: how decisions are made or stored. In-process is the only transport today; workers in
//! other processes come with the Hatchet wire.

mod client;
mod context;
mod failure;
mod feed;
mod journal;
mod saga;
mod streams;
mod worker;

pub use client::{Accepted, Client, ClientError, SendOptions, StartOptions};
pub use context::{Call, Committed, Context, Intent, Message, Received, RetryPolicy, SpawnOptions};
pub use failure::Failure;
pub use feed::FeedPosition;
pub use mainspring_core::FEED_POSITION;
pub use mainspring_core::command::{Record, Start};
pub use mainspring_core::effect::Lineage;
pub use mainspring_core::journal::{Commit, PendingKind};
pub use mainspring_core::rate::RateUse;
pub use mainspring_core::row::{DeadLetter, StreamEntryRow};
pub use mainspring_core::row::{DocumentRow, EventRow, OnParentEnd, RunRow, RunState};
pub use mainspring_core::stream::{DEAD_LETTERS, Letter, NewEntry, Place, Span, StreamSettings, view};
pub use mainspring_core::workflow::{KeyRule, KeyStrategy, RetryRule, TaskDef, WorkflowDef};
pub use mainspring_core::{
    Admission, DocumentKey, Fence, Guard, MessageId, PutDocument, Refusal, RunId, TaskId, TenantId, WorkerId,
};
pub use mainspring_engine::{EngineError, EventNotice};
pub use saga::{ATTENTION, Attention, Step, settle_signal};
pub use streams::{OldestAt, StreamEntry, Streams, TakeOptions, letter};
pub use worker::{RunningWorker, TaskContext, Worker};
