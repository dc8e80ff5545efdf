//! How long a turn waits for one more message: the accumulation window, decided anew after each message.
//!
//! A wait that is too short answers half a question; one that is too long makes every answer late. So the wait begins
//! with the channel's habit and is changed by what the latest message looks like, by the person's own pace, and by what
//! the turn before expected. Every change is kept with its reason, because "why did it wait?" is the first question
//! anybody asks about a window.
//!
//! What this module does not know: the clock, and what the messages mean. The same facts give the same wait, so a
//! replay decides as the first run did.

mod words;

use std::fmt;

use serde::{Deserialize, Serialize};

use words::Shape;

/// Gaps that are remembered: enough for a 95th percentile that means something, few enough to keep with a session.
const GAPS_MAX: usize = 32;
/// A longer gap (ms) is a pause between two conversations and says nothing about a person's typing.
const GAP_MS_MAX: u64 = 60_000;
/// Fewer gaps than this are chance.
const SAMPLES_MIN: usize = 5;
/// A hint's confidence that the input is complete counts above this.
const CONFIDENCE_MIN: f64 = 0.8;

/// Whether and how a turn waits for more messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowMode {
    /// It does not wait.
    Off,
    /// It waits equally long after each message.
    Fixed,
    /// It waits as the message, the person and the turn before suggest.
    #[default]
    Adaptive,
}

/// How a window goes, as a configuration says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WindowRules {
    /// Whether and how it waits.
    pub mode: WindowMode,
    /// What a wait begins with, in milliseconds. Without it, [`base_ms`] of the channel.
    pub base_ms: Option<u64>,
    /// The shortest adaptive wait, in milliseconds.
    pub quiet_min_ms: u64,
    /// The longest adaptive wait, in milliseconds.
    pub quiet_max_ms: u64,
    /// The whole window is over after this time, in milliseconds, even without silence.
    pub max_wait_ms: u64,
    /// The window is over at this number of messages, even without silence.
    pub messages_max: u32,
}

impl Default for WindowRules {
    fn default() -> Self {
        WindowRules {
            mode: WindowMode::Adaptive,
            base_ms: None,
            quiet_min_ms: 200,
            quiet_max_ms: 3_000,
            max_wait_ms: 10_000,
            messages_max: 50,
        }
    }
}

/// Rules that contradict themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadWindowRules {
    /// No wait could be both.
    #[error("quiet_min_ms {min} is above quiet_max_ms {max}: lower the one or raise the other")]
    MinAboveMax {
        /// The shortest wait.
        min: u64,
        /// The longest wait.
        max: u64,
    },
    /// The base would never be waited for.
    #[error("base_ms {base} is above quiet_max_ms {max}: raise quiet_max_ms, or use mode \"fixed\"")]
    BaseAboveMax {
        /// What a wait begins with.
        base: u64,
        /// The longest wait.
        max: u64,
    },
    /// A turn has at least the message it begins with.
    #[error("messages_max is 0: a turn has at least one message, so use 1 or more")]
    NoMessages,
}

impl WindowRules {
    /// The same wait after each message.
    pub fn fixed(quiet_ms: u64) -> Self {
        WindowRules { mode: WindowMode::Fixed, base_ms: Some(quiet_ms), ..WindowRules::default() }
    }

    /// No window.
    pub fn off() -> Self {
        WindowRules { mode: WindowMode::Off, ..WindowRules::default() }
    }

    /// Checks rules that come from a configuration. [`quiet`] copes with any, but would surprise whoever wrote these.
    ///
    /// # Errors
    /// [`BadWindowRules`] says which number to change.
    pub fn check(&self) -> Result<(), BadWindowRules> {
        let (min, max) = (self.quiet_min_ms, self.quiet_max_ms);
        if self.messages_max == 0 {
            return Err(BadWindowRules::NoMessages);
        }
        if self.mode != WindowMode::Adaptive {
            return Ok(());
        }
        if min > max {
            return Err(BadWindowRules::MinAboveMax { min, max });
        }
        match self.base_ms {
            Some(base) if base > max => Err(BadWindowRules::BaseAboveMax { base, max }),
            _ => Ok(()),
        }
    }
}

/// The wait a channel begins with, in milliseconds. On a phone, people send a thought in pieces; e-mails, calls and
/// programs say everything at once, and are not waited for.
pub fn base_ms(channel: &str) -> u64 {
    match channel.to_ascii_lowercase().as_str() {
        "whatsapp" => 1_200,
        "telegram" => 1_000,
        "sms" | "slack" | "teams" => 800,
        "web" | "webchat" => 600,
        "email" | "voice" | "api" => 0,
        _ => 800,
    }
}

