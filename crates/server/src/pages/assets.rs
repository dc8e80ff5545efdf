//! The files the pages refer to, embedded in the binary.
//!
//! All of them share one version, a hash over every file, that is part of the path (`/assets/v1a2b…/chat.js`). Modules
//! import each other by relative paths, so a page never mixes two releases' scripts, and browsers may keep them for good.

use std::sync::LazyLock;

struct Asset {
    name: &'static str,
    bytes: &'static [u8],
    content_type: &'static str,
}

const JS: &str = "text/javascript; charset=utf-8";

const ASSETS: [Asset; 14] = [
    Asset {
        name: "style.css",
        bytes: include_bytes!("../../assets/style.css"),
        content_type: "text/css; charset=utf-8",
    },
    Asset { name: "logo.svg", bytes: include_bytes!("../../assets/logo.svg"), content_type: "image/svg+xml" },
    Asset { name: "lib.js", bytes: include_bytes!("../../assets/lib.js"), content_type: JS },
    Asset { name: "morph.js", bytes: include_bytes!("../../assets/morph.js"), content_type: JS },
    Asset { name: "page.js", bytes: include_bytes!("../../assets/page.js"), content_type: JS },
    Asset { name: "refresh.js", bytes: include_bytes!("../../assets/refresh.js"), content_type: JS },
    Asset { name: "stream.js", bytes: include_bytes!("../../assets/stream.js"), content_type: JS },
    Asset { name: "outbox.js", bytes: include_bytes!("../../assets/outbox.js"), content_type: JS },
    Asset { name: "conversation.js", bytes: include_bytes!("../../assets/conversation.js"), content_type: JS },
    Asset { name: "chat-log.js", bytes: include_bytes!("../../assets/chat-log.js"), content_type: JS },
    Asset { name: "chat.js", bytes: include_bytes!("../../assets/chat.js"), content_type: JS },
    Asset { name: "live-turn.js", bytes: include_bytes!("../../assets/live-turn.js"), content_type: JS },
    Asset { name: "turn.js", bytes: include_bytes!("../../assets/turn.js"), content_type: JS },
    Asset { name: "forms.js", bytes: include_bytes!("../../assets/forms.js"), content_type: JS },
];

/// FNV-1a, 64 bits (offset basis and prime from draft-eastlake-fnv). It tells releases apart; it protects nothing.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in ASSETS.iter().flat_map(|asset| asset.bytes) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("v{hash:016x}")
});

static BASE_PATH: LazyLock<String> = LazyLock::new(|| format!("/assets/{}", *VERSION));

/// Where the pages find their assets.
pub(super) fn base_path() -> &'static str {
    &BASE_PATH
}

/// The asset at a path below `/assets/`, as bytes and content type.
///
/// A version in the path is optional, and another release's is accepted: during a roll-out a page rendered by one node
/// may fetch from the next. [`asset_cache_control`] keeps such an answer from being remembered.
pub fn asset(path: &str) -> Option<(&'static [u8], &'static str)> {
    let name = split(path).1;
    ASSETS.iter().find(|asset| asset.name == name).map(|asset| (asset.bytes, asset.content_type))
}

/// The `Cache-Control` for that path: for ever if the path names this release's version, else ask again.
pub fn asset_cache_control(path: &str) -> &'static str {
    match split(path).0 {
        Some(version) if version == *VERSION => "public, max-age=31536000, immutable",
        Some(_) | None => "no-cache",
    }
}

fn split(path: &str) -> (Option<&str>, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').map_or((None, path), |(version, name)| (Some(version), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_assets_with_and_without_a_version() {
        let current = format!("{}/style.css", *VERSION);
        assert!(asset("style.css").is_some() && asset(&current).is_some() && asset("v0/style.css").is_some());
        assert!(asset_cache_control(&current).contains("immutable"));
        assert_eq!(asset_cache_control("v0/style.css"), "no-cache");
        assert!(asset("../../Cargo.toml").is_none() && asset("").is_none() && asset("templates/layout.html").is_none());
    }

    #[test]
    fn embeds_every_module_that_is_imported() {
        for script in ASSETS.iter().filter(|asset| asset.content_type == JS) {
            let source = String::from_utf8_lossy(script.bytes);
            for line in source.lines().filter(|line| line.starts_with("import ")) {
                let name = line.split("\"./").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or(line);
                assert!(asset(name).is_some(), "{} imports {name}", script.name);
            }
        }
    }
}
