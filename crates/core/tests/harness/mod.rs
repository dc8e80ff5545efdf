//! What the tests of the core share: rows in memory, a world around a core, invariants, and a script language.
//!
//! Nothing here uses the core's inside: commands go in through [`mainspring_core::Core::handle`], and what is known of
//! the state comes from the rows written. Each test binary uses a part of it.

#![allow(dead_code, reason = "each test binary uses its own part of the harness")]
#![allow(unreachable_pub, reason = "the harness is one module in several test binaries")]

pub mod book;
pub mod check;
pub mod inside;
pub mod load;
pub mod parse;
pub mod scenario;
pub mod shape;
pub mod show;
pub mod streams;
pub mod tables;
pub mod world;