/// The gaps between a person's latest messages, from which follows how long this person usually takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cadence {
    /// In milliseconds, the oldest first.
    gaps_ms: Vec<u64>,
}

impl Cadence {
    /// Counts the gap before one more message. The oldest one is forgotten for it, and one above a minute is not counted.
    pub fn add(&mut self, gap_ms: u64) {
        if gap_ms > GAP_MS_MAX {
            return;
        }
        self.gaps_ms.push(gap_ms);
        let forgotten = self.gaps_ms.len().saturating_sub(GAPS_MAX);
        self.gaps_ms.drain(..forgotten);
    }

    /// The gap that half of them do not exceed, in milliseconds; 0 without any.
    pub fn p50(&self) -> u64 {
        self.percentile(50)
    }

    /// The gap that 95 of 100 do not exceed, in milliseconds; 0 without any.
    pub fn p95(&self) -> u64 {
        self.percentile(95)
    }

    /// How many gaps are remembered, 32 at most.
    pub fn samples(&self) -> usize {
        self.gaps_ms.len()
    }

    /// The three numbers a wait depends on.
    pub fn pace(&self) -> Pace {
        Pace { p50_ms: self.p50(), p95_ms: self.p95(), samples: self.samples() }
    }

    /// By nearest rank, so the answer is always a gap that was there.
    fn percentile(&self, percent: usize) -> u64 {
        let mut sorted = self.gaps_ms.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}

/// A person's pace: what is left of a [`Cadence`] when a turn begins, and small enough for its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// The gap that half of them do not exceed, in milliseconds.
    pub p50_ms: u64,
    /// The gap that 95 of 100 do not exceed, in milliseconds.
    pub p95_ms: u64,
    /// How many gaps these numbers are from. With fewer than five they are not heard.
    pub samples: usize,
}

/// What a turn expects of the next one's messages. The agent says it with its answer; the first turn has none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// The agent asked for something it can't go on without. People look such things up, so the wait is longer.
    pub awaiting_required_field: bool,
    /// The agent expects that more will be said.
    pub expects_followup: bool,
    /// The next message is complete by itself, such as a choice from a list: it is not waited after.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub single_message: bool,
    /// How sure the agent is, from 0 to 1, that what comes next is everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_complete_confidence: Option<f64>,
    /// What kind of answer the agent expects, in its own words. It is kept for the agent and does not change a wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_input_type: Option<String>,
}

/// How long to wait for one more message, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// Milliseconds of silence after which the messages are complete. 0 is no window.
    pub ms: u64,
    /// What the milliseconds are made of: the changes add up to them.
    pub why: Vec<Part>,
}

/// One reason for a wait's length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The reason.
    pub reason: Reason,
    /// What it added or took, in milliseconds.
    pub change_ms: i64,
}

/// Why a wait is longer or shorter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Windows are off.
    Off,
    /// This channel's habit.
    Channel(String),
    /// The configuration's base instead of the channel's.
    Configured,
    /// The message is only a greeting.
    Greeting,
    /// The message ends like a part of a sentence.
    Fragment,
    /// The message ends with a thing whose number is missing.
    Dangling,
    /// The message has fewer than three words.
    Short,
    /// The message ends like something complete.
    Complete,
    /// The pause this person usually makes.
    Pace {
        /// That pause, in milliseconds.
        typical_ms: u64,
    },
    /// The agent asked for something it needs.
    AwaitingField,
    /// The agent expects more.
    ExpectsFollowup,
    /// The agent expects everything at once.
    ExpectsComplete,
    /// It is not the turn's first message.
    Message {
        /// Which it is, from 1.
        number: u32,
    },
    /// The shortest wait.
    Shortest,
    /// The longest wait.
    Longest,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Off => f.write_str("the window is off"),
            Reason::Channel(channel) => f.write_str(channel),
            Reason::Configured => f.write_str("configured"),
            Reason::Greeting => f.write_str("a greeting"),
            Reason::Fragment => f.write_str("an unfinished sentence"),
            Reason::Dangling => f.write_str("a number is missing"),
            Reason::Short => f.write_str("fewer than three words"),
            Reason::Complete => f.write_str("a complete sentence"),
            Reason::Pace { typical_ms } => write!(f, "this person's usual pause of {typical_ms} ms"),
            Reason::AwaitingField => f.write_str("the agent asked for something"),
            Reason::ExpectsFollowup => f.write_str("the agent expects more"),
            Reason::ExpectsComplete => f.write_str("the agent expects everything at once"),
            Reason::Message { number } => write!(f, "message {number} of the turn"),
            Reason::Shortest => f.write_str("the shortest wait"),
            Reason::Longest => f.write_str("the longest wait"),
        }
    }
}

