//! The wire Hatchet SDKs speak, so that workers written with them can connect as they are.
//!
//! [`wire`] holds the messages and services, generated from `proto/`. [`definition`] makes a checked workflow of a
//! registration, [`duration`] reads the durations in it, [`status`] is the one map from what went wrong to a gRPC
//! status; [`mapping`] says it in the core's words, and [`expression`] evaluates what it has in CEL. All of that is pure.
//! [`server`] puts it to use: gRPC services, and the REST calls SDKs make, on top of an engine. [`compatibility`] says how
//! far each call is served.
//!
//! What this crate does not know: how a decision is made or stored, how pages look. And nobody below it knows its
//! words.
//!
//! # Whether the wire is the right one
//!
//! `tests/wire.rs` holds the descriptors against the table `tests/wire.txt`. Whether the table is right is asked the
//! published packages themselves, after every new release of them:
//!
//! ```sh
//! python3 -m venv sdk && sdk/bin/pip install hatchet-sdk opentelemetry-proto
//! cargo run -q -p mainspring-hatchet --example descriptors > hatchet.fds
//! sdk/bin/python crates/hatchet/tests/check_against_sdk.py hatchet.fds
//! ```
//!
//! Last with hatchet-sdk 1.43.1 and opentelemetry-proto 1.45.2: no difference.

mod acks;
mod catalog;
pub mod compatibility;
mod control;
pub mod definition;
mod details;
pub mod duration;
pub mod expression;
pub mod gate;
mod judge;
pub mod mapping;
mod names;
mod payload;
mod rest;
pub mod server;
mod service;
pub mod status;
mod stream;
mod watch;
pub mod wire;

pub use gate::{Caller, Gate};
pub use server::Hatchet;
