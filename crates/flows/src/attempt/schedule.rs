//! What becomes of a delivery after a try at it. Pure.

use serde::{Deserialize, Serialize};

/// What an endpoint said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// An answer with this status, which asked to wait for so many milliseconds.
    Status(u16, Option<u64>),
    /// None: the connection, the name or the time.
    Nothing,
    /// It was not called, because it may not be.
    Refused,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// Nothing more: it took it.
    Delivered,
    /// Another try after so many milliseconds.
    Again(u64),
    /// It goes to the dead letters.
    Dead,
    /// As `Dead`, and nothing more is to be sent there: it said so (410).
    Gone,
}

/// Waits between tries by default: over most of a day.
pub const WAITS_DEFAULT_MS: [u64; 7] = [5_000, 30_000, 120_000, 600_000, 3_600_000, 14_400_000, 43_200_000];
/// The longest an endpoint may ask us to wait.
pub const WAIT_MAX_MS: u64 = 24 * 60 * 60 * 1_000;
/// Waits are longer by up to this part of themselves, so that what failed together does not come back together.
const JITTER_PERCENT: u64 = 20;

/// What follows after the `tried`th try, counted from 1. `chance` is the delivery's own.
///
/// Only 2xx is success; redirects are not followed, so they are failures that no repeat helps, like other refusals.
/// 408, 425 and 429 and everything from 500 on may be otherwise next time.
pub fn next(said: Said, tried: u32, waits_ms: &[u64], chance: u64) -> Next {
    let asked_ms = match said {
        Said::Status(200..=299, _) => return Next::Delivered,
        Said::Status(410, _) => return Next::Gone,
        Said::Status(408 | 425 | 429 | 500.., asked_ms) => asked_ms,
        Said::Status(..) => return Next::Dead,
        // An address that may not be called now may have been a mistake of a name server: that is not known yet.
        Said::Nothing | Said::Refused => None,
    };
    let Some(wait_ms) = (tried as usize).checked_sub(1).and_then(|nth| waits_ms.get(nth)) else { return Next::Dead };
    let jitter_max = wait_ms * JITTER_PERCENT / 100;
    let wait_ms = wait_ms + mix(chance ^ u64::from(tried)) % (jitter_max + 1);
    Next::Again(wait_ms.max(asked_ms.unwrap_or(0)).min(WAIT_MAX_MS))
}

/// Spreads neighbours far apart (the finaliser of splitmix64).
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: [u64; 3] = [1_000, 10_000, 100_000];

    #[test]
    fn only_2xx_is_success_and_only_some_refusals_are_tried_again() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(next(Said::Status(status, None), 1, &WAITS, 0), Next::Delivered, "{status}");
        }
        for status in [100, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 413, 422] {
            assert_eq!(next(Said::Status(status, Some(1)), 1, &WAITS, 0), Next::Dead, "{status}");
        }
        assert_eq!(next(Said::Status(410, None), 1, &WAITS, 0), Next::Gone);
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(next(Said::Status(status, None), 1, &WAITS, 0), Next::Again(_)), "{status}");
        }
        for said in [Said::Nothing, Said::Refused] {
            assert!(matches!(next(said, 1, &WAITS, 0), Next::Again(_)), "{said:?}");
        }
    }

    #[test]
    fn waits_grow_as_configured_with_jitter_and_end() {
        for tried in 1..=3_u32 {
            let wait = WAITS[tried as usize - 1];
            let waits: Vec<u64> = (0..100)
                .map(|chance| match next(Said::Nothing, tried, &WAITS, chance) {
                    Next::Again(wait_ms) => wait_ms,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert!(waits.iter().all(|found| (wait..=wait + wait / 5).contains(found)), "{waits:?}");
            let distinct: std::collections::BTreeSet<_> = waits.iter().collect();
            assert!(distinct.len() > 50, "what failed together does not come back together");
            assert_eq!(
                next(Said::Nothing, tried, &WAITS, 7),
                next(Said::Nothing, tried, &WAITS, 7),
                "the same when replayed"
            );
        }
        assert_eq!(next(Said::Nothing, 4, &WAITS, 0), Next::Dead);
        assert_eq!(next(Said::Nothing, 1, &[], 0), Next::Dead, "without waits there is one try");
    }

    #[test]
    fn an_endpoint_may_ask_for_more_time_and_not_for_less() {
        assert_eq!(next(Said::Status(429, Some(120_000)), 1, &WAITS, 0), Next::Again(120_000));
        assert!(matches!(next(Said::Status(503, Some(1)), 1, &WAITS, 0), Next::Again(1_000..)));
        assert_eq!(next(Said::Status(429, Some(u64::MAX)), 1, &WAITS, 0), Next::Again(WAIT_MAX_MS));
        assert_eq!(
            next(Said::Status(429, Some(120_000)), 4, &WAITS, 0),
            Next::Dead,
            "the tries are counted all the same"
        );
    }
}
