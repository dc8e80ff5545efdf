//! A whole deployment on one thread, in simulated time, from one seed: the real core, log, engine, client and flows on a
//! simulated disk, clock, network and chance, or on a real PostgreSQL over connections that are cut; clients, workers, agents and channels of every character; faults; and books
//! that are kept independently of all of it.
//!
//! What this crate replaces, and so does not test: threads (`engine::threads`), the machine's files, SQLite, HTTP and
//! the server. They have tests of their own; docs/testing.md says which.
//!
//! Reading order: [`plan`] (what a seed is like), [`run`] (from seed to verdict), [`ground`], [`host`] and [`pump`] (a
//! machine, its processes and the steps they take), then the actors: [`clients`], [`workers`], [`judge`], [`functions`],
//! [`agents`], [`outside`], and [`books`], which is told of everything and trusts nobody.

pub mod agents;
pub mod books;
pub mod chance;
pub mod clients;
pub mod disk;
pub mod functions;
pub mod ground;
pub mod host;
pub mod judge;
pub mod link;
pub mod outside;
pub mod plan;
pub mod pump;
pub mod run;
pub mod scripts;
pub mod sim;
pub mod store;
pub mod streams;
pub mod tables;
pub mod witness;
pub mod workers;
