//! The wire Hatchet SDKs speak, so that unmodified workers can connect.
//!
//! What this crate does not know: how a decision is made or stored, how pages look.

pub mod wire;
