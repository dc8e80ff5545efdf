//! The rules of Mainspring: a deterministic state machine that turns a [`Command`] into a reply, writes and effects.
//!
//! What this crate does not know: how a log is kept, which clock is right, what a thread, a socket or a file is. It is
//! `no_std`, so the compiler holds that: there is no clock to read, no randomly seeded map to iterate, no I/O to do.
//! Time, ids and chance come in with the command as a [`Moment`]; facts that are not resident come in as [`Facts`].
//!
//! Reading order: [`command`] (what may be asked), [`write`] (what is recorded), [`effect`] (what the world must do),
//! [`reply`] (what is answered), then one file per noun: [`run`], [`task`], [`judge`], [`journal`], [`inbox`], [`key`],
//! [`event`], [`timer`], [`worker`], [`place`], [`rate`], [`idempotency`], [`token`], [`document`], [`fence`], [`stream`]. [`machine`] ties them together.

#![no_std]

extern crate alloc;

mod advance;
pub mod command;
pub mod document;
pub mod effect;
pub mod event;
pub mod fence;
pub mod id;
pub mod idempotency;
pub mod inbox;
pub mod journal;
pub mod judge;
pub mod key;
pub mod limit;
mod log;
pub mod machine;
pub mod place;
pub mod rate;
pub mod recover;
mod replay;
pub mod reply;
mod resting;
pub mod row;
pub mod run;
pub mod stream;
pub mod task;
pub mod tenant;
pub mod timer;
pub mod token;
pub mod worker;
pub mod workflow;
pub mod write;

pub use crate::advance::FEED_POSITION;
pub use crate::command::{Admission, Command, Fact, Facts, Held, Need, NewWorker, Start};
pub use crate::document::{DocumentKey, Guard, PutDocument};
pub use crate::effect::{Dispatch, Effect, TaskChange};
pub use crate::fence::Fence;
pub use crate::id::{MessageId, PayloadId, RunId, TaskId, TenantId, TokenId, VersionId, WorkerId};
pub use crate::machine::{Core, Moment};
pub use crate::reply::{Refusal, Reply, WorkerView};
pub use crate::write::{Out, Table};
