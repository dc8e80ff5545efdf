//! How numbers, times, ids and JSON are written for people.
//!
//! `assets/lib.js` writes durations and ages in the same words, so that a script taking over a number does not change
//! how it reads. Whatever is missing or of the wrong type is shown as a dash: a page never fails over a field.

use minijinja::{Environment, Value};

const MISSING: &str = "–";
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Bars are drawn on a scale of a thousand, whatever their width on the screen.
pub(super) const SCALE: u64 = 1_000;

/// Makes the filters known to the templates.
pub(super) fn register(env: &mut Environment<'static>) {
    env.add_filter("took", |ms: Value| number(&ms).map_or_else(|| MISSING.into(), took));
    env.add_filter("between", |from: Value, to: Value| Some(number(&to)?.saturating_sub(number(&from)?)));
    env.add_filter("clock", |at: Value| number(&at).map_or_else(|| MISSING.into(), utc));
    env.add_filter("time", time_element);
    env.add_filter("tail", |id: Value| id.as_str().map_or_else(|| MISSING.into(), |id| tail_of(id).to_owned()));
    env.add_filter("own_key", |key: Value| key.as_str().map_or_else(|| MISSING.into(), |key| own_key(key).to_owned()));
    env.add_filter("part", |text: Value| if text.is_none() { String::new() } else { path_part(&text.to_string()) });
    env.add_filter("pretty", pretty);
    env.add_filter("grouped", |n: Value| number(&n).map_or_else(|| MISSING.into(), grouped));
    env.add_filter("along", |at: Value, from: Value, to: Value| {
        along(number(&at).unwrap_or_default(), number(&from).unwrap_or_default(), number(&to).unwrap_or_default())
    });
}

/// The last eight characters of an id: the random part of a time-ordered UUID, so neighbours look different. The zeros a
/// run's id ends with tell nothing.
pub(super) fn tail_of(id: &str) -> &str {
    let id = id.strip_suffix("0000").unwrap_or(id);
    id.char_indices().rev().nth(7).map_or(id, |(start, _)| &id[start..])
}

/// A session's key without the tenant it begins with: whoever reads a page has only one. Other keys are given whole.
pub(super) fn own_key(key: &str) -> &str {
    match key.split_once(':') {
        Some((tenant, rest)) if tenant.len() == 36 && tenant.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') => {
            rest
        }
        _ => key,
    }
}

/// Where `at` lies between `from` and `to`, on [`SCALE`].
pub(super) fn along(at: u64, from: u64, to: u64) -> u64 {
    let span = to.saturating_sub(from).max(1);
    at.saturating_sub(from).min(span).saturating_mul(SCALE) / span
}

/// A duration with about three significant figures.
pub(super) fn took(ms: u64) -> String {
    match ms {
        0..SECOND_MS => format!("{ms} ms"),
        SECOND_MS..MINUTE_MS => {
            let digits = if ms < 10 * SECOND_MS { 2 } else { 1 };
            format!("{:.digits$} s", ms as f64 / SECOND_MS as f64)
        }
        MINUTE_MS..HOUR_MS => format!("{} min {:02} s", ms / MINUTE_MS, ms % MINUTE_MS / SECOND_MS),
        HOUR_MS..DAY_MS => format!("{} h {:02} min", ms / HOUR_MS, ms % HOUR_MS / MINUTE_MS),
        DAY_MS.. => format!("{} d {} h", ms / DAY_MS, ms % DAY_MS / HOUR_MS),
    }
}

fn ago(at: u64, now_ms: u64) -> String {
    let age_ms = now_ms.saturating_sub(at);
    match age_ms {
        0..SECOND_MS => "just now".into(),
        SECOND_MS..MINUTE_MS => format!("{} s ago", age_ms / SECOND_MS),
        MINUTE_MS..HOUR_MS => format!("{} min ago", age_ms / MINUTE_MS),
        HOUR_MS..DAY_MS => format!("{} h ago", age_ms / HOUR_MS),
        DAY_MS.. => format!("{} d ago", age_ms / DAY_MS),
    }
}

/// An age as a `time` element that scripts keep current. Safe to mark as safe: it is made of numbers only.
fn time_element(at: Value, now_ms: Value) -> Value {
    let Some(at) = number(&at) else { return Value::from(MISSING) };
    let (utc, ago) = (utc(at), ago(at, number(&now_ms).unwrap_or_default()));
    Value::from_safe_string(format!(r#"<time datetime="{utc}" title="{utc}" data-at="{at}">{ago}</time>"#))
}

/// ISO 8601 in UTC, to the millisecond.
fn utc(at: u64) -> String {
    let (year, month, day) = date(at / DAY_MS);
    let (hour, minute) = (at % DAY_MS / HOUR_MS, at % HOUR_MS / MINUTE_MS);
    let (second, ms) = (at % MINUTE_MS / SECOND_MS, at % SECOND_MS);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The Gregorian date of a day counted from 1970-01-01, found by taking off whole years, then whole months.
///
/// Ten lines instead of a calendar library: this is the only place that needs a date. Years are capped at 9999.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while year < 9999 && days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days.min(30) + 1)
}

/// Percent-encodes a text for use as one segment of a path, or as a value in a query.
fn path_part(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn pretty(json: Value) -> String {
    serde_json::to_string_pretty(&json).unwrap_or_else(|_| MISSING.into())
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            // A narrow no-break space: read as one number everywhere, mistaken for a decimal point nowhere.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn number(value: &Value) -> Option<u64> {
    u64::try_from(value.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_the_tenant_out_of_a_session_and_nothing_out_of_another_key() {
        let tenant = "ec277da3-46d1-8163-8980-6ba1c7a2b71f";
        assert_eq!(own_key(&format!("{tenant}:orders:anna:web")), "orders:anna:web");
        for whole in ["orders:anna:web", "no colon", tenant] {
            assert_eq!(own_key(whole), whole);
        }
    }

    #[test]
    fn writes_durations_and_dates_for_people() {
        assert_eq!(took(812), "812 ms");
        assert_eq!(took(1_240), "1.24 s");
        assert_eq!(took(12_400), "12.4 s");
        assert_eq!(took(184_000), "3 min 04 s");
        assert_eq!(took(90 * MINUTE_MS), "1 h 30 min");
        assert_eq!(took(50 * HOUR_MS), "2 d 2 h");
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
        assert!(utc(u64::MAX).starts_with("9999-"));
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }

    #[test]
    fn keeps_any_text_inside_its_path_segment() {
        assert_eq!(path_part("a/../b?c#d é"), "a%2F..%2Fb%3Fc%23d%20%C3%A9");
        assert_eq!(tail_of("0198c0de-0000-7000-8000-00003f9a2c41"), "3f9a2c41");
        assert_eq!(tail_of("01a20f58-6d02-7001-8005-8b9f4a500000"), "8b9f4a50");
        assert_eq!(tail_of("éé"), "éé");
    }

    #[test]
    fn places_moments_on_a_bar_without_overflowing_it() {
        assert_eq!(along(150, 100, 200), 500);
        assert_eq!(along(50, 100, 200), 0);
        assert_eq!(along(u64::MAX, 100, 200), SCALE);
        assert_eq!(along(100, 100, 100), 0);
    }
}
