//! Streams in and out: what channel gateways and message routers speak.
//!
//! [`bus::Bus`] is what a bus can do, whoever keeps the streams; [`RedisBus`] is one on Redis, [`EmbeddedBus`] one of
//! the engine's own streams. [`inbound`] has what comes in taken in, [`outbound`] publishes what happens.
//! [`RedisMirror`] has published configurations in Redis for readers elsewhere. What this crate does not know: how a turn
//! goes, how pages look. Nothing that must survive is only here: what comes in is acknowledged once the log has it, what
//! goes out is read from the log and read again if it was lost.

pub mod bus;
pub mod conformance;
pub mod embedded;
pub mod envelope;
pub mod hints;
pub mod inbound;
pub mod intake;
pub mod link;
pub mod mirror;
pub mod names;
pub mod outbound;
pub mod redis_bus;
pub mod trouble;

pub use bus::{Bus, BusError, Entry, EntryId, GroupLag, NewEntry, Settled, partition_of};
pub use embedded::{EmbeddedBus, EmbeddedBusOptions};
pub use envelope::{Envelope, EnvelopeType};
pub use hints::Hints;
pub use inbound::{Gateway, Source};
pub use intake::Intake;
pub use link::{Health, Redis, RedisOptions};
pub use mirror::{MirrorOptions, RedisMirror};
pub use names::{Names, Pattern};
pub use outbound::Relay;
pub use redis_bus::{RedisBus, RedisBusOptions};
