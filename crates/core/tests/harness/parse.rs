//! The script language: one command a line, words, `name=value` options and "quoted text".

use std::collections::BTreeMap;

use bytes::Bytes;
use mainspring_core::command::Idempotency;
use mainspring_core::limit::Limits;
use mainspring_core::workflow::{KeyRule, KeyStrategy, RetryRule, TaskDef, WorkflowDef};

/// A command line, taken apart.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub verb: String,
    pub words: Vec<String>,
    pub options: BTreeMap<String, String>,
}

impl Line {
    /// Takes a line apart.
    pub fn parse(text: &str) -> Line {
        let mut parts: Vec<String> = Vec::new();
        let mut part = String::new();
        let (mut quoted, mut begun) = (false, false);
        for c in text.chars() {
            match c {
                '"' => (quoted, begun) = (!quoted, true),
                ' ' if !quoted => {
                    if begun {
                        parts.push(std::mem::take(&mut part));
                    }
                    begun = false;
                }
                c => {
                    part.push(c);
                    begun = true;
                }
            }
        }
        if begun {
            parts.push(part);
        }
        let mut parts = parts.into_iter();
        let mut line = Line { verb: parts.next().expect("a command has a verb"), ..Line::default() };
        for part in parts {
            match part.split_once('=') {
                Some((name, value)) if name.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                    line.options.insert(name.to_owned(), value.to_owned());
                }
                _ => line.words.push(part),
            }
        }
        line
    }

    /// The nth word.
    pub fn word(&self, nth: usize) -> &str {
        self.words.get(nth).map_or("", String::as_str)
    }

    /// The nth word as bytes.
    pub fn bytes(&self, nth: usize) -> Bytes {
        Bytes::from(self.word(nth).to_owned())
    }

    /// Whether a word is there.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    /// An option's text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.options.get(name).cloned()
    }

    /// An option's number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.options.get(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
    }

    /// The nth word as a number.
    pub fn nth_number(&self, nth: usize) -> u64 {
        self.word(nth).parse().unwrap_or_else(|_| panic!("word {nth} of {self:?} is not a number"))
    }

    /// `id=KEY:BODY`.
    pub fn idempotency(&self) -> Option<Idempotency> {
        let text = self.text("id")?;
        let (key, body) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Idempotency { key: key.to_owned(), body: body.parse().expect("an idempotency body is a number") })
    }

    /// `workflow NAME [inbox] [durable] [tasks=a,b(a),c(a+b)] [key=N:STRATEGY] [retry=ATTEMPTS/MS/PERCENT/MAX]
    /// [schedule=MS] [exec=MS] [trigger=EVENT] [lifecycle=PREFIX] [priority=N]`. Actions are named like tasks.
    pub fn workflow(&self) -> WorkflowDef {
        let name = self.word(0);
        let retry = self.text("retry").map_or(RetryRule::NONE, |text| {
            let numbers: Vec<u64> = text.split('/').map(|n| n.parse().expect("retry is made of numbers")).collect();
            RetryRule {
                attempts_max: numbers[0] as u32,
                backoff_ms: numbers.get(1).copied().unwrap_or(0),
                backoff_percent: numbers.get(2).copied().unwrap_or(100) as u32,
                backoff_max_ms: numbers.get(3).copied().unwrap_or(0),
            }
        });
        let tasks = self.text("tasks").unwrap_or_else(|| name.to_owned());
        let names: Vec<(&str, &str)> =
            tasks.split(',').map(|task| task.trim_end_matches(')').split_once('(').unwrap_or((task, ""))).collect();
        let index = |name: &str| names.iter().position(|(known, _)| *known == name).map_or(99, |at| at as u16);
        let task = |(name, parents): &(&str, &str)| TaskDef {
            name: (*name).to_owned(),
            action: (*name).to_owned(),
            parents: parents.split('+').filter(|parent| !parent.is_empty()).map(index).collect(),
            durable: self.has("inbox") || self.has("durable"),
            retry,
            schedule_timeout_ms: self.number("schedule"),
            execution_timeout_ms: self.number("exec"),
        };
        let key = self.text("key").map(|text| {
            let (runs_max, strategy) = text.split_once(':').expect("key is N:STRATEGY");
            let strategy = match strategy {
                "queue" => KeyStrategy::Queue,
                "newest" => KeyStrategy::CancelNewest,
                "progress" => KeyStrategy::CancelInProgress,
                other => panic!("no strategy {other:?}"),
            };
            KeyRule { runs_max: runs_max.parse().expect("runs_max is a number"), strategy }
        });
        WorkflowDef {
            name: name.to_owned(),
            tasks: names.iter().map(task).collect(),
            key,
            inbox: self.has("inbox"),
            event_triggers: self
                .text("trigger")
                .map(|name| name.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            default_priority: self.number("priority").unwrap_or(1),
            lifecycle_events: self.text("lifecycle"),
        }
    }

    /// `limits NAME=N ...`.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for (name, value) in &self.options {
            let number: usize = value.parse().expect("a limit is a number");
            match name.as_str() {
                "payload" => limits.payload_bytes_max = number,
                "inbox" => limits.inbox_messages_max = number,
                "key_queue" => limits.key_queue_max = number,
                "live_runs" => limits.live_runs_max = number,
                "journal" => limits.journal_entries_max = number as u32,
                "pending" => limits.pending_entries_max = number,
                "signals" => limits.signals_max = number,
                "fan_out" => limits.event_fan_out_max = number,
                "depth" => limits.trigger_depth_max = number as u32,
                "event" => limits.event_bytes_max = number,
                "reason" => limits.reason_bytes_max = number,
                "name" => limits.name_bytes_max = number,
                "key" => limits.key_bytes_max = number,
                "idempotency" => limits.idempotency_keys_max = number,
                "ttl" => limits.idempotency_ttl_ms = number as u64,
                "workflows" => limits.workflows_max = number,
                "workers" => limits.workers_max = number,
                "tokens" => limits.tokens_max = number,
                "losses" => limits.losses_max = number as u32,
                "grace" => limits.worker_grace_ms = number as u64,
                other => panic!("no limit {other:?}"),
            }
        }
        limits
    }
}
