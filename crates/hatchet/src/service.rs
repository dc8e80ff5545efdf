//! The gRPC services, one file each: a call comes in, a command or a read goes on, an answer comes back.

mod admin;
mod dispatcher;
mod events;
mod report;
mod traces;
mod v1_dispatcher;
pub(crate) mod workflows;
