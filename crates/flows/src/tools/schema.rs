//! JSON Schema: whether one can be used, and what of a value does not fit it. By crate `jsonschema`; nothing is ever
//! fetched from elsewhere.

use serde_json::Value;

use super::tool::Finding;

/// Bytes of one schema.
const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Findings listed of one value.
const FINDINGS_MAX: usize = 50;

/// Checks that a schema can be used.
pub fn check(place: &str, schema: &Value, found: &mut Vec<Finding>) {
    let bytes = schema.to_string().len();
    if bytes > SCHEMA_BYTES_MAX {
        found.push(Finding::new(place, format!("it has {bytes} bytes, at most {SCHEMA_BYTES_MAX} are taken")));
    } else if let Err(error) = jsonschema::validator_for(schema) {
        found.push(Finding::new(place, format!("it is no JSON Schema that can be used: {error}")));
    }
}

/// Everything of a value that does not fit a schema, by place.
pub fn findings(schema: &Value, value: &Value) -> Vec<Finding> {
    // The schema of most tools that say nothing.
    if *schema == serde_json::json!({ "type": "object" }) && value.is_object() {
        return Vec::new();
    }
    match jsonschema::validator_for(schema) {
        Ok(validator) => validator
            .iter_errors(value)
            .take(FINDINGS_MAX)
            .map(|error| Finding::new(error.instance_path().to_string(), error.masked().to_string()))
            .collect(),
        Err(error) => vec![Finding::new("", format!("its schema can't be used: {error}"))],
    }
}
