//! Delivery of a reply to a channel's endpoint, segment by segment: in order per session, at least once, each always
//! under the same id. What can't be delivered is a failed run, with its tries in its journal; it can be run again.

use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{Context, Failure, KeyRule, KeyStrategy, RetryRule, Worker, WorkflowDef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::Agents;
use crate::attempt::{Made, Next, Said, next};
use crate::channel::Media;
use crate::outside::{Address, Outside};
use crate::receipts::{self, DeliveryStatus, Receipt};
use crate::session::SessionKey;

/// The workflow's name.
pub const WORKFLOW: &str = "deliver-reply";
/// The step that posts it.
pub const POST_STEP: &str = "post";

/// Waits before the second, third and fourth try, in milliseconds.
const FIRST_WAITS_MS: [u64; 3] = [1_000, 5_000, 15_000];
/// The wait before each further try.
const LATER_WAIT_MS: u64 = 60_000;

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

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// What the channel said.
    pub said: Said,
    /// The try, as it is noted.
    pub made: Made,
    /// The provider's id for it, if it took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
}

/// What came of a try, for the journal.
#[derive(Debug, Serialize, Deserialize)]
enum Tried {
    Posted(Posted),
    // What a process of release 0.1 put on record for deliveries that are still under way.
    Sent(Sent),
    Again { error: String, after_ms: Option<u64> },
    Never { error: String },
}

impl Tried {
    fn posted(self) -> Posted {
        let failed = |said, error| Posted {
            said,
            made: Made { error: Some(error), ..Made::default() },
            provider_message_id: None,
        };
        match self {
            Tried::Posted(posted) => posted,
            Tried::Sent(Sent { status, provider_message_id }) => {
                let made = Made { status: Some(status), ..Made::default() };
                Posted { said: Said::Status(status, None), made, provider_message_id }
            }
            Tried::Again { error, after_ms } => failed(Said::Status(503, after_ms), error),
            Tried::Never { error } => failed(Said::Status(400, None), error),
        }
    }
}

/// The definition: one delivery at a time per session, in the order they were asked for.
pub fn definition() -> WorkflowDef {
    let mut def = WorkflowDef::single(WORKFLOW, true);
    def.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    // For what fails around the channel; its own failures are tried again below.
    def.tasks[0].retry = RetryRule { attempts_max: 3, backoff_ms: 200, backoff_percent: 300, backoff_max_ms: 5_000 };
    def
}

pub(crate) fn offer(worker: Worker, agents: &Agents, outside: Arc<dyn Outside>) -> Worker {
    let agents = agents.clone();
    worker.function(definition(), move |ctx: Context, delivery: Delivery| {
        let (outside, agents) = (outside.clone(), agents.clone());
        async move { deliver(&ctx, &delivery, &agents, &*outside).await }
    })
}

async fn deliver(ctx: &Context, delivery: &Delivery, agents: &Agents, outside: &dyn Outside) -> Result<Sent, Failure> {
    if delivery.delay_ms > 0 {
        ctx.sleep(Duration::from_millis(delivery.delay_ms)).await?;
    }
    let session = SessionKey::parse(&delivery.session);
    let settings = session.as_ref().and_then(|session| agents.get(session.tenant, &session.agent));
    let channel =
        Address { url: &delivery.url, secret: settings.and_then(|settings| settings.deliver_secret.as_ref()) };
    let later = (0..delivery.attempts_more).map(|_| LATER_WAIT_MS);
    let waits_ms: Vec<u64> = FIRST_WAITS_MS.into_iter().chain(later).collect();
    let chance = ctx.run_id().0 as u64;
    let mut tries = 0;
    let error = loop {
        tries += 1;
        let tried = ctx.run(POST_STEP, || async { Ok(Tried::Posted(outside.deliver(channel, delivery).await)) });
        let Posted { said, made, provider_message_id } = tried.await?.posted();
        match next(said, tries, &waits_ms, chance) {
            Next::Delivered => {
                note(ctx, delivery, DeliveryStatus::Sent, provider_message_id.clone(), None).await?;
                return Ok(Sent { status: made.status.unwrap_or_default(), provider_message_id });
            }
            Next::Again(wait_ms) => ctx.sleep(Duration::from_millis(wait_ms)).await?,
            Next::Dead | Next::Gone => break format!("{}: {}", delivery.url, made.error.unwrap_or_default()),
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
