//! Making, changing and verifying subscriptions. Each change is a document and the event that says so, in one decision:
//! in the log of events stands from where on it holds.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mainspring_client::{ClientError, DocumentKey, EngineError, FeedPosition, Guard, PutDocument, Refusal};
use serde::Deserialize;
use serde_json::json;

use super::subscription::{BadChoice, Choices, KeptSecret, State, Subscription};
use super::{
    BEGUN_EVENT, CHANGED_EVENT, CHANGES_SCOPE, DISABLED_EVENT, READER, SETTINGS_EVENT, SUBSCRIPTION, SUBSCRIPTIONS_MAX,
    TEST_EVENT, Webhooks,
};
use super::{message, scope_of};
use crate::egress::{CallLimits, Fault, Refused, Request};
use crate::settings::{Secret, millis};
use crate::sign;

/// Versions of a subscription that are kept: the matcher reads those that held where it stands.
const HISTORY: u32 = 50;
/// How long a deleted subscription is remembered, so that what was owed to it finds it gone.
const DELETED_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// Secrets kept beside the present one.
const OLD_SECRETS_MAX: usize = 4;
/// The longest two secrets may be valid together.
pub const OVERLAP_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// How long a challenge may take, and bytes of its answer that are read.
const CHALLENGE: CallLimits = CallLimits { time: std::time::Duration::from_secs(10), body_bytes_max: 4_096 };

