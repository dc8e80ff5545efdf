//! What the load generators share: latencies, the machine's own limit, directories of their own, servers under test.
//!
//! A figure means nothing without the machine it was taken on, so every generator measures, in the same run, how fast
//! this disk makes one block durable, and prints its result beside that.

pub mod closed;
pub mod flows;
pub mod http1;
pub mod latency;
pub mod machine;
pub mod place;
pub mod process;
pub mod server;
pub mod tally;
pub mod wire;

pub use latency::Latencies;
pub use machine::Machine;
pub use place::Place;
pub use server::Server;
