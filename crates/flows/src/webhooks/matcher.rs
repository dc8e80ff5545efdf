//! Reads a tenant's events in order and starts the deliveries they are owed. It moves on in the same decision, so that
//! what is read is matched once, whatever happens.
//!
//! Subscriptions that keep up are matched together. One that has too many deliveries under way, or is paused or
//! disabled, *lags*: it has a position of its own, and is matched by itself from there when it can take more, by its
//! settings as they are then. Others are matched by their settings as they were when the event happened: a change holds
//! from the place of its own event on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{
    ClientError, DocumentKey, EngineError, EventNotice, EventRow, FEED_POSITION, FeedPosition, PutDocument, Refusal,
    Start,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::delivery::{Owed, RETRY_WORKFLOW, WORKFLOW};
use super::pattern::{self, Index};
use super::subscription::{State, Subscription};
use super::{CHANGED_EVENT, CHANGES_SCOPE, Filter, READER, SUBSCRIPTION, Seen, TEST_EVENT, Webhooks, scope_of};
use crate::session::SessionKey;

/// Deliveries of one subscription that are under way at most; what is owed beyond that stays in the log of events.
const LIVE_MAX: i64 = 500;
/// A subscription that lags is given more when it has fewer than this.
const LIVE_LOW: i64 = LIVE_MAX / 2;
/// Events read at once.
const EVENTS_AT_ONCE: usize = 500;
/// Deliveries started at once; one event may be owed to a thousand subscriptions, and a decision starts as many.
const STARTS_AT_ONCE: usize = 1_000;
/// Subscriptions that begin to lag in one decision.
const LAGGING_AT_ONCE: usize = 150;
/// How long to wait for something to happen before looking again: hints may be lost.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Without deliveries to start, how far behind the position on record may be before it is moved.
const UNRECORDED_MAX: u64 = 5_000;
/// How long something that failed waits before it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The longest what is owed to one that is paused or disabled is kept.
pub const HELD_MAX_MS: u64 = 14 * 24 * 60 * 60 * 1_000;

/// A subscription as the matcher has it.
struct Known {
    version: u64,
    subscription: Arc<Subscription>,
    filter: Option<Result<Filter, String>>,
    /// Where it is, if it lags.
    lags: Option<FeedPosition>,
}

/// The matcher of one tenant.
struct Matcher {
    webhooks: Webhooks,
    position: FeedPosition,
    /// How far it has read. What lies between the position and this is owed to nobody.
    read: u64,
    known: BTreeMap<String, Known>,
    order: Vec<String>,
    index: Index,
}

/// What is about to be decided.
#[derive(Default)]
struct Step {
    starts: Vec<Start>,
    started: BTreeMap<String, i64>,
    lagging: BTreeMap<String, u64>,
}

