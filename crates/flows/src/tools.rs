//! Tools: what agents and programs have done in the world, so that nothing is silently repeated or silently dropped.
//!
//! A call is checked and claimed in its ledger ([`door`]), carried out by a provider ([`provider`]) directly, as a task or
//! as a durable function ([`run`]), and what follows from each try is decided by [`tried`]. What nobody knows waits for a
//! person; what has to be undone is undone by another tool.
//!
//! What this module does not know: how requests come in, where secrets are kept.

pub mod breaker;
pub mod call;
pub mod catalogue;
pub mod door;
pub mod plan;
pub mod provider;
pub mod run;
pub mod schema;
pub mod template;
pub mod tool;
pub mod tried;

pub use call::{Execution, OnBehalf, Outcome, OutcomeStatus};
pub use catalogue::{Activation, Catalogue, Entry, Standing};
pub use door::{Answer, Asked, Door, ToolCallError};
pub use provider::{CallbackDoor, Kit, NoSecrets, RemoteTools, Secrets};
pub use tool::{Finding, Path, Provider, Tool};
pub use tried::ToolError;

pub use run::offer;
