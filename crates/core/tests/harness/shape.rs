//! The whole state of a core as text, less what no row holds, so that a recovered core can be compared with the live
//! one to the last timer and queue place.

use mainspring_core::Core;

/// What differs by nature: workers announce themselves again, expired tokens are forgotten lazily.
const BLOCKS: [&str; 2] = ["workers: {", "tokens: {"];
/// Where the core is in time is the next command's business.
const VALUES: [&str; 4] = [" now: ", "nth_now: ", "recorded_now: ", "meta_dirty: "];

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
        if BLOCKS.iter().any(|block| before.ends_with(block.trim_end_matches('{'))) {
            rest = &rest[block_len(rest)..];
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

/// Timers without those of workers' leases, which begin anew.
fn without_leases(timers: &str) -> String {
    let each = timers.trim_matches(['{', '}']).split("), (");
    let kept: Vec<&str> =
        each.filter(|timer| !timer.contains("WorkerLease")).map(|timer| timer.trim_matches(['(', ')'])).collect();
    kept.join("; ")
}
