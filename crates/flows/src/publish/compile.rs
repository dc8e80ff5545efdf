//! What a draft becomes, if nobody else compiles it: the same content in one spelling, with an index of its items. The
//! same draft gives the same bytes, and so the same digest.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::check::{KNOWN, id_of};

/// The form of compiled bundles. It goes up when what is written changes.
const FORMAT: u32 = 1;

/// A compiled bundle: `{kind, format, items, index}` of the kinds that are lists, `{kind, format, content}` of others.
///
/// # Errors
/// What is wrong with a text that is no JSON: nobody has checked it then.
pub fn compiled(kind: &str, text: &[u8]) -> Result<Bytes, String> {
    let content: Value = serde_json::from_slice(text).map_err(|error| format!("{kind} is no JSON: {error}"))?;
    let bundle = match &content {
        Value::Array(items) if KNOWN.contains(&kind) => {
            let places = items.iter().enumerate().filter_map(|(nth, item)| Some((id_of(item)?, nth)));
            let index: BTreeMap<&str, usize> = places.collect();
            json!({ "kind": kind, "format": FORMAT, "items": items, "index": index })
        }
        _ => json!({ "kind": kind, "format": FORMAT, "content": content }),
    };
    // Without blanks. Members are in the order of their names, because that is how `Value` keeps them.
    Ok(Bytes::from(bundle.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spelling_of_a_draft_does_not_matter() {
        let one = compiled("rules", br#"[{"id": "a", "when": 1}, {"id": "b"}]"#).expect("compiled");
        let other = compiled("rules", b"[ {\"when\":1,\"id\":\"a\"},\n{\"id\":\"b\"} ]").expect("compiled");
        assert_eq!(one, other);
        let read: Value = serde_json::from_slice(&one).expect("JSON");
        assert_eq!(read["index"], json!({ "a": 0, "b": 1 }));
        let other = compiled("brain", br#"{"model": "m"}"#).expect("compiled");
        assert_eq!(&other[..], br#"{"content":{"model":"m"},"format":1,"kind":"brain"}"#);
    }
}
