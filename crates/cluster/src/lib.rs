//! Several nodes on one database: which node has which partition, and how a request finds its way there.
//!
//! Each node keeps its lease and looks at the roster once in a while (`keeper.rs`). What it should take and let go of
//! follows from the roster alone (`plan.rs`, a pure function), so nobody has to be elected. What a node has at the moment,
//! and whom it believes to have the rest, is on its board (`board.rs`). A request that comes in is carried out here or
//! passed on to where its partition is (`front.rs`, `relay.rs`), and held back for a moment while that is being decided.
//!
//! Nothing here is what makes it safe: a node that is wrong about its lease can't commit, because the store's fence is in
//! the commit itself. Here it is made quick, fair, and invisible to clients.
//!
//! What this crate does not know: what a partition does, whose a request is (it is told), any route.

mod board;
mod front;
mod keeper;
mod plan;
mod relay;

pub use board::{Board, ClusterView, NodeView, Part, Stop};
pub use front::{Front, FrontOptions, LOOK_PATH, Refuse, Unserved, Whose};
pub use keeper::{Host, Keeper, Opening};
pub use plan::{Plan, plan};
