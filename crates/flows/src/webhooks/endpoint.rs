//! The endpoints of a tenant as this process knows them: their settings, how they are doing, and whether one may be
//! called now. What must outlast the process is in documents; the rest bounds what goes on at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mainspring_client::{ClientError, DocumentKey, Guard, PutDocument};
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};

use super::health::{Change, Health};
use super::subscription::{State, Subscription};
use super::{HEALTH, RECOVERED_EVENT, TENANT_REQUESTS_MAX, WebhookError, Webhooks, scope_of};

/// A try that takes longer than this makes its endpoint a slow one.
const SLOW_MS: u64 = 2_000;
/// Room for slow endpoints, of one tenant: however many hang, the rest is for others.
const SLOW_REQUESTS_MAX: usize = TENANT_REQUESTS_MAX / 4;
/// How long whoever can't probe now waits before it asks again.
const ASK_AGAIN_MS: u64 = 5_000;
/// How often a health without failures is written down.
const HEALTH_EVERY_MS: u64 = 10_000;

/// All endpoints of a tenant.
#[derive(Debug)]
pub struct Endpoints {
    by_id: Mutex<BTreeMap<String, Arc<Endpoint>>>,
    room: Arc<Semaphore>,
    slow_room: Arc<Semaphore>,
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    settings: Mutex<(u64, Arc<Subscription>)>,
    health: AsyncMutex<Option<Known>>,
    /// Deliveries started and not ended.
    pub(crate) live: AtomicI64,
    slow: AtomicU64,
    /// When the next request may go, by the rate.
    next_at: Mutex<u64>,
}

#[derive(Debug)]
struct Known {
    health: Health,
    probing: bool,
    written_at: u64,
}

/// Whether an endpoint may be called now.
#[derive(Debug)]
pub(crate) enum Entrance {
    /// It may.
    Open(Pass),
    /// Not before so many milliseconds have passed; `spared` if not before it works again.
    Later { wait_ms: u64, spared: bool },
    /// Its subscription is not active.
    Held,
    /// Its subscription is no more.
    Gone,
}

/// The right to call once.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) settings: Arc<Subscription>,
    probe: bool,
    used: bool,
    _rooms: [OwnedSemaphorePermit; 2],
}

impl Drop for Pass {
    fn drop(&mut self) {
        // A probe that was given up says nothing; without this, nobody would ever probe again.
        if self.probe
            && !self.used
            && let Ok(mut known) = self.endpoint.health.try_lock()
            && let Some(known) = known.as_mut()
        {
            known.probing = false;
        }
    }
}

impl Default for Endpoints {
    fn default() -> Self {
        Endpoints::new()
    }
}

