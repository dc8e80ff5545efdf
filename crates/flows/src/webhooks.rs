//! Webhooks out: a tenant's events, delivered to its endpoints: signed, tried again, in order where asked, kept when they
//! can't be delivered, and delivered again when a person asks.
//!
//! **An event accepted is a delivery owed.** Nothing is matched while it is accepted. A [`matcher`] reads the log of
//! events in order and moves on in the same decision in which it starts the deliveries of what it read
//! (`Command::Advance`), so a crash repeats and loses nothing, and acceptance costs what it cost before. What an
//! endpoint can't take yet stays where it is, in the log of events: a subscription that is paused, disabled or slow
//! *lags*, with a position of its own.
//!
//! **A delivery is a durable run** ([`delivery`]) in a *lane* of its subscription: one at a time per lane, by the key rule
//! of the core, which is what keeps order and bounds how much goes on at once. Each try looks at the subscription as it
//! is by then.

pub mod delivery;
pub mod endpoint;
pub mod health;
pub mod history;
pub mod manage;
pub mod matcher;
pub mod message;
pub mod pattern;
pub mod replay;
pub mod subscription;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use mainspring_client::{Client, Worker};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};

pub use endpoint::Endpoints;
pub use manage::{Change, WebhookError};
pub use subscription::{Choices, Order, State, Subscription};

use crate::egress::Egress;
use crate::seal::Sealer;

/// Documents: a subscription, by its id.
pub const SUBSCRIPTION: &str = "webhook";
/// Documents: how an endpoint is doing, by the subscription's id.
pub const HEALTH: &str = "webhook-health";
/// Documents: a delivery that was given up, by subscription and event.
pub const DEAD: &str = "webhook-dead";
/// Documents: how far a replay came, by its id.
pub const REPLAY: &str = "webhook-replay";
/// The event that a subscription changed, in the scope [`CHANGES_SCOPE`]. It says from where on the change holds.
pub const CHANGED_EVENT: &str = "webhook.changed";
/// The scope of changes of all subscriptions.
pub const CHANGES_SCOPE: &str = "webhooks";
/// The event that records a try, in the subscription's scope.
pub const ATTEMPT_EVENT: &str = "webhook.attempt";
/// The event from which on a tenant's events are read.
pub const BEGUN_EVENT: &str = "webhook.begun";
/// The event that wakes deliveries that wait for a change of their subscription, in its scope.
pub const SETTINGS_EVENT: &str = "webhook.settings";
/// The event that an endpoint works again, in the subscription's scope.
pub const RECOVERED_EVENT: &str = "webhook.recovered";
/// The event that a subscription was disabled, in the subscription's scope.
pub const DISABLED_EVENT: &str = "webhook.disabled";
/// The event of a test, in the subscription's scope: it goes to that subscription alone.
pub const TEST_EVENT: &str = "webhook.test";
/// The name under which the matcher's position is kept.
pub const READER: &str = "webhooks";

/// Subscriptions of one tenant. One event may be owed to all of them, and what is started at once has a limit.
pub const SUBSCRIPTIONS_MAX: usize = 1_000;
/// Requests of one process that are under way at once, and of one tenant.
pub const REQUESTS_MAX: usize = 1_024;
/// Requests of one tenant that are under way at once.
pub const TENANT_REQUESTS_MAX: usize = 512;

/// The scope of a subscription's own events.
pub fn scope_of(subscription: &str) -> String {
    format!("webhook:{subscription}")
}

/// What a filter sees of an event.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The event's name.
    pub name: &'a str,
    /// Its data.
    pub data: &'a Value,
    /// Whom it is about: `agent` and `session`, where it is a session's.
    pub about: &'a Value,
}

/// A filter that was read.
pub type Filter = Arc<dyn Fn(Seen<'_>) -> Result<bool, String> + Send + Sync>;
/// Reads filters. An expression costs time, which has a limit, so whoever puts the parts together chooses who evaluates.
pub type Filters = Arc<dyn Fn(&str) -> Result<Filter, String> + Send + Sync>;

/// What the webhooks of all tenants of a process share.
#[derive(Clone)]
pub struct Shared {
    /// Calls endpoints.
    pub egress: Arc<dyn Egress>,
    /// Keeps secrets.
    pub sealer: Sealer,
    /// Reads filters.
    pub filters: Filters,
    /// Room for requests, of all tenants.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) counts: Arc<Counts>,
}

/// How tries ended, since this process began.
#[derive(Debug, Default)]
pub struct Counts {
    /// It was taken.
    pub delivered: AtomicU64,
    /// It will be tried again.
    pub retrying: AtomicU64,
    /// It was given up.
    pub dead: AtomicU64,
}

impl Shared {
    /// Puts it together.
    pub fn new(egress: Arc<dyn Egress>, sealer: Sealer, filters: Filters) -> Self {
        Shared { egress, sealer, filters, room: Arc::new(Semaphore::new(REQUESTS_MAX)), counts: Arc::default() }
    }
}

/// The webhooks of one tenant. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    pub(crate) client: Client,
    pub(crate) shared: Shared,
    pub(crate) endpoints: Arc<Endpoints>,
    /// Wakes the matcher.
    pub(crate) changed: Arc<Notify>,
}

impl Webhooks {
    /// The webhooks of a client's tenant.
    pub fn new(client: Client, shared: Shared) -> Self {
        let endpoints = Arc::new(Endpoints::new());
        Webhooks { client, shared, endpoints, changed: Arc::new(Notify::new()) }
    }

    /// How tries ended, of all tenants of this process.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Requests of this process that are under way, of all tenants.
    pub fn requests(&self) -> usize {
        REQUESTS_MAX.saturating_sub(self.shared.room.available_permits())
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Adds the delivery of webhooks to a worker, which had better be one for them alone: an endpoint that hangs takes
    /// from its slots.
    #[must_use]
    pub fn offer(&self, worker: Worker) -> Worker {
        replay::offer(delivery::offer(worker, self), self)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.client.engine().world().now_ms()
    }
}
