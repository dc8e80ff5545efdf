//! All chance of a simulation, from one seed.

use mainspring_core::id::mix;

/// SplitMix64. Each actor has its own, so that one that asks more often does not change what others get.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// All chance from one seed.
    pub fn new(seed: u64) -> Self {
        Chance(mix(seed ^ 0x5eed))
    }

    /// Another source, that this one's further use does not touch.
    pub fn fork(&mut self) -> Chance {
        Chance::new(self.word())
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// 128 bits.
    pub fn wide(&mut self) -> u128 {
        (u128::from(self.word()) << 64) | u128::from(self.word())
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, share: u64) -> bool {
        self.below(1_000) < share
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
