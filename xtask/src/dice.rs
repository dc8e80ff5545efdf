//! Chance that can be had again: the same seed gives the same throws.

use std::time::{SystemTime, UNIX_EPOCH};

/// A seed that nobody chose.
pub(crate) fn seed_by_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64 % 1_000_000_000)
}

/// A SplitMix64 sequence.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice for one purpose: `purpose` keeps the throws of one thread apart from those of another.
    pub(crate) fn new(seed: u64, purpose: u64) -> Dice {
        let mut dice = Dice(seed ^ purpose.wrapping_mul(0xd134_2543_de82_ef95));
        dice.throw();
        dice
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "the lower bound comes first");
        low + self.throw() % (high - low + 1)
    }

    /// True once in `n` throws.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.throw().is_multiple_of(n.max(1))
    }
}
