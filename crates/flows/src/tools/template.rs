//! Templates: JSON and text with places that are filled in. `{{args.order.id}}` or `{{/args/order/id}}`; a string that is
//! one place alone becomes whatever is there, of any type.
//!
//! What is not there is an error, never an empty text: a request without its order number must not be sent.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How text is put in the place it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// As a part of a URL: whatever has a meaning there is escaped.
    Url,
    /// As the value of a header: control characters are refused.
    Header,
}

/// A template that can't be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// A place without an end.
    #[error("\"{{{{\" without \"}}}}\" in {text:?}")]
    Open {
        /// The text.
        text: String,
    },
    /// Nothing is where the template looks.
    #[error("there is no {path}")]
    Missing {
        /// Where it looks.
        path: String,
    },
    /// Something is there that is no text.
    #[error("{path} is {found}, and goes into a text: use a string, a number, true or false")]
    NoText {
        /// Where it looks.
        path: String,
        /// What is there.
        found: &'static str,
    },
    /// A control character in a header.
    #[error("{path} has a line end or another control character, and goes into a header")]
    Control {
        /// Where it looks.
        path: String,
    },
}

enum Piece<'t> {
    Text(&'t str),
    Place(&'t str),
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, BadTemplate> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        let Some(end) = rest[at..].find("}}") else { return Err(BadTemplate::Open { text: text.to_owned() }) };
        if at > 0 {
            pieces.push(Piece::Text(&rest[..at]));
        }
        pieces.push(Piece::Place(rest[at + 2..at + end].trim()));
        rest = &rest[at + end + 2..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

/// What is at a path: `a.b.0`, or a JSON pointer.
pub fn look<'v>(scope: &'v Value, path: &str) -> Option<&'v Value> {
    if path.starts_with('/') {
        return scope.pointer(path);
    }
    path.split('.').try_fold(scope, |found, part| match found {
        Value::Object(members) => members.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

fn text_of(value: &Value, path: &str) -> Result<String, BadTemplate> {
    let no_text = |found| BadTemplate::NoText { path: path.to_owned(), found };
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null => Err(no_text("null")),
        Value::Array(_) => Err(no_text("an array")),
        Value::Object(_) => Err(no_text("an object")),
    }
}

/// Fills text in.
///
/// # Errors
/// [`BadTemplate`].
pub fn fill_text(template: &str, scope: &Value, encoding: Encoding) -> Result<String, BadTemplate> {
    let mut filled = String::new();
    for piece in pieces(template)? {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Place(path) => {
                let value = look(scope, path).ok_or_else(|| BadTemplate::Missing { path: path.to_owned() })?;
                let text = text_of(value, path)?;
                match encoding {
                    Encoding::Plain => filled.push_str(&text),
                    Encoding::Url => escape(&text, &mut filled),
                    Encoding::Header if text.chars().any(char::is_control) => {
                        return Err(BadTemplate::Control { path: path.to_owned() });
                    }
                    Encoding::Header => filled.push_str(&text),
                }
            }
        }
    }
    Ok(filled)
}

/// Escapes all but the characters RFC 3986 calls unreserved.
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Fills JSON in, in every string of it.
///
/// # Errors
/// [`BadTemplate`].
pub fn fill(template: &Value, scope: &Value) -> Result<Value, BadTemplate> {
    Ok(match template {
        Value::String(text) => match pieces(text)?.as_slice() {
            [Piece::Place(path)] => {
                look(scope, path).cloned().ok_or_else(|| BadTemplate::Missing { path: (*path).to_owned() })?
            }
            _ => Value::String(fill_text(text, scope, Encoding::Plain)?),
        },
        Value::Array(items) => Value::Array(items.iter().map(|item| fill(item, scope)).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            let filled = members.iter().map(|(name, member)| Ok((name.clone(), fill(member, scope)?)));
            Value::Object(filled.collect::<Result<_, BadTemplate>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => template.clone(),
    })
}

/// Every path a template looks at, in order, pointers as dotted paths.
///
/// # Errors
/// [`BadTemplate::Open`].
pub fn paths(template: &Value) -> Result<Vec<String>, BadTemplate> {
    let mut found = Vec::new();
    collect(template, &mut found)?;
    Ok(found)
}

fn collect(template: &Value, found: &mut Vec<String>) -> Result<(), BadTemplate> {
    match template {
        Value::String(text) => {
            for piece in pieces(text)? {
                if let Piece::Place(path) = piece {
                    let path = path.strip_prefix('/').map_or_else(|| path.to_owned(), |rest| rest.replace('/', "."));
                    found.push(path);
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| collect(item, found)),
        Value::Object(members) => members.values().try_for_each(|member| collect(member, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// What must hold for a step to be carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// What is looked at: a place, as `{{args.insured}}`. What is not there is null.
    pub value: Value,
    /// It is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
    /// It is not this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_equals: Option<Value>,
    /// It is a number above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// It is a number below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// Whether there is anything but null and false. Without any other of these, that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

impl Condition {
    /// Whether it holds. All that is given must.
    pub fn holds(&self, scope: &Value) -> bool {
        let value = fill(&self.value, scope).unwrap_or(Value::Null);
        let there = !matches!(value, Value::Null | Value::Bool(false));
        let asked = self.equals.is_some() || self.not_equals.is_some() || self.above.is_some() || self.below.is_some();
        self.equals.as_ref().is_none_or(|wanted| value == *wanted)
            && self.not_equals.as_ref().is_none_or(|unwanted| value != *unwanted)
            && self.above.is_none_or(|above| value.as_f64().is_some_and(|found| found > above))
            && self.below.is_none_or(|below| value.as_f64().is_some_and(|found| found < below))
            && self.exists.map_or(asked || there, |exists| exists == there)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_filled_in() {
        let scope = json!({ "args": { "id": "a/b c", "n": 3, "list": [1, { "x": true }] } });
        let template =
            json!({ "whole": "{{args.list.1}}", "text": "n is {{ args.n }}!", "kept": 5, "at": "{{/args/list/0}}" });
        let filled = json!({ "whole": { "x": true }, "text": "n is 3!", "kept": 5, "at": 1 });
        assert_eq!(fill(&template, &scope), Ok(filled));
        assert_eq!(fill_text("/orders/{{args.id}}", &scope, Encoding::Url).as_deref(), Ok("/orders/a%2Fb%20c"));
        assert_eq!(paths(&template), Ok(["args.list.0", "args.n", "args.list.1"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn what_is_missing_or_no_text_is_an_error() {
        let scope = json!({ "args": { "list": [], "line": "a\r\nb", "none": null } });
        let error = |template: &str, encoding| fill_text(template, &scope, encoding).unwrap_err().to_string();
        assert_eq!(error("{{args.id}}", Encoding::Plain), "there is no args.id");
        assert!(error("{{args.list}}", Encoding::Plain).starts_with("args.list is an array"));
        assert!(error("{{args.none}}", Encoding::Plain).starts_with("args.none is null"));
        assert!(error("{{args.line}}", Encoding::Header).contains("control character"));
        assert!(error("{{args.id", Encoding::Plain).contains("without"));
        assert_eq!(fill(&json!("{{args.id}}"), &scope), Err(BadTemplate::Missing { path: "args.id".into() }));
    }

    #[test]
    fn conditions_hold_or_do_not() {
        let scope = json!({ "args": { "n": 3, "yes": true, "no": false } });
        let holds = |condition: Value| serde_json::from_value::<Condition>(condition).unwrap().holds(&scope);
        assert!(holds(json!({ "value": "{{args.yes}}" })));
        assert!(!holds(json!({ "value": "{{args.no}}" })));
        assert!(!holds(json!({ "value": "{{args.missing}}" })));
        assert!(holds(json!({ "value": "{{args.missing}}", "exists": false })));
        assert!(holds(json!({ "value": "{{args.n}}", "equals": 3, "below": 4, "above": 2 })));
        assert!(!holds(json!({ "value": "{{args.n}}", "equals": 3, "above": 3 })));
        assert!(holds(json!({ "value": "{{args.no}}", "not_equals": true })));
    }
}
