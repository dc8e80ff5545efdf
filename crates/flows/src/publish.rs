//! Configuration, published once and pinned: a draft becomes a version of immutable bundles, a pointer moves to it once,
//! readers are told, and a session stays with the version it began with.
//!
//! **The register decides** ([`register`]): one small document per agent holds the pointer, the canary, the numbers given out
//! and the line of publishes that have not moved the pointer. A publish is accepted, and later moves the pointer, in one
//! decision each that writes the register with an optimistic check. So whatever crashes, a number is given out once, a
//! pointer moves once per publish, and one that was overtaken finds itself out of the line.
//!
//! **A publish is a durable run** ([`flow`]): `accept -> validate -> compile -> apply -> write_bundles -> swap_pointer ->
//! invalidate_cache -> notify`, each stage on record. Before the pointer moves anything may fail, and nothing was published;
//! afterwards stages are tried until they are done.
//!
//! **Bundles are content** ([`bundle`]): stored by their digest, compressed, once per tenant. A version ([`job::Manifest`])
//! names them.
//!
//! **A turn is pinned when it begins** ([`pin`], [`turn`]): the version is on its record, and the session remembers it.
//!
//! What this module does not know: how requests come in, and which caches there are ([`mirror`]).

pub mod bundle;
pub mod check;
pub mod collect;
pub mod compile;
pub mod diff;
pub mod door;
pub mod flow;
mod hook;
pub mod job;
mod locate;
pub mod mirror;
pub mod pin;
pub mod register;
pub mod turn;

pub use bundle::{BUNDLE_BYTES_MAX, BundleError, BundleRef, Bundles};
pub use check::Finding;
pub use door::{Asked, ConfigError, Configs, Draft, Hook, Settings, Shared};
pub use job::{Action, Job, Manifest, Share, Status};
pub use mirror::{Mirror, MirrorBundle, MirrorError, MirrorPointer, Updated};
pub use pin::{Pin, TurnConfig};
pub use register::Register;

use mainspring_client::Worker;

/// Documents: an agent's register, by its name.
pub const REGISTER: &str = "config";
/// Documents: an agent's settings, by its name.
pub const SETTINGS: &str = "config-settings";
/// Documents: an agent's draft, by its name.
pub const DRAFT: &str = "config-draft";
/// Documents: a version, by agent and number.
pub const VERSION: &str = "config-version";
/// Documents: a publish, rollback, canary or promotion, by its id.
pub const PUBLISH: &str = "publish";
/// The event that a pointer or a canary has moved, in the scope [`SCOPE`].
pub const UPDATED_EVENT: &str = "config.updated";
/// The event that a session has moved on to another version, in the session's scope.
pub const MOVED_EVENT: &str = "config.moved";
/// The scope of what happens to configurations.
pub const SCOPE: &str = "config";

/// Adds publishing to a worker.
#[must_use]
pub fn offer(worker: Worker, configs: &Configs) -> Worker {
    collect::offer(flow::offer(worker, configs), configs)
}
