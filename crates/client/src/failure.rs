//! How a function ends other than well.

use mainspring_core::RunId;

/// Why a durable function or task stops. Pass it on with `?`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It failed. Tried again if the task's retry rule allows.
    #[error("{0}")]
    Retryable(String),
    /// It failed and no further attempt will help.
    #[error("{0}")]
    Final(String),
    /// Give this run's messages to a successor, all of them, in order.
    #[error("superseded: {0}")]
    Supersede(String),
    /// A child run failed or was cancelled.
    #[error("child run {run} ended {state}: {error}")]
    Child {
        /// Which child.
        run: RunId,
        /// How it ended.
        state: &'static str,
        /// Why.
        error: String,
    },
    /// The run was asked to end. What was done is to be undone, and then this is passed on.
    #[error("cancelled: {0}")]
    Cancelled(String),
    /// The journal does not fit the code. The run parks until a person has looked.
    #[error(
        "journal position {position}: the code asks for {found}, the journal holds {expected}; the code changed under a running function: restore the old code, or cancel the run"
    )]
    Mismatch {
        /// The position.
        position: u32,
        /// What the journal holds.
        expected: String,
        /// What the code asked.
        found: String,
    },
    /// The attempt is no longer this worker's. Stop; nothing more is recorded.
    #[error("the attempt was given up: {0}")]
    GivenUp(String),
    /// A value could not be turned into JSON or back.
    #[error("{what} is not the JSON that was expected: {cause}")]
    Json {
        /// Which value.
        what: String,
        /// What serde said.
        cause: String,
    },
}

impl Failure {
    /// A failure that may be tried again.
    pub fn retryable(error: impl std::fmt::Display) -> Self {
        Failure::Retryable(error.to_string())
    }

    /// A failure for good.
    pub fn permanent(error: impl std::fmt::Display) -> Self {
        Failure::Final(error.to_string())
    }
}
