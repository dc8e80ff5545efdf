//! The store on a PostgreSQL of the tests' own: the laws of every store, and connections that are cut in mid-call.

mod conformance;
mod cut;
mod engine;
mod moving;
mod nodes;
mod owners;
mod process;
mod proxy;
mod refused;
mod server;
mod together;
