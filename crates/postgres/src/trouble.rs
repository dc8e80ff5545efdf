//! What can go wrong with a database, as sentences, and whether it may pass.

use std::error::Error as _;

use mainspring_store::log::LogError;
use mainspring_store::{StoreError, TablesError};

/// A statement was not answered with success.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Trouble {
    /// No answer came. Whether a statement was carried out is not known.
    #[error("PostgreSQL does not answer: {cause}")]
    Lost {
        /// What was heard instead.
        cause: String,
    },
    /// The server said no for now: it is shutting down, full, or somebody holds what was wanted.
    #[error("PostgreSQL refuses for now: {cause}")]
    Busy {
        /// What the server said, with its code.
        cause: String,
    },
    /// The server said no, and will say it again.
    #[error("PostgreSQL refuses: {cause}")]
    Refused {
        /// What the server said, with its code.
        cause: String,
    },
}

impl Trouble {
    /// Whether the connection it was met on may be used again.
    pub(crate) fn spoils(&self) -> bool {
        matches!(self, Trouble::Lost { .. })
    }

    /// What a person can do, where that is known from what was said to a store that was about to open.
    fn advice(&self) -> Option<&'static str> {
        let Trouble::Refused { cause } = self else { return None };
        let has = |codes: &[&str]| codes.iter().any(|code| cause.contains(&format!("({code})")));
        // No right; a schema that exists and may not be used.
        if has(&["42501", "3F000"]) {
            return Some("grant the user the schema, or run 'mainspring migrate' as one who may make it");
        }
        if has(&["3D000"]) {
            return Some("create the database, or name another in the URL");
        }
        has(&["28000", "28P01"]).then_some("check user and password in the URL, and what the server lets in")
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else {
            let mut cause = error.to_string();
            let mut source = error.source();
            while let Some(deeper) = source {
                cause = format!("{cause}: {deeper}");
                source = deeper.source();
            }
            return Trouble::Lost { cause };
        };
        let code = said.code().code();
        let hint = said.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
        let cause = format!("{} ({code}){hint}", said.message());
        // By class: connection, transaction rolled back, resources, prerequisite state, operator intervention, system.
        match code.get(..2) {
            Some("08" | "40" | "53" | "55" | "57" | "58") => Trouble::Busy { cause },
            // A standby says so until it is made the primary.
            Some("25") => Trouble::Busy { cause },
            _ => Trouble::Refused { cause },
        }
    }
}

impl From<Trouble> for TablesError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Lost { .. } | Trouble::Busy { .. } => TablesError::Unavailable { cause: trouble.to_string() },
            Trouble::Refused { .. } => TablesError::Unusable { cause: trouble.to_string() },
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        let advice = trouble.advice().map(|advice| format!(": {advice}")).unwrap_or_default();
        StoreError::Unusable { cause: format!("{trouble}{advice}") }
    }
}

/// What trouble means to a log: a refusal is final; of anything else it is not known what became of the batch.
pub(crate) fn of_log(partition: u16, trouble: &Trouble) -> LogError {
    match trouble {
        Trouble::Lost { .. } | Trouble::Busy { .. } => LogError::Unknown { cause: trouble.to_string() },
        Trouble::Refused { .. } => LogError::Unusable { log: log_name(partition), cause: trouble.to_string() },
    }
}

/// What a partition's log is called in an error.
pub(crate) fn log_name(partition: u16) -> String {
    format!("the log of partition {partition} in PostgreSQL")
}
