//! Durations as SDKs write them: `90s`, `1h30m5s`, `1.5h`, `500ms`, `7d`.
//!
//! The grammar is Go's, with what Hatchet's registration refuses taken out and its calendar units put in:
//!
//! - one or more numbers, each with its unit: `h`, `m`, `s` or `ms`. In any order, also repeated, added up. A number
//!   may have a fraction (`1.5h`, `.5s`, `2.s`). TypeScript workers send fractions of objects such as `{hours: 0.5}`;
//! - or one whole number of days (`d`, 24 hours), weeks (`w`, 7 days) or years (`y`, 365 days), and nothing else;
//! - no sign, no bare number (not even `0`), no microseconds or nanoseconds, no blanks.
//!
//! What this module does not know: what a duration is for, and what holds if none is given.

use std::fmt;

/// Bytes of a duration's text. The longest sensible one has a dozen.
pub const TEXT_BYTES_MAX: usize = 64;
/// The longest duration, in milliseconds: 292 years, where Go's own count of nanoseconds ends.
pub const MS_MAX: u64 = i64::MAX as u64 / NS_PER_MS as u64;

const NS_PER_MS: u128 = 1_000_000;
const NS_PER_SECOND: u128 = 1_000 * NS_PER_MS;
const NS_PER_HOUR: u128 = 3_600 * NS_PER_SECOND;
const NS_PER_DAY: u128 = 24 * NS_PER_HOUR;
/// Digits of a fraction that count. A quadrillionth of an hour is less than a nanosecond.
const FRACTION_DIGITS_MAX: usize = 15;

/// A duration, and the words it was given in, which go back to people in error texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoDuration {
    ms: u64,
    text: String,
}

impl GoDuration {
    /// Reads a duration. Fractions of a millisecond are rounded up, so that nothing ends before its time.
    ///
    /// # Errors
    /// Every variant of [`BadDuration`] says what to write instead.
    pub fn parse(text: &str) -> Result<GoDuration, BadDuration> {
        if text.is_empty() {
            return Err(BadDuration::Empty);
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(BadDuration::TooLong { bytes: text.len() });
        }
        if text.starts_with(['+', '-']) {
            return Err(BadDuration::Signed { text: text.to_owned() });
        }
        let mut ns: u128 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(number_end);
            let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let number = Number::read(number, text)?;
            ns += match unit {
                "h" => number.times(NS_PER_HOUR)?,
                "m" => number.times(60 * NS_PER_SECOND)?,
                "s" => number.times(NS_PER_SECOND)?,
                "ms" => number.times(NS_PER_MS)?,
                "d" | "w" | "y" => {
                    let alone = after.is_empty() && rest.len() == text.len();
                    if !alone || number.fraction_digits > 0 {
                        return Err(BadDuration::Alone { text: text.to_owned(), unit: unit.to_owned() });
                    }
                    let days = match unit {
                        "d" => 1,
                        "w" => 7,
                        _ => 365,
                    };
                    number.times(days * NS_PER_DAY)?
                }
                "" => return Err(BadDuration::NoUnit { text: text.to_owned() }),
                "ns" | "us" | "\u{b5}s" | "\u{3bc}s" => {
                    return Err(BadDuration::TooFine { text: text.to_owned(), unit: unit.to_owned() });
                }
                _ => return Err(BadDuration::UnknownUnit { text: text.to_owned(), unit: unit.to_owned() }),
            };
            rest = after;
        }
        // At most a dozen parts of at most 2^63 nanoseconds each: the sum cannot overflow.
        let ms = ns.div_ceil(NS_PER_MS);
        match u64::try_from(ms) {
            Ok(ms) if ms <= MS_MAX => Ok(GoDuration { ms, text: text.to_owned() }),
            _ => Err(BadDuration::TooLarge),
        }
    }

    /// Whole seconds, for defaults.
    pub(crate) fn seconds(seconds: u32) -> GoDuration {
        GoDuration { ms: u64::from(seconds) * 1_000, text: format!("{seconds}s") }
    }

    /// The duration in milliseconds.
    pub fn ms(&self) -> u64 {
        self.ms
    }

    /// The duration as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A decimal number: the digits before the point, and those behind it.
struct Number {
    whole: u128,
    fraction: u128,
    fraction_digits: u32,
}

impl Number {
    fn read(digits: &str, text: &str) -> Result<Number, BadDuration> {
        let bad = || BadDuration::NotANumber { text: text.to_owned(), found: digits.to_owned() };
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) => (whole, fraction),
            None => (digits, ""),
        };
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(bad());
        }
        let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS_MAX)];
        let read = |digits: &str| match digits {
            "" => Ok(0),
            digits => digits.parse::<u128>().map_err(|_| BadDuration::TooLarge),
        };
        Ok(Number {
            whole: read(whole)?,
            fraction: read(fraction)?,
            fraction_digits: u32::try_from(fraction.len()).unwrap_or(u32::MAX),
        })
    }

    /// Nanoseconds, rounded up.
    fn times(&self, unit_ns: u128) -> Result<u128, BadDuration> {
        let whole = self.whole.checked_mul(unit_ns).ok_or(BadDuration::TooLarge)?;
        if whole > i64::MAX as u128 {
            return Err(BadDuration::TooLarge);
        }
        Ok(whole + (self.fraction * unit_ns).div_ceil(10_u128.pow(self.fraction_digits)))
    }
}

