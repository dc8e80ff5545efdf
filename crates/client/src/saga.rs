//! Steps that can be undone: [`Context::step`]. If the function fails or is cancelled, what its steps did is undone, the
//! last first, each until it is undone. What can't be undone waits for a person, and the run with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mainspring_core::journal::Commit;
use mainspring_core::{DocumentKey, PutDocument};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, RetryPolicy};
use crate::failure::Failure;

/// The kind of documents that say that a run waits for a person.
pub const ATTENTION: &str = "attention";

/// How often, and how patiently, undoing is tried before a person is asked.
const UNDO_POLICY: RetryPolicy =
    RetryPolicy { attempts_max: 10, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(60) };

/// A run that waits for a person, for whoever looks. It is settled by the signal [`settle_signal`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// What kind of thing it is: `compensation_failed`, `unknown`, `confirmation`, `task`.
    pub kind: String,
    /// The run that waits.
    pub run_id: String,
    /// The step that waits.
    pub step: String,
    /// What happened, or what is asked, in a sentence.
    pub title: String,
    /// What may be answered.
    pub verbs: Vec<String>,
    /// Since when, in milliseconds since the Unix epoch. Kept by whoever writes it again.
    pub since: u64,
    /// Everything else a person needs to decide.
    #[serde(default)]
    pub detail: Value,
}

/// The name of the signal that settles a step that waits for a person.
pub fn settle_signal(step: &str) -> String {
    format!("settle:{step}")
}

/// What a person decided.
#[derive(Debug, Deserialize)]
struct Settled {
    verb: String,
}

/// What came of a try, for the journal.
#[derive(Serialize, Deserialize)]
enum Tried<T> {
    Done(T),
    /// It failed, or broke off: it may have been done.
    Broke(String),
    /// It was certainly not done, and will not be.
    Refused(String),
}

type Undoing = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;
type UndoFn = Arc<dyn Fn() -> Undoing + Send + Sync>;

/// What is to be undone if the function fails, in the order it was done.
#[derive(Default)]
pub(crate) struct Undo(Mutex<Vec<(String, UndoFn)>>);

impl Undo {
    fn push(&self, name: &str, undo: UndoFn) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), undo));
    }

    fn pop(&self) -> Option<(String, UndoFn)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// A step, before it is carried out: see [`Context::step`].
pub struct Step<'c, T, F> {
    ctx: &'c Context,
    name: String,
    action: F,
    retry: RetryPolicy,
    timeout: Option<Duration>,
    #[allow(clippy::type_complexity, reason = "a function from what the step gave to the work of undoing it")]
    undo: Option<Arc<dyn Fn(Option<T>) -> Undoing + Send + Sync>>,
}

impl Context {
    /// A step that can be undone. Its intent is on record before it is carried out. After a crash in between it is carried
    /// out again, so an outside effect should be asked for under a key derived from [`Context::run_id`] and its name.
    ///
    /// ```no_run
    /// # use mainspring_client::{Context, Failure};
    /// # async fn book(_: &str) -> Result<String, Failure> { Ok(String::new()) }
    /// # async fn unbook(_: Option<String>) -> Result<(), Failure> { Ok(()) }
    /// async fn trip(ctx: Context, _: ()) -> Result<String, Failure> {
    ///     let flight = ctx.step("flight", |_| book("flight")).compensate_with(unbook).run().await?;
    ///     let hotel = ctx.step("hotel", |_| book("hotel")).compensate_with(unbook).run().await?;
    ///     Ok(format!("{flight} and {hotel}"))
    /// }
    /// ```
    pub fn step<T, F, Fut>(&self, name: &str, action: F) -> Step<'_, T, F>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        F: Fn(u32) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let retry = RetryPolicy { attempts_max: 1, backoff: Duration::ZERO, backoff_max: Duration::ZERO };
        Step { ctx: self, name: name.to_owned(), action, retry, timeout: None, undo: None }
    }

    /// Undoes what the function's steps did, if there is anything, and gives the failure the run ends with.
    pub(crate) async fn unwind(&self, failure: Failure) -> Failure {
        match failure {
            // Nothing is over: the function goes on elsewhere, or when a person has looked.
            Failure::GivenUp(_) | Failure::Mismatch { .. } | Failure::Supersede(_) => return failure,
            _ if self.undo().is_empty() => return failure,
            Failure::Retryable(_)
            | Failure::Final(_)
            | Failure::Cancelled(_)
            | Failure::Child { .. }
            | Failure::Json { .. } => {}
        }
        while let Some((name, undo)) = self.undo().pop() {
            if let Err(ending) = self.undo_step(&name, undo).await {
                return ending;
            }
        }
        match failure {
            Failure::Cancelled(_) => failure,
            // What was undone is not done again by another attempt.
            other => Failure::Final(other.to_string()),
        }
    }

    async fn undo_step(&self, name: &str, undo: UndoFn) -> Result<(), Failure> {
        let step = format!("undo {name}");
        loop {
            let error = match self.run_retrying(&step, UNDO_POLICY, |_| undo()).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => error,
                // Asked to end while it undoes already: it goes on undoing.
                Err(Failure::Cancelled(_)) => continue,
                Err(ending) => return Err(ending),
            };
            let attention = Attention {
                kind: "compensation_failed".to_owned(),
                run_id: self.run_id().to_string(),
                step: step.clone(),
                title: format!("{name:?} could not be undone: {error}"),
                verbs: vec!["retry".to_owned(), "done".to_owned()],
                since: self.now_ms().await?,
                detail: json!({ "error": error }),
            };
            match self.ask_person::<Settled>(&attention).await {
                Ok(Some(settled)) if settled.verb == "done" => return Ok(()),
                Ok(_) | Err(Failure::Cancelled(_)) => {}
                Err(ending) => return Err(ending),
            }
        }
    }

    /// What time it is, as recorded.
    async fn now_ms(&self) -> Result<u64, Failure> {
        let world = self.client().engine().world();
        self.run("time", || async move { Ok(world.now_ms()) }).await
    }

    /// Puts the run on the list of those that wait for a person, waits until one has decided, and takes it off the list.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on. [`Failure::Cancelled`] if the run is asked to end meanwhile; it
    /// is on the list still, and may be asked about again.
    pub async fn ask_person<T: DeserializeOwned>(&self, attention: &Attention) -> Result<Option<T>, Failure> {
        self.put_attention(attention, None, "attention.needed").await?;
        let answer = self.wait_signal(&settle_signal(&attention.step), None).await?;
        self.put_attention(attention, Some(0), "attention.settled").await?;
        Ok(answer)
    }

    /// Writes what a person is asked, and tells it. With a time to live of 0 it is taken off the list.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn put_attention(&self, attention: &Attention, ttl_ms: Option<u64>, told: &str) -> Result<(), Failure> {
        let body = serde_json::to_vec(attention).map(Bytes::from);
        let body = body
            .map_err(|error| Failure::Json { what: "what a person is asked".to_owned(), cause: error.to_string() })?;
        let key = DocumentKey::new(ATTENTION, format!("{}/{}", attention.run_id, attention.step));
        let told = (told.to_owned(), Bytes::from(json!({
            "kind": attention.kind, "run_id": attention.run_id, "step": attention.step, "title": attention.title,
        }).to_string()));
        let documents = vec![PutDocument { key, expect: None, body, ttl_ms, history: 0 }];
        self.commit(Commit { force: true, documents, events: vec![told], ..Commit::default() }).await?;
        Ok(())
    }
}

