//! The window: messages are taken until it ends. Times are those of the messages, so a replay decides the same, and a
//! restart waits for what is left.

use mainspring_client::{Failure, Message, Received};
use serde::{Deserialize, Serialize};

use super::{Begun, Turn};
use crate::decision::OnMessage;
use crate::message::{Complete, MessageBody};
use crate::records::SessionRecord;
use crate::voice::Voice;
use crate::window::{self, Hint, Quiet, WindowRules};

/// Why a turn's messages were complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowEnd {
    /// Silence for as long as was waited.
    Timeout,
    /// The person said so.
    ExplicitSignal,
    /// The channel said so.
    ChannelHint,
    /// The agent had said, in the turn before, that the next message is complete by itself.
    AgentHint,
    /// The largest number.
    MaxMessages,
    /// The longest wait.
    MaxWait,
    /// There is no window.
    NoAccumulation,
}

/// How the window went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Why it ended.
    pub ended_by: WindowEnd,
    /// Milliseconds from the first message to its end, by the times of the messages.
    pub waited_ms: u64,
    /// Messages in it.
    pub messages: usize,
    /// The last wait, in milliseconds.
    #[serde(default)]
    pub quiet_ms: u64,
    /// Why that wait was as long as it was.
    #[serde(default)]
    pub explanation: String,
}

/// A window that is open: how long it waits for one more message, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWindow {
    /// When it ends if nothing more comes, in milliseconds since the Unix epoch.
    pub until: u64,
    /// The wait for one more message, in milliseconds.
    pub quiet_ms: u64,
    /// Why that wait is as long as it is.
    pub explanation: String,
}

/// The rules of one window, and what they are applied with.
struct Rules<'a> {
    window: &'a WindowRules,
    channel: &'a str,
    record: &'a SessionRecord,
    /// By the time of this message: when the window began.
    first_at: u64,
}

/// What is to be done after a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Next {
    quiet: Quiet,
    ended_by: Option<WindowEnd>,
    silent_at: u64,
    cap_at: u64,
}

impl Next {
    fn open_window(&self) -> OpenWindow {
        let until = self.silent_at.min(self.cap_at);
        OpenWindow { until, quiet_ms: self.quiet.ms, explanation: self.quiet.explain() }
    }
}

/// When a window began whose first messages came at these times. `superseded`: whether the turn took over from another.
fn began_at(mut first: impl DoubleEndedIterator<Item = u64>, superseded: bool) -> u64 {
    // What a superseded turn had has been waited for; only what interrupted it may be followed by more.
    if superseded { first.next_back() } else { first.next() }.unwrap_or(0)
}

fn next(rules: &Rules<'_>, latest: &MessageBody, latest_at: u64, count: usize) -> Next {
    let (window, cadence) = (rules.window, &rules.record.cadence);
    let hint: Option<&Hint> = rules.record.hint.as_ref();
    let pace = (cadence.samples() > 0).then(|| cadence.pace());
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let quiet = window::quiet(window, rules.channel, &latest.text, pace, hint, count);
    let ended_by = match latest.complete {
        Some(Complete::Explicit) => Some(WindowEnd::ExplicitSignal),
        Some(Complete::Channel) => Some(WindowEnd::ChannelHint),
        None if count >= window.messages_max.max(1) => Some(WindowEnd::MaxMessages),
        None if hint.is_some_and(|hint| hint.single_message) => Some(WindowEnd::AgentHint),
        None => None,
    };
    let silent_at = latest_at.saturating_add(quiet.ms);
    Next { quiet, ended_by, silent_at, cap_at: rules.first_at.saturating_add(window.max_wait_ms) }
}

/// How the window of a turn stands, for whoever looks: worked out from the turn's journal as the turn does it. `begun` is
/// what the step [`SETTINGS_STEP`](super::SETTINGS_STEP) recorded; `taken` are the messages of each receive, with their
/// times. `None` once nothing is waited for.
pub fn open_window(begun: &[u8], channel: &str, superseded: bool, taken: &[Vec<(Vec<u8>, u64)>]) -> Option<OpenWindow> {
    let begun: Begun = serde_json::from_slice(begun).ok()?;
    let (latest, latest_at) = taken.iter().flatten().next_back()?;
    let rules = Rules {
        window: begun.settings.window_on(channel),
        channel,
        record: &begun.record,
        first_at: began_at(taken.first()?.iter().map(|(_, at)| *at), superseded),
    };
    let next = next(&rules, &MessageBody::read(latest), *latest_at, taken.iter().flatten().count());
    next.ended_by.is_none().then(|| next.open_window())
}

/// Takes messages until the window ends.
pub(super) async fn accumulate(turn: &Turn<'_>) -> Result<(Vec<Message>, Window), Failure> {
    let ctx = turn.ctx;
    let window = turn.settings.window_on(&turn.session.channel);
    let max = window.messages_max.max(1);
    let Received::Messages(mut messages) = ctx.receive(None, max).await? else {
        return Err(Failure::Final("the turn began without a message".to_owned()));
    };
    let closes = turn.policy == OnMessage::Queue;
    let last_at = |messages: &[Message]| messages.last().map_or(0, |message| message.accepted_at);
    let superseded = ctx.lineage().superseded_before > 0;
    let rules = Rules {
        window,
        channel: &turn.session.channel,
        record: &turn.record,
        first_at: began_at(messages.iter().map(|message| message.accepted_at), superseded),
    };
    let (quiet, ended_by, ended_at) = loop {
        let latest = messages.last().map(|message| MessageBody::read(&message.payload)).unwrap_or_default();
        let next = next(&rules, &latest, last_at(&messages), messages.len());
        if let Some(ended_by) = next.ended_by {
            if closes || ended_by == WindowEnd::MaxMessages {
                // A full one also where messages interrupt: those left over would do so at once, and again after each
                // handover of the same full turn, for ever. They are the next turn's.
                ctx.close_inbox(true).await?;
            }
            break (next.quiet, ended_by, last_at(&messages));
        }
        let open = next.open_window();
        Voice::new(ctx.client().clone(), &turn.key, &turn.turn_id).window(&open);
        let (until, quiet) = (open.until, next.quiet);
        let room = max.saturating_sub(messages.len() as u32).max(1);
        match ctx.receive_until(until, room, closes).await? {
            Received::Messages(more) => messages.extend(more),
            Received::TimedOut | Received::Closed if quiet.ms == 0 => break (quiet, WindowEnd::NoAccumulation, until),
            Received::TimedOut | Received::Closed if next.cap_at < next.silent_at => {
                break (quiet, WindowEnd::MaxWait, until);
            }
            Received::TimedOut | Received::Closed => break (quiet, WindowEnd::Timeout, until),
        }
    };
    let window = Window {
        ended_by,
        waited_ms: ended_at.saturating_sub(rules.first_at),
        messages: messages.len(),
        quiet_ms: quiet.ms,
        explanation: quiet.explain(),
    };
    Ok((messages, window))
}
