//! The whole server, tested through its front door: HTTP in, HTTP out, agents and endpoints on real sockets.
//!
//! One file per theme. Each test has a server of its own on a directory of its own. Nothing sleeps to synchronise: what a
//! test waits for it looks for, with a deadline that only a defect reaches.

mod agents;
mod bus;
mod crashes;
mod crowd;
mod decisions;
mod delivery;
mod follow_ups;
mod handoff;
mod harness;
mod idempotency;
mod incoming;
mod operations;
mod pages;
mod problems;
mod protection;
mod publish;
mod receipts;
mod replay;
mod runs;
mod session_state;
mod signed;
mod streams;
mod supersede;
mod tokens;
mod tool_pages;
mod tools;
mod turn_calls;
mod turns;
mod webhooks;
mod windows;