impl Endpoints {
    /// None yet.
    pub fn new() -> Self {
        let room = Arc::new(Semaphore::new(TENANT_REQUESTS_MAX));
        Endpoints { by_id: Mutex::default(), room, slow_room: Arc::new(Semaphore::new(SLOW_REQUESTS_MAX)) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Endpoint>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was written of a subscription, if nothing later is known.
    pub(crate) fn changed(&self, version: u64, subscription: &Subscription) {
        let mut by_id = self.lock();
        let fresh = || Arc::new(Endpoint::new(version, subscription.clone()));
        let endpoint = by_id.entry(subscription.id.clone()).or_insert_with(fresh);
        let mut settings = endpoint.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if settings.0 < version {
            *settings = (version, Arc::new(subscription.clone()));
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Endpoint>> {
        self.lock().get(id).cloned()
    }
}

impl Endpoint {
    fn new(version: u64, subscription: Subscription) -> Self {
        Endpoint {
            settings: Mutex::new((version, Arc::new(subscription))),
            health: AsyncMutex::new(None),
            live: AtomicI64::new(0),
            slow: AtomicU64::new(0),
            next_at: Mutex::new(0),
        }
    }

    pub(crate) fn settings(&self) -> Arc<Subscription> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Takes its turn in the rate, or says how long that is away. A burst of one second's worth may go at once.
    fn rate_wait_ms(&self, per_minute: u32, now: u64) -> u64 {
        if per_minute == 0 {
            return 0;
        }
        // In microseconds, because a thousand a minute are 60 ms each but ten thousand are 6.
        let (each, now) = (60_000_000 / u64::from(per_minute), now * 1_000);
        let burst = each.max(1_000_000);
        let mut next_at = self.next_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = next_at.saturating_sub(burst - each.min(burst));
        if earliest > now {
            return (earliest - now).div_ceil(1_000);
        }
        *next_at = (*next_at).max(now) + each;
        0
    }
}

impl Webhooks {
    /// An endpoint, known or read. `None` if there never was one of that id.
    pub(crate) async fn endpoint(&self, id: &str) -> Result<Option<Arc<Endpoint>>, ClientError> {
        if let Some(endpoint) = self.endpoints.get(id) {
            return Ok(Some(endpoint));
        }
        let Some((version, subscription)) = self.stored(id).await? else { return Ok(None) };
        self.endpoints.changed(version, &subscription);
        Ok(self.endpoints.get(id))
    }

    /// Asks to call an endpoint, waiting for room but not for the endpoint.
    pub(crate) async fn enter(&self, id: &str) -> Result<Entrance, ClientError> {
        let Some(endpoint) = self.endpoint(id).await? else { return Ok(Entrance::Gone) };
        match endpoint.settings().state {
            State::Active => {}
            State::Deleted => return Ok(Entrance::Gone),
            State::Pending | State::Paused | State::Disabled => return Ok(Entrance::Held),
        }
        let now = self.now_ms();
        let mut probe = false;
        {
            let mut known = endpoint.health.lock().await;
            let known = self.known(id, &mut known).await?;
            if let Some(until) = known.health.spared_until {
                if now < until {
                    return Ok(Entrance::Later { wait_ms: until - now, spared: true });
                }
                if known.probing {
                    return Ok(Entrance::Later { wait_ms: ASK_AGAIN_MS, spared: true });
                }
                known.probing = true;
                probe = true;
            }
        }
        let forget_probe = |endpoint: &Arc<Endpoint>| {
            if let Ok(mut known) = endpoint.health.try_lock()
                && let Some(known) = known.as_mut()
            {
                known.probing &= !probe;
            }
        };
        let wait_ms = endpoint.rate_wait_ms(endpoint.settings().choices.rate_per_minute, now);
        if wait_ms > 0 {
            forget_probe(&endpoint);
            return Ok(Entrance::Later { wait_ms, spared: false });
        }
        let slow = endpoint.slow.load(Ordering::Relaxed) > 0;
        let of_tenant = if slow { self.endpoints.slow_room.clone() } else { self.endpoints.room.clone() };
        let closed = |_| ClientError::Json { what: "room for a request", cause: "it was closed".to_owned() };
        let rooms = [
            of_tenant.acquire_owned().await.map_err(closed)?,
            self.shared.room.clone().acquire_owned().await.map_err(closed)?,
        ];
        // As it is by now: it may have been paused while this waited.
        let settings = endpoint.settings();
        if settings.state != State::Active {
            forget_probe(&endpoint);
            return Ok(Entrance::Held);
        }
        Ok(Entrance::Open(Pass { endpoint, settings, probe, used: false, _rooms: rooms }))
    }

    /// Takes what came of a call: notes how the endpoint is doing, wakes those who wait for it, gives it up.
    pub(crate) async fn report(
        &self,
        pass: &mut Pass,
        outcome: Result<(), Failed<'_>>,
        took_ms: u64,
    ) -> Result<(), ClientError> {
        pass.used = true;
        let (id, now) = (pass.settings.id.as_str(), self.now_ms());
        pass.endpoint.slow.store(u64::from(took_ms >= SLOW_MS), Ordering::Relaxed);
        let change = {
            let mut known = pass.endpoint.health.lock().await;
            let known = self.known(id, &mut known).await?;
            if pass.probe {
                known.probing = false;
            }
            let change = match outcome {
                Ok(()) => known.health.succeed(now),
                Err(failed) => {
                    known.health.refused += u64::from(failed.refused);
                    let after = pass.settings.choices.disable_after_ms;
                    known.health.fail(now, failed.error, failed.silent, pass.probe, after)
                }
            };
            // Under the lock, so that what is written last is what is true.
            if outcome.is_err()
                || change != Change::default()
                || now.saturating_sub(known.written_at) >= HEALTH_EVERY_MS
            {
                known.written_at = now;
                self.write_health(id, &known.health).await?;
            }
            change
        };
        if change.recovered {
            let data = json!({ "subscription_id": id });
            self.client.emit(RECOVERED_EVENT, Some(&scope_of(id)), &data).await?;
        }
        if change.give_up {
            let hours = pass.settings.choices.disable_after_ms / 3_600_000;
            match self.disable(id, &format!("nothing could be delivered for {hours} hours")).await {
                Ok(()) | Err(WebhookError::NotFound) => {}
                Err(error) => tracing::warn!(subscription = id, %error, "it could not be disabled"),
            }
        }
        Ok(())
    }

    /// How an endpoint is doing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn health(&self, id: &str) -> Result<Health, ClientError> {
        match self.endpoint(id).await? {
            Some(endpoint) => Ok(self.known(id, &mut *endpoint.health.lock().await).await?.health.clone()),
            None => Ok(Health::default()),
        }
    }

    /// Forgets an endpoint's failures: a person says that it works.
    pub(crate) async fn forgive(&self, id: &str) -> Result<(), ClientError> {
        let Some(endpoint) = self.endpoint(id).await? else { return Ok(()) };
        {
            let mut known = endpoint.health.lock().await;
            let known = self.known(id, &mut known).await?;
            known.health.forgive();
            known.probing = false;
            self.write_health(id, &known.health).await?;
        }
        self.client.emit(RECOVERED_EVENT, Some(&scope_of(id)), &json!({ "subscription_id": id })).await.map(drop)
    }

    async fn known<'k>(&self, id: &str, known: &'k mut Option<Known>) -> Result<&'k mut Known, ClientError> {
        if known.is_none() {
            let row = self.client.document(DocumentKey::new(HEALTH, id)).await?;
            // What another release wrote and this one does not understand: it will be known again soon.
            let health = row.and_then(|row| serde_json::from_slice(&row.body).ok()).unwrap_or_default();
            return Ok(known.insert(Known { health, probing: false, written_at: 0 }));
        }
        known.as_mut().ok_or_else(|| unreachable!("it was just found"))
    }

    async fn write_health(&self, id: &str, health: &Health) -> Result<(), ClientError> {
        let body = Bytes::from(serde_json::to_vec(health).unwrap_or_default());
        let put = PutDocument { key: DocumentKey::new(HEALTH, id), expect: None, body, ttl_ms: None, history: 0 };
        self.client.put_document(put, None, Guard::default(), None).await.map(drop)
    }
}

/// A call that failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed<'a> {
    /// Why.
    pub(crate) error: &'a str,
    /// There was no answer at all.
    pub(crate) silent: bool,
    /// The address may not be called.
    pub(crate) refused: bool,
}
