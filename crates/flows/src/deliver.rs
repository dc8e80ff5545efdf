//! Delivery of a reply to a channel's endpoint, segment by segment: in order per session, at least once, each always
//! under the same id. What can't be delivered is a failed run, with its tries in its journal; it can be run again.

use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{Context, Failure, KeyRule, KeyStrategy, RetryRule, Worker, WorkflowDef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::channel::Media;
use crate::outside::Outside;
use crate::receipts::{self, DeliveryStatus, Receipt};

/// The workflow's name.
pub const WORKFLOW: &str = "deliver-reply";
/// The step that posts it.
pub const POST_STEP: &str = "post";

/// Waits before the second, third and fourth try.
const FIRST_WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];
/// The wait before each further try.
const LATER_WAIT: Duration = Duration::from_secs(60);
/// The longest a channel may ask us to wait.
const WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// What is delivered, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Where.
    pub url: String,
    /// The id by which the endpoint recognises a repeat: the turn's, and the segment's place in the reply.
    pub reply_id: String,
    /// The turn it answers.
    pub turn_id: String,
    /// The session.
    pub session: String,
    /// The segment's place in the reply, counted from 0.
    #[serde(default)]
    pub segment: u32,
    /// How many segments the reply has.
    #[serde(default)]
    pub segments: u32,
    /// The segment's text.
    #[serde(default)]
    pub text: String,
    /// Its picture or file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// Whatever else goes with the reply: with its first segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// A pause before it, so that a reply does not look hasty.
    #[serde(default)]
    pub delay_ms: u64,
    /// Tries beyond those at 1, 5 and 15 s, a minute apart.
    #[serde(default)]
    pub attempts_more: u32,
}

/// What a channel said about a segment it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The HTTP status.
    pub status: u16,
    /// The provider's id for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// Another try may help.
    Retryable {
        /// Why.
        error: String,
        /// When the channel wants it, if it says.
        after_ms: Option<u64>,
    },
    /// No further try will help.
    Final {
        /// Why.
        error: String,
    },
}

/// What came of a try, for the journal.
#[derive(Debug, Serialize, Deserialize)]
enum Tried {
    Sent(Sent),
    Again { error: String, after_ms: Option<u64> },
    Never { error: String },
}

/// The definition: one delivery at a time per session, in the order they were asked for.
pub fn definition() -> WorkflowDef {
    let mut def = WorkflowDef::single(WORKFLOW, true);
    def.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    // For what fails around the channel; its own failures are tried again below.
    def.tasks[0].retry = RetryRule { attempts_max: 3, backoff_ms: 200, backoff_percent: 300, backoff_max_ms: 5_000 };
    def
}

pub(crate) fn offer(worker: Worker, outside: Arc<dyn Outside>) -> Worker {
    worker.function(definition(), move |ctx: Context, delivery: Delivery| {
        let outside = outside.clone();
        async move { deliver(&ctx, &delivery, &*outside).await }
    })
}

async fn deliver(ctx: &Context, delivery: &Delivery, outside: &dyn Outside) -> Result<Sent, Failure> {
    if delivery.delay_ms > 0 {
        ctx.sleep(Duration::from_millis(delivery.delay_ms)).await?;
    }
    let waits = FIRST_WAITS.into_iter().chain((0..delivery.attempts_more).map(|_| LATER_WAIT));
    let mut waits = waits.fuse();
    let error = loop {
        let tried = ctx.run(POST_STEP, || async {
            Ok(match outside.deliver(delivery).await {
                Ok(sent) => Tried::Sent(sent),
                Err(Undelivered::Retryable { error, after_ms }) => Tried::Again { error, after_ms },
                Err(Undelivered::Final { error }) => Tried::Never { error },
            })
        });
        match tried.await? {
            Tried::Sent(sent) => {
                note(ctx, delivery, DeliveryStatus::Sent, sent.provider_message_id.clone(), None).await?;
                return Ok(sent);
            }
            Tried::Never { error } => break error,
            Tried::Again { error, after_ms } => {
                let Some(wait) = waits.next() else { break error };
                let asked = Duration::from_millis(after_ms.unwrap_or(0)).min(WAIT_MAX);
                ctx.sleep(wait.max(asked)).await?;
            }
        }
    };
    note(ctx, delivery, DeliveryStatus::Failed, None, Some(error.clone())).await?;
    Err(Failure::Final(error))
}

/// Puts on record how far it got. A step that only goes forward, so a repeat of it does no harm.
async fn note(
    ctx: &Context,
    delivery: &Delivery,
    status: DeliveryStatus,
    provider_message_id: Option<String>,
    error: Option<String>,
) -> Result<(), Failure> {
    let receipt = Receipt { reply_id: delivery.reply_id.clone(), status, provider_message_id, error };
    ctx.run("note", || async {
        let taken = receipts::take(ctx.client(), &delivery.session, &delivery.turn_id, &receipt).await;
        taken.map(drop).map_err(|error| Failure::GivenUp(error.to_string()))
    })
    .await
}
