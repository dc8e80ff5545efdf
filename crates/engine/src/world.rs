//! Time and chance, as an engine is given them: the machine's own, or a simulator's.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where an engine and its clients take time and chance from. The one place that reads a clock.
pub trait World: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch. May jump, in both directions.
    fn now_ms(&self) -> u64;

    /// A number nobody can guess and that is never given twice.
    ///
    /// # Errors
    /// What the system said, if it gives no randomness.
    fn chance(&self) -> Result<u128, String>;
}

/// The machine's clock and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl World for Machine {
    fn now_ms(&self) -> u64 {
        // Before 1970 only on a machine whose clock is not set; the core never goes back anyway.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn chance(&self) -> Result<u128, String> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
        Ok(u128::from_le_bytes(bytes))
    }
}
