//! What a core holds beside its rows, read from its debug text: who is connected, which lines are held.
//!
//! It knows the names of a few fields, and nothing of their types.

use mainspring_core::Core;

/// The top-level entries of a map's `{key: value, ...}`.
pub fn entries(block: &str) -> Vec<(&str, &str)> {
    items(block).into_iter().filter_map(|item| split_entry(item)).collect()
}

/// The top-level items of a `{item, ...}`.
pub fn items(block: &str) -> Vec<&str> {
    let inner = block.strip_prefix('{').and_then(|block| block.strip_suffix('}')).unwrap_or("");
    let mut items = Vec::new();
    let mut begin = 0;
    walk(inner, |at, depth, byte| {
        if depth == 0 && byte == b',' {
            items.push(inner[begin..at].trim());
            begin = at + 1;
        }
    });
    items.push(inner[begin..].trim());
    items.retain(|item| !item.is_empty());
    items
}

fn split_entry(item: &str) -> Option<(&str, &str)> {
    let mut colon = None;
    walk(item, |at, depth, byte| {
        if depth == 0 && byte == b':' && colon.is_none() {
            colon = Some(at);
        }
    });
    colon.map(|at| (item[..at].trim(), item[at + 1..].trim()))
}

/// Visits every byte outside of quotes with its depth of brackets, a bracket counting as outside of what it encloses.
fn walk(text: &str, mut visit: impl FnMut(usize, usize, u8)) {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'(' | b'[' => {
                visit(at, depth, byte);
                depth += 1;
            }
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                visit(at, depth, byte);
            }
            byte => visit(at, depth, byte),
        }
    }
}

/// The value of a field of a struct's `Name { field: value, ... }`.
pub fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let begin = text.find('{').unwrap_or(0);
    let of_struct = entries(&text[begin..]).into_iter().find(|(field, _)| *field == name);
    of_struct.map(|(_, value)| value).unwrap_or_else(|| panic!("no field {name:?} in {}", &text[..text.len().min(200)]))
}

/// The tenants of a core: id and all that is theirs.
pub fn tenants(text: &str) -> Vec<(&str, &str)> {
    entries(field(text, "tenants"))
}

/// The enrolled workers that are connected, as tenant and worker id.
pub fn connected(core: &Core) -> Vec<(String, String)> {
    let text = format!("{core:?}");
    let mut found = Vec::new();
    for (tenant, state) in tenants(&text) {
        for (worker, known) in entries(field(state, "workers")) {
            if field(known, "row") != "None" && field(known, "connected") == "true" {
                found.push((tenant.to_owned(), worker.to_owned()));
            }
        }
    }
    found
}

/// Whether some line waits for a rate limit, or did a moment ago: then there is a timer.
pub fn awaits_refill(core: &Core) -> bool {
    format!("{core:?}").contains(", Refill)")
}

/// Whether some document is marked: then there is a timer.
pub fn has_marks(core: &Core) -> bool {
    let text = format!("{core:?}");
    text.contains(", Marks)") || text.contains(", EntryMarks)")
}

/// The places of queued tasks in all lines of a block of them, as text, sorted.
pub fn places(lines: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = lines;
    while let Some(at) = rest.find("(Reverse(") {
        // `(Reverse(1), 5, r/0)`: the inner bracket closes before the comma.
        let comma = rest[at..].find(", ").map_or(rest.len(), |comma| at + comma);
        let end = rest[comma..].find(')').map_or(rest.len(), |end| comma + end + 1);
        found.push(rest[at..end].to_owned());
        rest = &rest[end..];
    }
    found.sort();
    found
}