/// A text that is no duration, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// Nothing was given.
    #[error("the duration is empty: write one like 1h30m5s, 90s or 500ms")]
    Empty,
    /// The text is too long to be one.
    #[error("the duration has {bytes} bytes, at most {TEXT_BYTES_MAX} are allowed: write one like 1h30m5s")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It has a sign.
    #[error("{text:?} has a sign: a duration is never negative, write it without one")]
    Signed {
        /// What was given.
        text: String,
    },
    /// A number without a unit.
    #[error("{text:?} has a number without a unit: add h, m, s or ms, like 90s")]
    NoUnit {
        /// What was given.
        text: String,
    },
    /// Something stands where a number should.
    #[error("{text:?} has {found:?} where a number should be: write it like 1h30m5s, 90s or 1.5h")]
    NotANumber {
        /// What was given.
        text: String,
        /// What stands there.
        found: String,
    },
    /// Micro- and nanoseconds.
    #[error("{text:?} is in {unit:?}, which is finer than anything here is timed: write milliseconds, like 5ms")]
    TooFine {
        /// What was given.
        text: String,
        /// The unit.
        unit: String,
    },
    /// No unit we know.
    #[error("{text:?} has the unknown unit {unit:?}: use h, m, s, ms, or a whole number of d, w or y alone")]
    UnknownUnit {
        /// What was given.
        text: String,
        /// The unit.
        unit: String,
    },
    /// A calendar unit with something beside it, or with a fraction.
    #[error("{text:?}: {unit:?} takes one whole number and nothing beside it; write hours instead, like 36h30m")]
    Alone {
        /// What was given.
        text: String,
        /// The unit.
        unit: String,
    },
    /// Longer than can be counted.
    #[error("the duration is longer than 292 years: write a shorter one")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ms(text: &str) -> u64 {
        let duration = GoDuration::parse(text).unwrap_or_else(|bad| panic!("{text:?}: {bad}"));
        assert_eq!(duration.as_str(), text);
        duration.ms()
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        match GoDuration::parse(text) {
            Ok(found) => panic!("{text:?} was read as {} ms", found.ms()),
            Err(bad) => bad.to_string(),
        }
    }

    #[test]
    fn what_the_sdks_send() {
        // Python divides by hours and minutes where it can; TypeScript writes all three; Go writes `1m0s`.
        assert_eq!(ms("24h"), 24 * 3_600_000);
        assert_eq!(ms("5m"), 300_000);
        assert_eq!(ms("61s"), 61_000);
        assert_eq!(ms("0s"), 0);
        assert_eq!(ms("0h"), 0);
        assert_eq!(ms("1h30m5s"), 5_405_000);
        assert_eq!(ms("1h2m3s500ms"), 3_723_500);
        assert_eq!(ms("1m0s"), 60_000);
        assert_eq!(ms("500ms"), 500);
    }

    #[test]
    fn fractions_count_and_round_up() {
        assert_eq!(ms("1.5h"), 5_400_000);
        assert_eq!(ms("0.5h"), 1_800_000);
        assert_eq!(ms(".5s"), 500);
        assert_eq!(ms("2.s"), 2_000);
        assert_eq!(ms("0.1ms"), 1);
        assert_eq!(ms("1.0001s"), 1_001);
        assert_eq!(ms("0.3333333333333333333333333333h"), 1_200_000);
    }

    #[test]
    fn any_order_and_repetition_add_up_as_in_go() {
        assert_eq!(ms("30s1h"), 3_630_000);
        assert_eq!(ms("1s1s1s"), 3_000);
    }

    #[test]
    fn days_weeks_and_years_stand_alone() {
        assert_eq!(ms("1d"), 86_400_000);
        assert_eq!(ms("2w"), 14 * 86_400_000);
        assert_eq!(ms("1y"), 365 * 86_400_000);
        for text in ["1d2h", "2h1d", "1d1d", "1.5d", "1w1s", "1.0y"] {
            assert!(refused(text).contains("whole number and nothing beside it"), "{text}");
        }
    }

    #[test]
    fn what_is_refused_says_what_to_write() {
        assert!(refused("").contains("empty"));
        for text in ["-5s", "+5s", "-0s"] {
            assert!(refused(text).contains("has a sign"), "{text}");
        }
        for text in ["0", "90", "1h30", "1.5"] {
            assert!(refused(text).contains("without a unit"), "{text}");
        }
        for text in ["5ns", "5us", "5\u{b5}s", "5\u{3bc}s"] {
            assert!(refused(text).contains("milliseconds"), "{text}");
        }
        for text in ["5 s", "5x", "5sec", "5S", "1h-5m", "1e3s", "5s "] {
            assert!(refused(text).contains("unknown unit"), "{text}");
        }
        for text in ["s", ".s", "h5m", "1.2.3s", "...", " 5s", "\u{661}s"] {
            assert!(refused(text).contains("where a number should be"), "{text}");
        }
    }

    #[test]
    fn limits_hold() {
        assert_eq!(ms("292y"), 292 * 365 * 86_400_000);
        assert_eq!(ms("9223372036854ms"), MS_MAX);
        for text in ["293y", "9223372036855ms", "2000000h2000000h", "99999999999999999999999999999999999999999999s"] {
            assert!(refused(text).contains("292 years"), "{text}");
        }
        assert!(refused(&"1s".repeat(40)).contains("80 bytes"));
    }
}