impl Webhooks {
    /// Matches for as long as the future is polled.
    pub async fn match_events(self) {
        let mut hints = self.client.engine().hub().listen(self.client.tenant(), None);
        loop {
            match self.clone().match_until_moved(&mut hints).await {
                Ok(()) => {}
                Err(ClientError::Engine(EngineError::ShuttingDown | EngineError::Stopped { .. })) => return,
                Err(error) => {
                    tracing::warn!(%error, "webhooks are not matched; trying again");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Matches until somebody else turns out to do so too.
    async fn match_until_moved(self, hints: &mut broadcast::Receiver<EventNotice>) -> Result<(), ClientError> {
        let position = loop {
            if let Some(position) = self.client.feed_position(READER).await? {
                break position;
            }
            // No subscription was ever made here.
            let _ = tokio::time::timeout(LOOK_AGAIN * 10, self.changed.notified()).await;
        };
        let mut matcher = Matcher::load(self, position).await?;
        loop {
            let outcome = matcher.step().await;
            match outcome {
                Ok(true) => {}
                Ok(false) => {
                    let changed = matcher.webhooks.changed.clone();
                    tokio::select! {
                        hint = hints.recv() => if matches!(hint, Err(broadcast::error::RecvError::Closed)) {
                            tokio::time::sleep(LOOK_AGAIN).await;
                        },
                        () = changed.notified() => {}
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                    // All hints that came meanwhile are this one.
                    while hints.try_recv().is_ok() {}
                }
                Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => {
                    tracing::info!("somebody else has moved the webhooks on: reading anew where they are");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn began(&self, subscription: &str) {
        if let Some(endpoint) = self.endpoints.get(subscription) {
            endpoint.live.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn ended(&self, subscription: &str) {
        if let Some(endpoint) = self.endpoints.get(subscription) {
            let before = endpoint.live.fetch_sub(1, Ordering::Relaxed);
            if before == LIVE_LOW {
                self.changed.notify_one();
            }
        }
    }

    /// Counts the deliveries of a subscription that are under way, as the core has them.
    async fn count_live(&self, subscription: &Subscription) -> Result<(), ClientError> {
        let mut live = self.client.live_runs(RETRY_WORKFLOW, &subscription.id).await?.len();
        for lane in 0..subscription.choices.lanes() {
            live += self.client.live_runs(WORKFLOW, &format!("{}/{lane}", subscription.id)).await?.len();
        }
        if let Some(endpoint) = self.endpoint(&subscription.id).await? {
            endpoint.live.store(i64::try_from(live).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
        Ok(())
    }

    fn live(&self, subscription: &str) -> i64 {
        self.endpoints.get(subscription).map_or(0, |endpoint| endpoint.live.load(Ordering::Relaxed))
    }

    /// The run that delivers an event, if a subscription wants it.
    pub(crate) fn start_of(owed: Owed, subscription: &Subscription) -> Start {
        let lane = subscription.choices.lane(owed.scope.as_deref(), owed.seq);
        Start {
            workflow: WORKFLOW.to_owned(),
            key: Some(format!("{}/{lane}", owed.subscription)),
            // Plain data always encodes.
            input: Bytes::from(serde_json::to_vec(&owed).unwrap_or_default()),
            ..Start::default()
        }
    }

    /// A subscription's filter, read.
    pub(crate) fn filter_of(&self, subscription: &Subscription) -> Option<Result<Filter, String>> {
        subscription.choices.filter.as_ref().map(|text| (self.shared.filters)(text))
    }
}

/// What is known of an event beyond its row, made once for all who look.
#[derive(Default)]
pub(crate) struct Looked {
    seen: Option<(Value, Value)>,
    agent: Option<Option<String>>,
}

impl Looked {
    /// Whether a subscription wants an event whose name fits one of its patterns already.
    pub(crate) fn wants(
        &mut self,
        subscription: &Subscription,
        filter: Option<&Result<Filter, String>>,
        event: &EventRow,
    ) -> bool {
        if event.name == TEST_EVENT {
            return event.scope.as_deref() == Some(&scope_of(&subscription.id));
        }
        let session = || event.scope.as_deref().and_then(SessionKey::parse);
        if let Some(agents) = &subscription.choices.agents {
            let agent = self.agent.get_or_insert_with(|| session().map(|key| key.agent));
            if !agent.as_ref().is_some_and(|agent| agents.contains(agent)) {
                return false;
            }
        }
        let Some(filter) = filter else { return true };
        let (data, about) = self.seen.get_or_insert_with(|| {
            let about =
                session().map_or_else(|| json!({}), |key| json!({ "agent": key.agent, "session": event.scope }));
            (serde_json::from_slice(&event.data).unwrap_or(Value::Null), about)
        });
        let held = filter.as_ref().map_err(Clone::clone);
        let held = held.and_then(|filter| filter(Seen { name: &event.name, data, about }));
        held.unwrap_or_else(|error| {
            // A filter that asks for what an event does not have does not hold.
            tracing::debug!(subscription = subscription.id, %error, "a filter does not hold");
            false
        })
    }
}

#[derive(Deserialize)]
struct Changed {
    subscription_id: String,
    version: u64,
}

impl Matcher {
    /// Everything as it was at the position.
    async fn load(webhooks: Webhooks, position: FeedPosition) -> Result<Matcher, ClientError> {
        let client = webhooks.client.clone();
        let rows = client.documents(SUBSCRIPTION, "").await?;
        // Listings may lag, and what is missing here would be owed to nobody.
        let engine = client.engine();
        engine.wait_applied(client.tenant(), engine.durable_position(client.tenant()), Duration::from_secs(60)).await;
        let tenant = client.tenant();
        let changes = engine
            .read(tenant, move |reader| reader.events(tenant, Some(CHANGES_SCOPE), position.seq, usize::MAX))
            .await?;
        let mut first_change: BTreeMap<String, u64> = BTreeMap::new();
        for (_, event) in changes.iter().filter(|(_, event)| event.name == CHANGED_EVENT) {
            if let Ok(changed) = serde_json::from_slice::<Changed>(&event.data) {
                first_change.entry(changed.subscription_id).or_insert(changed.version);
            }
        }
        let mut matcher = Matcher {
            webhooks,
            position,
            read: position.seq,
            known: BTreeMap::new(),
            order: Vec::new(),
            index: Index::default(),
        };
        for (key, row) in rows {
            // The version before the first change that lies ahead. Of one that lies ahead whole there is none.
            let version = first_change.get(&key.name).map_or(row.version, |first| first - 1);
            if version > 0 {
                matcher.learn(&key.name, version).await?;
            }
        }
        for id in matcher.known.keys().cloned().collect::<Vec<_>>() {
            let lags = matcher.webhooks.client.feed_position(&lag_name(&id)).await?;
            if let Some(known) = matcher.known.get_mut(&id) {
                known.lags = lags;
                let subscription = known.subscription.clone();
                matcher.webhooks.count_live(&subscription).await?;
            }
        }
        matcher.reindex();
        Ok(matcher)
    }

    /// Takes a subscription as it was at a version, or as near to it as is kept.
    async fn learn(&mut self, id: &str, version: u64) -> Result<(), ClientError> {
        let client = &self.webhooks.client;
        let key = DocumentKey::new(SUBSCRIPTION, id);
        let Some(mut row) = client.document(key.clone()).await? else {
            self.known.remove(id);
            return Ok(());
        };
        if row.version != version {
            // Versions before the present one are in the tables only.
            let (engine, tenant) = (client.engine(), client.tenant());
            engine.wait_applied(tenant, engine.durable_position(tenant), Duration::from_secs(10)).await;
            let kept = client.revisions(key, 64).await?;
            let nearest = kept.into_iter().min_by_key(|kept| kept.version.abs_diff(version));
            row = nearest.filter(|kept| kept.version.abs_diff(version) < row.version.abs_diff(version)).unwrap_or(row);
        }
        let Ok(subscription) = serde_json::from_slice::<Subscription>(&row.body) else {
            tracing::error!(subscription = id, "it can't be read, and is left out");
            return Ok(());
        };
        let lags = self.known.get(id).and_then(|known| known.lags);
        let filter = self.webhooks.filter_of(&subscription);
        let known = Known { version: row.version, subscription: Arc::new(subscription), filter, lags };
        self.known.insert(id.to_owned(), known);
        Ok(())
    }

    /// Indexes those that are matched together.
    fn reindex(&mut self) {
        (self.index, self.order) = (Index::default(), Vec::new());
        for (id, known) in &self.known {
            if known.lags.is_none() && known.subscription.state == State::Active {
                self.index.add(self.order.len(), &known.subscription.choices.events);
                self.order.push(id.clone());
            }
        }
    }

    /// Reads and matches once, for all and for each that lags. Answers whether there was anything.
    async fn step(&mut self) -> Result<bool, ClientError> {
        let together = self.step_together().await?;
        let mut apart = false;
        let lagging: Vec<String> =
            self.known.iter().filter(|(_, known)| known.lags.is_some()).map(|(id, _)| id.clone()).collect();
        for id in lagging {
            apart |= self.step_apart(&id).await?;
        }
        Ok(together || apart)
    }

    async fn step_together(&mut self) -> Result<bool, ClientError> {
        let events = self.webhooks.client.feed(self.read, EVENTS_AT_ONCE).await?;
        if events.is_empty() {
            return Ok(false);
        }
        let mut step = Step::default();
        for (seq, event) in events {
            if event.name == CHANGED_EVENT && event.scope.as_deref() == Some(CHANGES_SCOPE) {
                // Before the change holds, what was matched by the settings before it is decided.
                self.decide(&mut step, self.read).await?;
                self.take_change(seq, &event).await?;
            } else {
                if step.starts.len() + self.order.len() > STARTS_AT_ONCE || step.lagging.len() > LAGGING_AT_ONCE {
                    self.decide(&mut step, self.read).await?;
                }
                let mut looked = Looked::default();
                for nth in self.wanting(&event) {
                    self.owe(nth, seq, &event, &mut looked, &mut step);
                }
            }
            self.read = seq;
        }
        if !step.starts.is_empty() || !step.lagging.is_empty() || self.read - self.position.seq > UNRECORDED_MAX {
            self.decide(&mut step, self.read).await?;
        }
        Ok(true)
    }

    /// Those of the ones that are matched together that an event fits by its name. A test is for one, whatever that wants.
    fn wanting(&self, event: &EventRow) -> Vec<usize> {
        if event.name != TEST_EVENT {
            return self.index.wanting(&event.name);
        }
        let tested = |id: &String| event.scope.as_deref() == Some(&scope_of(id));
        self.order.iter().position(tested).into_iter().collect()
    }

    /// Notes that an event is owed to a subscription, if it wants it.
    fn owe(&self, nth: usize, seq: u64, event: &EventRow, looked: &mut Looked, step: &mut Step) {
        let id = &self.order[nth];
        let Some(known) = self.known.get(id) else { return };
        if step.lagging.contains_key(id) || !looked.wants(&known.subscription, known.filter.as_ref(), event) {
            return;
        }
        let started = step.started.entry(id.clone()).or_default();
        if self.webhooks.live(id) + *started >= LIVE_MAX {
            step.lagging.insert(id.clone(), seq - 1);
            return;
        }
        *started += 1;
        step.starts.push(Webhooks::start_of(owed(id, seq, event), &known.subscription));
    }

    /// Moves on to `seq`, with everything that was matched up to there.
    async fn decide(&mut self, step: &mut Step, seq: u64) -> Result<(), ClientError> {
        if seq == self.position.seq && step.starts.is_empty() && step.lagging.is_empty() {
            return Ok(());
        }
        let Step { starts, started, lagging } = std::mem::take(step);
        let mut puts = vec![self.position.moved_to(READER, seq)];
        puts.extend(
            lagging
                .iter()
                .map(|(id, seq)| PutDocument { expect: None, ..FeedPosition::default().moved_to(&lag_name(id), *seq) }),
        );
        for (id, more) in &started {
            if let Some(endpoint) = self.webhooks.endpoint(id).await? {
                endpoint.live.fetch_add(*more, Ordering::Relaxed);
            }
        }
        self.webhooks.client.advance(puts, starts).await?;
        self.position = FeedPosition { seq, version: self.position.version + 1 };
        for id in lagging.keys() {
            let lags = self.webhooks.client.feed_position(&lag_name(id)).await?;
            if let Some(known) = self.known.get_mut(id) {
                tracing::debug!(subscription = id, "it lags");
                known.lags = lags;
            }
        }
        if !lagging.is_empty() {
            self.reindex();
        }
        Ok(())
    }

    /// From here on a subscription is otherwise.
    async fn take_change(&mut self, seq: u64, event: &EventRow) -> Result<(), ClientError> {
        let Ok(changed) = serde_json::from_slice::<Changed>(&event.data) else { return Ok(()) };
        let id = changed.subscription_id;
        let was = self.known.get(&id).map(|known| (known.version, known.subscription.state, known.lags));
        if was.is_some_and(|(version, ..)| version >= changed.version) {
            return Ok(());
        }
        self.learn(&id, changed.version).await?;
        let Some(known) = self.known.get(&id) else { return Ok(()) };
        let owes = was.is_some_and(|(_, state, lags)| state == State::Active && lags.is_none());
        match known.subscription.state {
            // It stops here, and will go on from here.
            State::Paused | State::Disabled if owes => {
                let mut step = Step { lagging: BTreeMap::from([(id, seq)]), ..Step::default() };
                self.decide(&mut step, seq).await?;
            }
            State::Deleted => {
                if let Some(lags) = known.lags {
                    self.webhooks.client.advance(vec![gone(&id, lags)], Vec::new()).await?;
                }
                self.known.remove(&id);
            }
            State::Pending | State::Active | State::Paused | State::Disabled => {}
        }
        self.reindex();
        Ok(())
    }

    /// Goes on with one that lags, if it can take more.
    async fn step_apart(&mut self, id: &str) -> Result<bool, ClientError> {
        let Some(known) = self.known.get(id) else { return Ok(false) };
        let Some(lags) = known.lags else { return Ok(false) };
        let (subscription, filter) = (known.subscription.clone(), known.filter.clone());
        match subscription.state {
            State::Active => {}
            State::Paused | State::Disabled if self.held_too_long(&subscription) => {
                tracing::warn!(
                    subscription = id,
                    from = lags.seq,
                    to = self.position.seq,
                    "what was owed to it for too long is dropped"
                );
                let lags = self.move_lagging(id, lags, self.position.seq, Vec::new()).await?;
                self.set_lags(id, Some(lags));
                let data = json!({ "subscription_id": id, "after": lags.seq, "up_to": self.position.seq });
                self.webhooks.client.emit("webhook.dropped", Some(&scope_of(id)), &data).await?;
                return Ok(false);
            }
            State::Pending | State::Paused | State::Disabled | State::Deleted => return Ok(false),
        }
        if self.webhooks.live(id) >= LIVE_LOW {
            // What this process has counted may be wrong after a function was given up.
            self.webhooks.count_live(&subscription).await?;
            if self.webhooks.live(id) >= LIVE_LOW {
                return Ok(false);
            }
        }
        // Together with the others again where they are, and never beyond.
        let end = self.position.seq;
        let room = usize::try_from(LIVE_MAX - self.webhooks.live(id)).unwrap_or(0);
        let events = self.webhooks.client.feed(lags.seq, EVENTS_AT_ONCE).await?;
        let (mut starts, mut seq, mut full) = (Vec::new(), lags.seq, false);
        for (next, event) in events.iter().take_while(|(next, _)| *next <= end) {
            if fits(&subscription, event) && Looked::default().wants(&subscription, filter.as_ref(), event) {
                if starts.len() >= room {
                    full = true;
                    break;
                }
                starts.push(Webhooks::start_of(owed(id, *next, event), &subscription));
            }
            seq = *next;
        }
        // Numbers are dealt out to all tenants, so the last of these events may be well before the end.
        let beyond = events.last().is_none_or(|(last, _)| *last >= end);
        let caught_up = beyond && !full;
        if full && starts.is_empty() {
            return Ok(false);
        }
        let started = i64::try_from(starts.len()).unwrap_or(0);
        if let Some(endpoint) = self.webhooks.endpoint(id).await? {
            endpoint.live.fetch_add(started, Ordering::Relaxed);
        }
        if caught_up {
            // Whatever lies between the position on record and what is read is for it too, so the others wait for it there.
            self.webhooks.client.advance(vec![gone(id, lags), self.position.moved_to(READER, end)], starts).await?;
            self.position = FeedPosition { seq: end, version: self.position.version + 1 };
            self.read = end;
            self.set_lags(id, None);
            self.reindex();
        } else {
            let lags = self.move_lagging(id, lags, seq, starts).await?;
            self.set_lags(id, Some(lags));
        }
        Ok(true)
    }

    async fn move_lagging(
        &self,
        id: &str,
        lags: FeedPosition,
        seq: u64,
        starts: Vec<Start>,
    ) -> Result<FeedPosition, ClientError> {
        self.webhooks.client.advance(vec![lags.moved_to(&lag_name(id), seq)], starts).await?;
        Ok(FeedPosition { seq, version: lags.version + 1 })
    }

    fn set_lags(&mut self, id: &str, lags: Option<FeedPosition>) {
        if let Some(known) = self.known.get_mut(id) {
            known.lags = lags;
        }
    }

    fn held_too_long(&self, subscription: &Subscription) -> bool {
        self.webhooks.now_ms().saturating_sub(subscription.updated_at) > HELD_MAX_MS
    }
}

/// The name under which a lagging subscription's position is kept.
fn lag_name(id: &str) -> String {
    format!("{READER}/{id}")
}

/// Ends a lag: a position that is gone holds no events.
fn gone(id: &str, lags: FeedPosition) -> PutDocument {
    debug_assert!(lags.version > 0, "it was on record");
    PutDocument { ttl_ms: Some(0), key: DocumentKey::new(FEED_POSITION, lag_name(id)), ..lags.moved_to("", lags.seq) }
}

/// Whether an event fits a subscription by its name.
pub(crate) fn fits(subscription: &Subscription, event: &EventRow) -> bool {
    event.name == TEST_EVENT || subscription.choices.events.iter().any(|pattern| pattern::fits(pattern, &event.name))
}

fn owed(id: &str, seq: u64, event: &EventRow) -> Owed {
    Owed {
        subscription: id.to_owned(),
        seq,
        scope: event.scope.clone(),
        tried: 0,
        wait_ms: 0,
        replay: None,
        original_secret: false,
    }
}
