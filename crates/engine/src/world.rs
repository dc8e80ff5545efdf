//! Time and chance, as an engine is given them: the machine's own, or a simulator's.

use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where an engine and its clients take time and chance from. The one place that reads a clock.
pub trait World: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch. May jump, in both directions.
    fn now_ms(&self) -> u64;

    /// Milliseconds since some moment of the process, by a clock that goes at an even pace and never jumps.
    fn elapsed_ms(&self) -> u64;

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

    fn elapsed_ms(&self) -> u64 {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        BEGAN.get_or_init(Instant::now).elapsed().as_millis() as u64
    }

    fn chance(&self) -> Result<u128, String> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
        Ok(u128::from_le_bytes(bytes))
    }
}

/// The time a partition decides with: the wall clock's, but never behind a time it has decided with. Where the wall clock
/// was ahead once and was set back, it goes on from there at an even pace, so that whatever waits goes on too.
#[derive(Debug)]
pub(crate) struct PartitionClock {
    now: u64,
    elapsed_ms: u64,
}

impl PartitionClock {
    /// Goes on from the latest time decided with.
    pub(crate) fn new(latest: u64, world: &dyn World) -> Self {
        PartitionClock { now: latest, elapsed_ms: world.elapsed_ms() }
    }

    pub(crate) fn now(&mut self, world: &dyn World) -> u64 {
        let elapsed_ms = world.elapsed_ms();
        let since = elapsed_ms.saturating_sub(self.elapsed_ms);
        self.elapsed_ms = elapsed_ms;
        self.now = world.now_ms().max(self.now.saturating_add(since));
        self.now
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Set {
        wall: AtomicU64,
        elapsed: AtomicU64,
    }

    impl World for Set {
        fn now_ms(&self) -> u64 {
            self.wall.load(Ordering::Relaxed)
        }

        fn elapsed_ms(&self) -> u64 {
            self.elapsed.load(Ordering::Relaxed)
        }

        fn chance(&self) -> Result<u128, String> {
            Ok(4)
        }
    }

    #[test]
    fn a_clock_set_back_does_not_stop_time() {
        let world = Set::default();
        let at = |wall, elapsed| {
            world.wall.store(wall, Ordering::Relaxed);
            world.elapsed.store(elapsed, Ordering::Relaxed);
        };
        at(1_000, 10);
        let mut clock = PartitionClock::new(0, &world);
        assert_eq!(clock.now(&world), 1_000);
        at(1_500, 510);
        assert_eq!(clock.now(&world), 1_500, "the wall clock leads");
        at(900_000, 520);
        assert_eq!(clock.now(&world), 900_000, "also when it is set forward");
        at(1_600, 620);
        assert_eq!(clock.now(&world), 900_100, "set back, time goes on from where it was");
        at(2_000_000, 700);
        assert_eq!(clock.now(&world), 2_000_000, "until the wall clock has caught up");
        let mut next = PartitionClock::new(3_000_000, &world);
        at(2_000_100, 800);
        assert_eq!(next.now(&world), 3_000_100, "a restart goes on from what was decided with");
    }
}