/// Decides how long to wait after the latest message. `messages_so_far` counts that message.
///
/// The steps, their order and their numbers are those of the original design; a change moves its golden values.
/// Everything is integers that truncate, as there.
pub fn quiet(
    rules: &WindowRules,
    channel: &str,
    latest_text: &str,
    pace: Option<Pace>,
    hint: Option<&Hint>,
    messages_so_far: u32,
) -> Quiet {
    if rules.mode == WindowMode::Off {
        return Quiet { ms: 0, why: vec![Part { reason: Reason::Off, change_ms: 0 }] };
    }
    let (base, reason) = match rules.base_ms {
        Some(base) => (base, Reason::Configured),
        None => (base_ms(channel), Reason::Channel(channel.to_owned())),
    };
    let mut quiet = Quiet { ms: base, why: vec![Part { reason, change_ms: base.cast_signed() }] };
    // Nobody waits for the second half of an e-mail, also not for the shortest wait.
    if base == 0 || rules.mode == WindowMode::Fixed {
        return quiet;
    }

    let (shape, complete) = words::read(latest_text);
    match shape {
        Shape::Greeting => quiet.become_ms(quiet.ms.saturating_add(500), Reason::Greeting),
        Shape::Fragment => quiet.become_ms(quiet.ms.saturating_add(400), Reason::Fragment),
        Shape::Dangling => quiet.become_ms(quiet.ms.saturating_add(600), Reason::Dangling),
        Shape::Short => quiet.become_ms(quiet.ms.saturating_add(200), Reason::Short),
        Shape::Other => {}
    }
    if complete {
        quiet.become_ms(quiet.ms.saturating_sub(300).max(rules.quiet_min_ms), Reason::Complete);
    }
    if let Some(pace) = pace.filter(|pace| pace.samples >= SAMPLES_MIN) {
        let typical_ms = pace.p50_ms.saturating_add(pace.p95_ms) / 2;
        let blended = quiet.ms.saturating_mul(3).saturating_add(typical_ms.saturating_mul(2)) / 5;
        quiet.become_ms(blended, Reason::Pace { typical_ms });
    }
    match hint {
        Some(hint) if hint.awaiting_required_field => {
            quiet.become_ms(quiet.ms.saturating_add(1_000), Reason::AwaitingField);
        }
        Some(hint) if hint.expects_followup => {
            quiet.become_ms(quiet.ms.saturating_add(500), Reason::ExpectsFollowup);
        }
        Some(hint) if hint.input_complete_confidence.is_some_and(|confidence| confidence > CONFIDENCE_MIN) => {
            quiet.become_ms(quiet.ms.saturating_sub(200), Reason::ExpectsComplete);
        }
        _ => {}
    }
    if messages_so_far > 1 {
        quiet.become_ms(shrunk(quiet.ms, messages_so_far - 1), Reason::Message { number: messages_so_far });
    }
    // Not `clamp`, which would panic over rules nobody checked.
    if quiet.ms > rules.quiet_max_ms {
        quiet.become_ms(rules.quiet_max_ms, Reason::Longest);
    } else if quiet.ms < rules.quiet_min_ms {
        quiet.become_ms(rules.quiet_min_ms, Reason::Shortest);
    }
    quiet
}

/// `ms * 0.8^times`, truncated once. In whole numbers, because 0.8 has no exact binary form.
fn shrunk(ms: u64, times: u32) -> u64 {
    // 5^50 still fits, and by then less than a millisecond is left of any wait below a minute.
    let times = times.min(50);
    let scaled = u128::from(ms).checked_mul(4_u128.pow(times)).map(|product| product / 5_u128.pow(times));
    scaled.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0)
}

impl Quiet {
    /// One sentence for the turn's record, such as `waits 1100 ms: web 600, a greeting +500`.
    pub fn explain(&self) -> String {
        let verb = if self.ms == 0 { "does not wait".to_owned() } else { format!("waits {} ms", self.ms) };
        let parts = self.why.iter().enumerate().map(|(at, part)| match part {
            Part { reason: Reason::Off, .. } => Reason::Off.to_string(),
            // The first is where the wait begins, the others change it.
            Part { reason, change_ms } if at == 0 => format!("{reason} {change_ms}"),
            Part { reason, change_ms } => format!("{reason} {change_ms:+}"),
        });
        format!("{verb}: {}", parts.collect::<Vec<_>>().join(", "))
    }

    /// Takes on another length. What changes nothing is no reason.
    fn become_ms(&mut self, ms: u64, reason: Reason) {
        let change_ms = ms.cast_signed().wrapping_sub(self.ms.cast_signed());
        if change_ms != 0 {
            self.why.push(Part { reason, change_ms });
        }
        self.ms = ms;
    }
}

#[cfg(test)]
mod tests;
