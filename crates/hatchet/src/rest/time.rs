//! Times as REST has them: RFC 3339, to the millisecond.

use serde::{Serialize, Serializer};

/// Milliseconds since the Unix epoch, written as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub u64);

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The end of the year 9999, beyond which the form has no digits.
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX).min(253_402_300_799_999);
        let (year, month, day) = date_of(ms.div_euclid(DAY_MS));
        let of_day = ms.rem_euclid(DAY_MS);
        let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
        let (seconds, millis) = (of_day / 1_000 % 60, of_day % 1_000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
    }
}

/// Year, month and day of a day counted from 1970-01-01. Howard Hinnant's `civil_from_days`.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// The inverse of [`date_of`]: Howard Hinnant's `days_from_civil`.
fn day_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Reads RFC 3339, with any number of digits of a second and any offset; without one it is UTC. Times before 1970 are
/// 1970. `None` for what is no time.
pub(crate) fn parse(text: &str) -> Option<u64> {
    /// `2026-11-24T18:28:20.123456789+00:00` has 35.
    const TEXT_BYTES_MAX: usize = 48;
    if text.len() > TEXT_BYTES_MAX || !text.is_ascii() {
        return None;
    }
    let number = |from: usize, to: usize, max: i64| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<i64>().ok().filter(|number| *number <= max)
    };
    let is = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|byte| wanted.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4, 9_999)?, number(5, 7, 12)?, number(8, 10, 31)?);
    let (hours, minutes, seconds) = (number(11, 13, 23)?, number(14, 16, 59)?, number(17, 19, 60)?);
    if month == 0 || day == 0 || date_of(day_of(year, month, day)) != (year, month, day) {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let three = format!("{:0<3}", fraction.get(..digits.min(3))?);
        millis = three.parse::<i64>().ok()?;
        rest = fraction.get(digits..)?;
    }
    let offset_minutes = match rest.as_bytes() {
        b"" | b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit()) => {
            let two = |high: &u8, low: &u8| i64::from(high - b'0') * 10 + i64::from(low - b'0');
            let minutes = two(h1, h2) * 60 + two(m1, m2);
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let of_day = (hours * 60 + minutes - offset_minutes) * 60_000 + seconds * 1_000 + millis;
    Some(u64::try_from(day_of(year, month, day) * DAY_MS + of_day).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_545_000_007, "2026-11-24T18:30:00.007Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ] {
            assert_eq!(Time(ms).to_string(), text);
            assert_eq!(parse(text), Some(ms));
        }
        assert_eq!(parse("2026-11-24T18:28:20.123456Z"), parse("2026-11-24T19:28:20.123+01:00"));
        assert_eq!(parse("2026-11-24T18:28:20"), parse("2026-11-24T18:28:20Z"));
        assert_eq!(parse("1969-12-31T23:59:59Z"), Some(0));
        for no_time in
            ["", "now", "2026-02-30T00:00:00Z", "2026-11-24", "2026-11-24T18:28:20.Z", "2026-11-24T18:28:20x"]
        {
            assert_eq!(parse(no_time), None, "{no_time}");
        }
        assert!(Time(u64::MAX).to_string().starts_with("9999-12-31"));
    }
}
