//! JSON that goes through: checked on the way in, put together on the way out.

use serde_json::Value;
use serde_json::value::RawValue;

/// Bytes of one payload. The peers' own limit for a message.
pub(crate) const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Checks that a text is JSON and has no NUL character in it, which no database or language downstream bears.
///
/// # Errors
/// A sentence to follow the name of the field.
pub(crate) fn check(text: &str) -> Result<(), String> {
    if text.len() > BYTES_MAX {
        return Err(format!(
            "has {} bytes, at most {BYTES_MAX} are allowed: pass a reference to what is larger",
            text.len()
        ));
    }
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return Err(format!("is not JSON ({error}): send a JSON document"));
    }
    // Only a text with the escape in it can hold one; whether it does is told by reading it.
    if text.contains("\\u0000") && serde_json::from_str::<Value>(text).is_ok_and(|value| has_nul(&value)) {
        return Err("contains the NUL character \\u0000, which can't be stored: remove it".to_owned());
    }
    Ok(())
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Checks that a text is a JSON object without NUL characters.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_object(text: &str) -> Result<(), String> {
    check(text)?;
    if text.trim_start().starts_with('{') { Ok(()) } else { Err("must be a JSON object, like {}".to_owned()) }
}

/// Stored bytes as JSON that is copied, not read. Nothing, and what is no JSON, is `null`.
pub(crate) fn raw(bytes: &[u8]) -> Box<RawValue> {
    let text = std::str::from_utf8(bytes).unwrap_or("");
    let raw = serde_json::from_str::<&RawValue>(text).ok().map(ToOwned::to_owned);
    raw.unwrap_or_else(|| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_or_has_a_nul_is_refused() {
        assert_eq!(check("{\"a\": [1, \"\\\\u0000\"]}"), Ok(()));
        assert!(check("{\"a\": \"\\u0000\"}").is_err_and(|why| why.contains("NUL")));
        assert!(check("{\"a\\u0000\": 1}").is_err());
        assert!(check("{'a': 1}").is_err_and(|why| why.contains("not JSON")));
        assert!(check("").is_err());
        assert!(check_object("[]").is_err());
        assert!(check_object(" {}").is_ok());
        assert!(check(&format!("\"{}\"", "x".repeat(BYTES_MAX))).is_err_and(|why| why.contains("bytes")));
        assert_eq!(raw(b"").get(), "null");
        assert_eq!(raw(b" {\"a\":1} ").get(), "{\"a\":1}");
    }
}
