//! The whole state of a core as text, less what no row holds, so that a recovered core can be compared with the live
//! one to the last timer and queue place.

use mainspring_core::Core;

use super::inside;

/// What differs by nature: workers announce themselves again, expired tokens are forgotten lazily, marks of documents
/// and of entries are not needed after a restart, and what is with consumers is handed out again; and a line finds out that its rate limit is short when a worker is there. Who waits
/// for a limit is left out of `rates`, and the places of all lines are put where `queues` stood.
const BLOCKS: [&str; 11] = [
    "workers: {",
    "tokens: {",
    "queues: {",
    "held: {",
    "refills: {",
    "rates: {",
    "documents: {",
    "marked: {",
    "handing: {",
    "entry_marks: {",
    "entry_marks_due: {",
];
/// Where the core is in time is the next command's business.
const VALUES: [&str; 5] = [" now: ", "nth_now: ", "recorded_now: ", "meta_dirty: ", "log_lines: "];

/// The state as text.
pub fn shape(core: &Core) -> String {
    let text = format!("{core:?}");
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    // All needles end in one of two ways, so the text is looked at only there.
    while let Some(at) = rest.find(": ") {
        let (before, after) = rest.split_at(at + 2);
        kept.push_str(before);
        rest = after;
        let block = BLOCKS.iter().find(|block| before.ends_with(block.trim_end_matches('{')));
        if let Some(block) = block.filter(|_| rest.starts_with('{')) {
            let length = block_len(rest);
            match *block {
                "queues: {" => {
                    // What is held comes right behind.
                    let behind = &rest[length..];
                    let held = behind.find("held: {").map_or("", |at| &behind[at + 6..]);
                    let mut places = inside::places(&rest[..length]);
                    places.extend(inside::places(&held[..block_len(held)]));
                    places.sort();
                    kept += &format!("{places:?}");
                }
                "rates: {" => {
                    for (name, rate) in inside::entries(&rest[..length]) {
                        kept += &format!("{name} {}; ", inside::field(rate, "row"));
                    }
                }
                _ => {}
            }
            rest = &rest[length..];
        } else if VALUES.iter().any(|value| before.ends_with(value)) {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        } else if before.ends_with("due: ") {
            let length = block_len(rest);
            kept.push_str(&without_leases(&rest[..length]));
            rest = &rest[length..];
        }
    }
    kept.push_str(rest);
    kept
}

/// The length of a `{...}` at the beginning of a text.
fn block_len(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

/// Timers that are set when a worker comes back, or a document is written again.
const LATER: [&str; 4] = ["WorkerLease", "Acknowledge", "Refill", "Marks"];

/// Timers without those that begin anew.
fn without_leases(timers: &str) -> String {
    let each = timers.trim_matches(['{', '}']).split("), (");
    let kept: Vec<&str> = each
        .filter(|timer| LATER.iter().all(|what| !timer.contains(what)))
        .map(|timer| timer.trim_matches(['(', ')']))
        .collect();
    kept.join("; ")
}
