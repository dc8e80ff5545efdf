//! Circuit breakers: a provider that fails again and again is left alone for a while, then tried with one call.
//!
//! They are this process's own. What they refuse has certainly not left, so forgetting them costs a few calls at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Failures in a row after which a provider is left alone.
const FAILURES_MAX: u32 = 5;
/// How long it is left alone, in milliseconds.
const OPEN_MS: u64 = 30_000;
/// Providers remembered. Beyond that all are forgotten, which costs each a few calls.
const BREAKERS_MAX: usize = 10_000;

/// One provider's breaker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Breaker {
    failures: u32,
    /// Left alone until then.
    until: Option<u64>,
    /// One call is finding out whether it works again.
    probing: bool,
}

impl Breaker {
    /// Whether a call may go out; if not, how long to wait.
    fn enter(&mut self, now: u64) -> Result<(), u64> {
        match self.until {
            None => Ok(()),
            Some(until) if now < until => Err(until - now),
            // The one that probes is given as long again, should it never come back.
            Some(_) if self.probing => {
                self.until = Some(now + OPEN_MS);
                self.probing = false;
                Err(OPEN_MS)
            }
            Some(_) => {
                self.probing = true;
                self.until = Some(now + OPEN_MS);
                Ok(())
            }
        }
    }

    fn leave(&mut self, well: bool, now: u64) {
        if well {
            *self = Breaker::default();
            return;
        }
        self.failures += 1;
        if self.failures >= FAILURES_MAX {
            self.until = Some(now + OPEN_MS);
            self.probing = false;
        }
    }
}

/// All providers' breakers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Breakers(Arc<Mutex<HashMap<String, Breaker>>>);

impl Breakers {
    /// Whether a call to a provider may go out.
    ///
    /// # Errors
    /// How long to wait, in milliseconds.
    pub fn enter(&self, provider: &str, now: u64) -> Result<(), u64> {
        let mut breakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match breakers.get_mut(provider) {
            Some(breaker) => breaker.enter(now),
            None => Ok(()),
        }
    }

    /// How the call went: whether the provider is in order.
    pub fn leave(&self, provider: &str, well: bool, now: u64) {
        let mut breakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if well && !breakers.contains_key(provider) {
            return;
        }
        if breakers.len() >= BREAKERS_MAX {
            breakers.clear();
        }
        let breaker = breakers.entry(provider.to_owned()).or_default();
        breaker.leave(well, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_fails_is_left_alone_and_then_probed_once() {
        let breakers = Breakers::default();
        for _ in 0..FAILURES_MAX {
            assert_eq!(breakers.enter("p", 0), Ok(()));
            breakers.leave("p", false, 0);
        }
        assert_eq!(breakers.enter("p", 10), Err(OPEN_MS - 10));
        assert_eq!(breakers.enter("other", 10), Ok(()));
        assert_eq!(breakers.enter("p", OPEN_MS), Ok(()), "the first one after that finds out");
        assert_eq!(breakers.enter("p", OPEN_MS), Err(OPEN_MS), "and nobody else meanwhile");
        breakers.leave("p", false, OPEN_MS + 5);
        assert_eq!(breakers.enter("p", OPEN_MS + 5), Err(OPEN_MS));
        assert_eq!(breakers.enter("p", 2 * OPEN_MS + 5), Ok(()));
        breakers.leave("p", true, 2 * OPEN_MS + 6);
        assert_eq!(breakers.enter("p", 2 * OPEN_MS + 6), Ok(()));
    }
}