/// What can't be done with a subscription.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// A choice can't be taken.
    #[error(transparent)]
    Choice(#[from] BadChoice),
    /// Its address may not be called.
    #[error("url: {0}")]
    Url(#[from] Refused),
    /// Its filter can't be read.
    #[error("filter: {0}")]
    Filter(String),
    /// There is none.
    #[error("no such subscription in this tenant")]
    NotFound,
    /// It does not stand so that this can be done.
    #[error("{0}")]
    State(String),
    /// The endpoint has not answered the challenge.
    #[error("the endpoint was not verified: {0}")]
    Unverified(String),
    /// As many as there may be.
    #[error("there are {SUBSCRIPTIONS_MAX} subscriptions, which is the limit: delete one, or use one for more events")]
    Full,
    /// The engine.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A change of what was chosen. What is left out stays.
pub type Change = serde_json::Map<String, serde_json::Value>;

impl Webhooks {
    /// The subscriptions there are, in the order of their ids.
    ///
    /// # Errors
    /// [`WebhookError::Client`].
    pub async fn list(&self) -> Result<Vec<(u64, Subscription)>, WebhookError> {
        let rows = self.client.documents(SUBSCRIPTION, "").await?;
        let read = rows.into_iter().filter_map(|(_, row)| Some((row.version, serde_json::from_slice(&row.body).ok()?)));
        Ok(read.filter(|(_, subscription): &(u64, Subscription)| subscription.state != State::Deleted).collect())
    }

    /// A subscription, with its version.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Client`].
    pub async fn find(&self, id: &str) -> Result<(u64, Subscription), WebhookError> {
        let found = self.stored(id).await?;
        found.filter(|(_, subscription)| subscription.state != State::Deleted).ok_or(WebhookError::NotFound)
    }

    /// As [`Webhooks::find`], also of one that was deleted.
    pub(crate) async fn stored(&self, id: &str) -> Result<Option<(u64, Subscription)>, ClientError> {
        let row = self.client.document(DocumentKey::new(SUBSCRIPTION, id)).await?;
        Ok(row.and_then(|row| Some((row.version, serde_json::from_slice(&row.body).ok()?))))
    }

    /// Makes a subscription, which is pending until its endpoint is verified. Answers it with its secret, which is not
    /// shown again. Durable when it returns.
    ///
    /// # Errors
    /// [`WebhookError`] says what to change.
    pub async fn create(&self, choices: Choices) -> Result<(Subscription, Secret), WebhookError> {
        self.check(&choices)?;
        if self.list().await?.len() >= SUBSCRIPTIONS_MAX {
            return Err(WebhookError::Full);
        }
        self.begin_reading().await?;
        let now = self.now_ms();
        let id = format!("wh{:024x}", self.chance()? >> 32);
        let secret = self.new_secret()?;
        let kept = KeptSecret { sealed: self.seal(&secret, &id)?, since: now, until: None };
        let mut subscription = Subscription {
            id,
            choices,
            headers: BTreeMap::new(),
            state: State::Pending,
            reason: None,
            verified: false,
            secrets: vec![kept],
            created_at: now,
            updated_at: now,
        };
        self.seal_headers(&mut subscription)?;
        self.put(0, &mut subscription).await?;
        Ok((subscription, secret))
    }

    /// Changes what was chosen. Another address has to be verified again. Durable when it returns.
    ///
    /// # Errors
    /// [`WebhookError`] says what to change.
    pub async fn change(&self, id: &str, change: &Change) -> Result<Subscription, WebhookError> {
        self.update(id, |subscription| {
            let mut choices = serde_json::to_value(&subscription.choices).unwrap_or_default();
            let bad = |what: String| WebhookError::Choice(BadChoice { field: "the body", what });
            let Some(fields) = choices.as_object_mut() else { return Err(bad("it is no object".to_owned())) };
            fields.extend(change.clone());
            let choices: Choices =
                serde_json::from_value(choices).map_err(|error| bad(format!("it can't be read: {error}")))?;
            self.check(&choices)?;
            if choices.url != subscription.choices.url {
                (subscription.state, subscription.verified) = (State::Pending, false);
            }
            subscription.choices = choices;
            if change.contains_key("headers") {
                subscription.headers.clear();
                self.seal_headers(subscription)?;
            }
            Ok(())
        })
        .await
    }

    /// Deletes a subscription. What was owed to it is not delivered any more. Durable when it returns.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Client`].
    pub async fn delete(&self, id: &str) -> Result<(), WebhookError> {
        self.update(id, |subscription| {
            subscription.state = State::Deleted;
            subscription.secrets.clear();
            subscription.headers.clear();
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Stops deliveries; what is owed waits. Durable when it returns.
    ///
    /// # Errors
    /// [`WebhookError::State`] if it is not active.
    pub async fn pause(&self, id: &str) -> Result<Subscription, WebhookError> {
        self.update(id, |subscription| match subscription.state {
            State::Active | State::Paused => {
                subscription.state = State::Paused;
                Ok(())
            }
            other => Err(not_from(other, "be paused", "only an active one can")),
        })
        .await
    }

    /// Goes on with deliveries of one that was paused or disabled; what waited is delivered first. Durable when it
    /// returns.
    ///
    /// # Errors
    /// [`WebhookError::State`] if its endpoint is not verified.
    pub async fn resume(&self, id: &str) -> Result<Subscription, WebhookError> {
        let resumed = self
            .update(id, |subscription| {
                if !subscription.verified {
                    return Err(not_from(subscription.state, "be active", "verify its endpoint first"));
                }
                (subscription.state, subscription.reason) = (State::Active, None);
                Ok(())
            })
            .await?;
        self.forgive(id).await?;
        Ok(resumed)
    }

    /// Disables a subscription, and tells so. Does nothing for one that is not active.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn disable(&self, id: &str, reason: &str) -> Result<(), WebhookError> {
        let mut was_active = false;
        self.update(id, |subscription| {
            was_active = subscription.state == State::Active;
            if was_active {
                (subscription.state, subscription.reason) = (State::Disabled, Some(reason.to_owned()));
            }
            Ok(())
        })
        .await?;
        if was_active {
            tracing::warn!(subscription = id, reason, "a webhook was disabled");
            let data = json!({ "subscription_id": id, "reason": reason });
            self.client.emit(DISABLED_EVENT, Some(&scope_of(id)), &data).await?;
        }
        Ok(())
    }

    /// Gives a new secret, which is not shown again. The one before stays valid for `overlap_ms`: requests are signed
    /// with both. Durable when it returns.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn rotate(&self, id: &str, overlap_ms: u64) -> Result<(Subscription, Secret), WebhookError> {
        if overlap_ms > OVERLAP_MAX_MS {
            let what = format!("at most {OVERLAP_MAX_MS}, which is thirty days");
            return Err(BadChoice { field: "overlap_ms", what }.into());
        }
        let (secret, now) = (self.new_secret()?, self.now_ms());
        let sealed = self.seal(&secret, id)?;
        let rotated = self
            .update(id, |subscription| {
                for old in &mut subscription.secrets {
                    let until = old.until.unwrap_or(u64::MAX).min(now.saturating_add(overlap_ms));
                    old.until = Some(until);
                }
                subscription.secrets.push(KeptSecret { sealed: sealed.clone(), since: now, until: None });
                let surplus = subscription.secrets.len().saturating_sub(OLD_SECRETS_MAX + 1);
                subscription.secrets.drain(..surplus);
                Ok(())
            })
            .await?;
        Ok((rotated, secret))
    }

    /// Asks the endpoint whether it wants to be called: it must answer the challenge it is sent. Then the subscription
    /// is active, and events from there on are owed to it. Durable when it returns.
    ///
    /// # Errors
    /// [`WebhookError::Unverified`] says what the endpoint did instead.
    pub async fn verify(&self, id: &str) -> Result<Subscription, WebhookError> {
        #[derive(Deserialize)]
        struct Echo {
            challenge: String,
        }
        let (_, subscription) = self.find(id).await?;
        let challenge = format!("{:032x}", self.chance()?);
        let now = self.now_ms();
        let body = json!({ "type": "webhook.verification", "subscription_id": id, "challenge": challenge }).to_string();
        let secrets = self.open_all(message::signing(&subscription.secrets, now), id);
        let mut headers = sign::headers(&secrets, &format!("msg_{id}_verify_{now:x}"), now, body.as_bytes());
        headers.extend(self.own_headers(&subscription));
        let url = subscription.choices.url.clone();
        let request = Request { method: "POST", url: url.clone(), headers, body: body.into() };
        let answer = self.shared.egress.call(request, CHALLENGE).await.map_err(|fault| match fault {
            Fault::Refused(refused) => WebhookError::Url(refused),
            other => WebhookError::Unverified(other.to_string()),
        })?;
        let echoed = serde_json::from_slice::<Echo>(&answer.body).is_ok_and(|echo| echo.challenge == challenge);
        if !(200..300).contains(&answer.status) || !echoed {
            let what = "answer 200 with {\"challenge\": ...}, the value it was sent";
            return Err(WebhookError::Unverified(format!(
                "it answered {} without the challenge: {what}",
                answer.status
            )));
        }
        let verified = self
            .update(id, |subscription| {
                // Another address may have been set while this one was asked.
                if subscription.choices.url != url {
                    return Err(WebhookError::Unverified(
                        "its address has changed meanwhile: verify it again".to_owned(),
                    ));
                }
                subscription.verified = true;
                if subscription.state == State::Pending {
                    subscription.state = State::Active;
                }
                Ok(())
            })
            .await?;
        self.forgive(id).await?;
        Ok(verified)
    }

    /// Sends a test event to one subscription, the way of all others. Answers the event's number.
    ///
    /// # Errors
    /// [`WebhookError::State`] if nothing is delivered to it at present.
    pub async fn test(&self, id: &str) -> Result<u64, WebhookError> {
        let (_, subscription) = self.find(id).await?;
        if subscription.state != State::Active {
            return Err(not_from(subscription.state, "be tested", "verify or resume it first"));
        }
        let data = json!({ "subscription_id": id, "message": "This is a test." });
        Ok(self.client.emit(TEST_EVENT, Some(&scope_of(id)), &data).await?)
    }

    fn check(&self, choices: &Choices) -> Result<(), WebhookError> {
        choices.check()?;
        self.shared.egress.check(&choices.url)?;
        if let Some(filter) = &choices.filter {
            (self.shared.filters)(filter).map_err(WebhookError::Filter)?;
        }
        Ok(())
    }

    /// Changes a subscription, again if somebody else did at the same time.
    pub(crate) async fn update(
        &self,
        id: &str,
        mut change: impl FnMut(&mut Subscription) -> Result<(), WebhookError>,
    ) -> Result<Subscription, WebhookError> {
        loop {
            let (version, mut subscription) = self.find(id).await?;
            let before = subscription.clone();
            change(&mut subscription)?;
            if subscription == before {
                return Ok(subscription);
            }
            match self.put(version, &mut subscription).await {
                Err(WebhookError::Client(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict {
                    ..
                })))) => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(subscription),
            }
        }
    }

    async fn put(&self, version: u64, subscription: &mut Subscription) -> Result<(), WebhookError> {
        subscription.updated_at = self.now_ms();
        let put = PutDocument {
            key: DocumentKey::new(SUBSCRIPTION, &*subscription.id),
            expect: Some(version),
            body: serde_json::to_vec(subscription).unwrap_or_default().into(),
            ttl_ms: (subscription.state == State::Deleted).then_some(DELETED_KEPT_MS),
            history: HISTORY,
        };
        let said = json!({ "subscription_id": subscription.id, "version": version + 1, "state": subscription.state });
        let event = (CHANGED_EVENT.to_owned(), Some(CHANGES_SCOPE.to_owned()), Bytes::from(said.to_string()));
        let written = self.client.put_document(put, None, Guard::default(), Some(event)).await?;
        self.endpoints.changed(written, subscription);
        self.changed.notify_one();
        // Deliveries that wait for a change of this one.
        self.client.emit(SETTINGS_EVENT, Some(&scope_of(&subscription.id)), &said).await?;
        Ok(())
    }

    /// Makes the matcher's position, if this is the tenant's first subscription: it reads from here on.
    async fn begin_reading(&self) -> Result<(), WebhookError> {
        if self.client.feed_position(READER).await?.is_some() {
            return Ok(());
        }
        let seq = self.client.emit(BEGUN_EVENT, Some(CHANGES_SCOPE), &json!({})).await?;
        match self.client.advance(vec![FeedPosition::default().moved_to(READER, seq)], Vec::new()).await {
            Ok(_) | Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn chance(&self) -> Result<u128, WebhookError> {
        self.client.engine().world().chance().map_err(|cause| ClientError::Random { cause }.into())
    }

    fn new_secret(&self) -> Result<Secret, WebhookError> {
        let bytes = [self.chance()?.to_le_bytes(), self.chance()?.to_le_bytes()].concat();
        Ok(Secret(format!("whsec_{}", STANDARD.encode(bytes))))
    }

    fn seal(&self, secret: &Secret, id: &str) -> Result<crate::seal::Sealed, WebhookError> {
        Ok(self.shared.sealer.seal(secret, &self.seal_name(id), [self.chance()?, self.chance()?]))
    }

    /// Moves the values of headers from where they were chosen to where they are kept.
    fn seal_headers(&self, subscription: &mut Subscription) -> Result<(), WebhookError> {
        for (name, value) in &mut subscription.choices.headers {
            let sealed = self.seal(&Secret(std::mem::take(value)), &subscription.id)?;
            subscription.headers.insert(name.clone(), sealed);
        }
        Ok(())
    }

    /// What a subscription's secrets are sealed for.
    fn seal_name(&self, id: &str) -> String {
        format!("{}/{id}", self.client.tenant())
    }

    pub(crate) fn open_all<'a>(&self, secrets: impl Iterator<Item = &'a KeptSecret>, id: &str) -> Vec<Secret> {
        let name = self.seal_name(id);
        let opened: Vec<Secret> = secrets.filter_map(|kept| self.shared.sealer.open(&kept.sealed, &name)).collect();
        if opened.is_empty() {
            tracing::error!(subscription = id, "its secrets can't be opened: was the signing key replaced?");
        }
        opened
    }

    /// The headers a subscription asks for.
    pub(crate) fn own_headers(&self, subscription: &Subscription) -> Vec<(String, String)> {
        let name = self.seal_name(&subscription.id);
        let opened = subscription
            .headers
            .iter()
            .filter_map(|(header, sealed)| Some((header.clone(), self.shared.sealer.open(sealed, &name)?.0)));
        opened.collect()
    }

    /// The time one of its requests may take.
    pub(crate) fn limits_of(choices: &Choices) -> CallLimits {
        let time = std::time::Duration::from_millis(choices.timeout_ms);
        debug_assert!(millis(time) == choices.timeout_ms);
        CallLimits { time, body_bytes_max: crate::attempt::ANSWER_BYTES_KEPT }
    }
}

fn not_from(state: State, what: &str, help: &str) -> WebhookError {
    let word = serde_json::to_value(state).unwrap_or_default();
    WebhookError::State(format!("the subscription is {} and can't {what}: {help}", word.as_str().unwrap_or_default()))
}
