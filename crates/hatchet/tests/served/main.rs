//! What is served, asked through the router in front of a real engine: what the table of compatibility says is held
//! against what is answered, and what the calls answer against what the published SDKs insist on.

mod harness;
mod reports;
mod rest;
mod table;
