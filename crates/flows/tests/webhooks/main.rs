//! Webhooks, on a real engine, with endpoints that behave badly and processes that end in the middle.

mod crashes;
mod delivering;
mod endpoint;
mod failing;
mod house;
mod managing;
#[path = "../../src/egress/tests/peers.rs"]
#[allow(dead_code)]
mod peers;
mod replaying;
