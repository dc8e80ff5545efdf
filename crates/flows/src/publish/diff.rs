//! What is different between two versions: by kind, the ids that came, went and changed.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::check::id_of;

/// Ids listed of each sort. The rest is counted.
const IDS_MAX: usize = 1_000;

/// What is different in one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct KindDiff {
    /// Ids, or names of members, that are new.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that say something else.
    pub changed: Vec<String>,
    /// How many there are of all sorts, also where the lists are cut.
    pub total: usize,
}

/// Compares two compiled bundles of a kind; `None` for a version without it.
pub fn of_kind(before: Option<&Value>, after: Option<&Value>) -> KindDiff {
    let (before, after) = (parts(before), parts(after));
    let mut diff = KindDiff::default();
    for (id, value) in &after {
        match before.get(id) {
            None => diff.added.push(id.clone()),
            Some(old) if old != value => diff.changed.push(id.clone()),
            Some(_) => {}
        }
    }
    diff.removed = before.keys().filter(|id| !after.contains_key(*id)).cloned().collect();
    diff.total = diff.added.len() + diff.removed.len() + diff.changed.len();
    for list in [&mut diff.added, &mut diff.removed, &mut diff.changed] {
        list.truncate(IDS_MAX);
    }
    diff
}

/// What a bundle consists of: items by their id, members by their name, anything else as a whole.
fn parts(bundle: Option<&Value>) -> BTreeMap<String, &Value> {
    let Some(bundle) = bundle else { return BTreeMap::new() };
    // A bundle that others have compiled is as they wrote it.
    let content = bundle.get("items").or_else(|| bundle.get("content")).unwrap_or(bundle);
    match content {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(nth, item)| (id_of(item).map_or_else(|| format!("[{nth}]"), str::to_owned), item))
            .collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        other => BTreeMap::from([("content".to_owned(), other)]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_compared_and_their_order_is_not() {
        let before = json!({ "items": [{ "id": "a", "x": 1 }, { "id": "b" }, { "id": "c" }] });
        let after = json!({ "items": [{ "id": "c" }, { "id": "a", "x": 2 }, { "id": "d" }] });
        let diff = of_kind(Some(&before), Some(&after));
        let ids = |list: &[&str]| list.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!((diff.added, diff.removed, diff.changed, diff.total), (ids(&["d"]), ids(&["b"]), ids(&["a"]), 3));
        assert_eq!(of_kind(None, Some(&json!({ "content": { "k": 1 } }))).added, ids(&["k"]));
        assert_eq!(of_kind(Some(&before), Some(&before)), KindDiff::default());
    }
}
