//! Latencies as they were observed, every one of them kept: no histogram rounds them.

use std::time::Duration;

/// A set of observed latencies.
#[derive(Debug, Default, Clone)]
pub struct Latencies {
    nanos: Vec<u64>,
    sorted: bool,
}

impl Latencies {
    /// An empty set with room for `expected` of them, so that a measurement does not pay for growing it.
    #[must_use]
    pub fn with_room(expected: usize) -> Latencies {
        Latencies { nanos: Vec::with_capacity(expected), sorted: true }
    }

    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.nanos.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        self.sorted = false;
    }

    /// Takes over all of `other`.
    pub fn merge(&mut self, other: Latencies) {
        self.nanos.extend(other.nanos);
        self.sorted = false;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nanos.len()
    }

    /// The latency in milliseconds that `percent` of 100 did not exceed; 0 for an empty set.
    pub fn percentile_ms(&mut self, percent: f64) -> f64 {
        assert!((0.0..=100.0).contains(&percent), "a percentile lies between 0 and 100");
        if self.nanos.is_empty() {
            return 0.0;
        }
        if !self.sorted {
            self.nanos.sort_unstable();
            self.sorted = true;
        }
        let rank = (self.nanos.len() as f64 * percent / 100.0).ceil() as usize;
        self.nanos[rank.clamp(1, self.nanos.len()) - 1] as f64 / 1e6
    }
}

/// The median of a few figures; 0 for none. Of an even number, the higher of the two in the middle.
#[must_use]
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_observed_values() {
        let mut latencies = Latencies::default();
        (1..=100).rev().for_each(|ms| latencies.add(Duration::from_millis(ms)));
        let found = [50.0, 99.0, 100.0, 0.0].map(|percent| latencies.percentile_ms(percent));
        assert_eq!(found, [50.0, 99.0, 100.0, 1.0]);
    }

    #[test]
    fn nothing_observed_is_zero() {
        assert_eq!(Latencies::default().percentile_ms(50.0), 0.0);
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
    }
}
