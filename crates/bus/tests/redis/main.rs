//! Against a real Redis, one of its own for each test: killed, flushed, restarted, read-only, full.

mod bus;
mod house;
mod inbound;
mod mirror;
mod outbound;
mod server;
mod trouble;