impl<T, F, Fut> Step<'_, T, F>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    F: Fn(u32) -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    /// How the step is undone, given what it gave; `None` if that is not known, because its last try broke off. Undoing
    /// may be asked for twice, and for what was never done.
    #[must_use]
    pub fn compensate_with<U, Done>(mut self, undo: U) -> Self
    where
        U: Fn(Option<T>) -> Done + Send + Sync + 'static,
        Done: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.undo = Some(Arc::new(move |given| Box::pin(undo(given))));
        self
    }

    /// When the step is tried again. Without this it is tried once.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How long each try may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Carries the step out, and gives what it gave. What is recorded is never carried out again. An action that fails
    /// with [`Failure::Final`] says that nothing was done, and that nothing is to be undone.
    ///
    /// # Errors
    /// The last try's error as [`Failure::Final`]; [`Failure::Cancelled`] if the run was asked to end before.
    pub async fn run(self) -> Result<T, Failure> {
        let Step { ctx, name, action, retry, timeout, undo } = self;
        let mut wait = retry.backoff;
        let (mut tries, mut may_stand) = (0, false);
        let failure = loop {
            tries += 1;
            let tried = ctx.act(&name, undo.is_some(), |_| async {
                let work = action(tries);
                let result = match timeout {
                    None => work.await,
                    Some(timeout) => tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
                        Err(Failure::Retryable(format!("{name} did not end within {} ms", timeout.as_millis())))
                    }),
                };
                match result {
                    Ok(given) => Ok(Tried::Done(given)),
                    Err(Failure::Retryable(error)) => Ok(Tried::Broke(error)),
                    Err(Failure::Final(error)) => Ok(Tried::Refused(error)),
                    Err(ending) => Err(ending),
                }
            });
            let tried = match tried.await {
                Ok(tried) => tried,
                Err(ending) => break ending,
            };
            match tried {
                Tried::Done(given) => {
                    if let Some(undo) = undo {
                        let kept = given.clone();
                        ctx.undo().push(&name, Arc::new(move || undo(Some(kept.clone()))));
                    }
                    return Ok(given);
                }
                Tried::Broke(error) => {
                    may_stand = true;
                    if tries >= retry.attempts_max {
                        break Failure::Final(format!("{name} failed {tries} time(s), last: {error}"));
                    }
                    if let Err(ending) = ctx.sleep(wait).await {
                        break ending;
                    }
                    wait = (wait * 2).min(retry.backoff_max);
                }
                Tried::Refused(error) => break Failure::Final(format!("{name} failed: {error}")),
            }
        };
        // What broke off may have been done, whatever became of it afterwards.
        if let Some(undo) = undo.filter(|_| may_stand) {
            ctx.undo().push(&name, Arc::new(move || undo(None)));
        }
        Err(failure)
    }
}
