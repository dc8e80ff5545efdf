//! Where a configuration is in Redis, what is said about each bundle, and how the pointer moves: the part that other
//! programs read, so none of it changes without a word in `docs/redis.md`.

use std::sync::LazyLock;

use redis::Script;
use serde::{Deserialize, Serialize};

/// The channel on which readers are told that a pointer has moved.
pub const UPDATED_CHANNEL: &str = "cfg-updated";

/// Where an agent's configuration is.
pub(super) struct Keys<'a> {
    pub(super) tenant: &'a str,
    pub(super) agent: &'a str,
}

impl Keys<'_> {
    /// The number of the current version, and nothing else: that is what older programs read.
    pub(super) fn pointer(&self) -> String {
        format!("{}:{}:cfg", self.tenant, self.agent)
    }

    /// The pointer's epoch. What stands in braces is hashed alone in a cluster, so it is where the pointer is.
    pub(super) fn epoch(&self) -> String {
        format!("{{{}}}:epoch", self.pointer())
    }

    /// What a version has: by kind, an [`About`].
    pub(super) fn version(&self, version: u64) -> String {
        format!("{}:{}:v{version}", self.tenant, self.agent)
    }

    /// A bundle's content.
    pub(super) fn bundle(&self, version: u64, kind: &str) -> String {
        format!("{}:{}:v{version}:{kind}", self.tenant, self.agent)
    }
}

/// What is said about a bundle. It is written after the bundle: whoever finds it finds the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// Of the uncompressed content.
    pub(super) digest: String,
    /// Uncompressed.
    pub(super) bytes: u64,
    /// Bytes at the key.
    pub(super) stored: u64,
    /// `identity` or `gzip`.
    pub(super) encoding: String,
}

/// Moves a pointer, unless one of a higher epoch is there.
///
/// KEYS: the pointer, its epoch. ARGV: the version; its epoch; an epoch that is written over although it is higher, or "";
/// how long both live, in ms; a channel; what is told there if something changed, or "". Answers 1 if the pointer is now
/// this one, 0 if a higher epoch stays.
pub(super) static SWAP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local held = redis.call('GET', KEYS[2])
local number = held and tonumber(held)
if number and number > tonumber(ARGV[2]) and held ~= ARGV[3] then return 0 end
local before = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[4])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
if ARGV[6] ~= '' and (before ~= ARGV[1] or held ~= ARGV[2]) then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return 1
",
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spelt_as_the_documentation_says() {
        let keys = Keys { tenant: "acme", agent: "orders" };
        assert_eq!(keys.pointer(), "acme:orders:cfg");
        assert_eq!(keys.epoch(), "{acme:orders:cfg}:epoch");
        assert_eq!(keys.version(7), "acme:orders:v7");
        assert_eq!(keys.bundle(7, "rules"), "acme:orders:v7:rules");
    }
}
