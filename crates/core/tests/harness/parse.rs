//! The script language: one command a line, words, `name=value` options and "quoted text".

use std::collections::BTreeMap;

use bytes::Bytes;
use mainspring_core::command::{Admission, Idempotency};
use mainspring_core::journal::Commit;
use mainspring_core::limit::Limits;
use mainspring_core::place::{Comparator, LabelValue, LabelWish, SLOT};
use mainspring_core::rate::RateUse;
use mainspring_core::row::RunWishes;
use mainspring_core::workflow::{KeyRule, KeyStrategy, RetryRule, Sticky, TaskDef, When, WorkflowDef};
use mainspring_core::{DocumentKey, NewWorker, PutDocument, Start, WorkerId};

/// A stable id for a name.
pub fn id_of(name: &str) -> u128 {
    let bytes = name.bytes().fold(0_u128, |id, byte| (id << 8) | u128::from(byte));
    0xee << 120 | bytes
}

/// `KIND:UNITS+...`.
fn slots(text: &str) -> BTreeMap<String, u32> {
    let each = text.split('+').filter_map(|part| part.split_once(':'));
    each.map(|(kind, units)| (kind.to_owned(), units.parse().expect("slots are counted"))).collect()
}

fn label(text: &str) -> LabelValue {
    text.parse().map_or_else(|_| LabelValue::Text(text.to_owned()), LabelValue::Number)
}

/// `NAME:COMPARATOR:VALUE:WEIGHT+...`; a weight of `!` is required.
fn wishes(text: &str) -> BTreeMap<String, LabelWish> {
    let wish = |part: &str| {
        let fields: Vec<&str> = part.split(':').collect();
        let comparator = match fields[1] {
            "eq" => Comparator::Equal,
            "ne" => Comparator::NotEqual,
            "gt" => Comparator::Greater,
            "ge" => Comparator::GreaterOrEqual,
            "lt" => Comparator::Less,
            "le" => Comparator::LessOrEqual,
            other => panic!("no comparator {other:?}"),
        };
        let (required, weight) = (fields[3] == "!", fields[3].parse().unwrap_or(0));
        (fields[0].to_owned(), LabelWish { value: label(fields[2]), comparator, required, weight })
    };
    text.split('+').map(wish).collect()
}

/// `NAME:UNITS` or `NAME:UNITS:LIMIT/WINDOW`, joined by `+`.
pub fn rates(text: &str) -> Vec<RateUse> {
    let rate = |part: &str| {
        let fields: Vec<&str> = part.split(':').collect();
        let number = |text: &str| text.parse::<u32>().expect("a limit is counted");
        let sets = fields.get(2).and_then(|sets| sets.split_once('/'));
        let sets = sets.map(|(limit, window)| (number(limit), u64::from(number(window))));
        RateUse { name: fields[0].to_owned(), units: number(fields[1]), sets }
    };
    text.split('+').map(rate).collect()
}

/// `KIND/NAME`.
pub fn document_key(text: &str) -> DocumentKey {
    let (kind, name) = text.split_once('/').expect("a document is KIND/NAME");
    DocumentKey::new(kind, name)
}

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

    /// `[once=ID:TTL] [rates=USES] [groups=NAME:MAX+...] [max=N]`.
    pub fn admission(&self) -> Admission {
        let number = |text: &str| text.parse::<u32>().expect("a group's limit is a number");
        let group = |part: &str| {
            let (name, max) = part.split_once(':').expect("a group is NAME:MAX");
            (name.to_owned(), number(max))
        };
        Admission {
            once: self.text("once").map(|text| {
                let (id, ttl) = text.split_once(':').expect("once is ID:TTL");
                (id.to_owned(), u64::from(number(ttl)))
            }),
            rates: self.text("rates").map(|text| rates(&text)).unwrap_or_default(),
            groups: self.text("groups").map(|text| text.split('+').map(group).collect()).unwrap_or_default(),
            messages_max: self.number("max"),
        }
    }

    /// `put KIND/NAME BODY [expect=N] [ttl=MS] [history=N]`.
    pub fn document(&self) -> PutDocument {
        PutDocument {
            key: document_key(self.word(0)),
            expect: self.number("expect"),
            body: self.bytes(1),
            ttl_ms: self.number("ttl"),
            history: self.number("history").unwrap_or(0),
        }
    }

    /// `[documents=KIND/NAME/EXPECT/BODY+...]`.
    pub fn puts(&self) -> Vec<PutDocument> {
        self.commit().documents
    }

    /// What goes with a commit: `[documents=KIND/NAME/EXPECT/BODY+...] [runs=WORKFLOW/KEY/INPUT+...]
    /// [messages=WORKFLOW/KEY/TEXT+...] [events=NAME/DATA+...] [force] [guarded]`. An `EXPECT` or `KEY` of `-` is none.
    pub fn commit(&self) -> Commit {
        let parts = |option: &str| -> Vec<Vec<String>> {
            let text = self.text(option).unwrap_or_default();
            let parts = text.split('+').filter(|part| !part.is_empty());
            parts.map(|part| part.split('/').map(str::to_owned).collect()).collect()
        };
        let given = |text: &str| (text != "-").then(|| text.to_owned());
        let bytes = |text: &str| Bytes::from(text.to_owned());
        let document = |part: Vec<String>| PutDocument {
            key: DocumentKey::new(&part[0], &*part[1]),
            expect: given(&part[2]).map(|version| version.parse().expect("a version is a number")),
            body: bytes(&part[3]),
            ttl_ms: None,
            history: 0,
        };
        Commit {
            force: self.has("force"),
            guarded: self.has("guarded"),
            scope: self.text("scope"),
            documents: parts("documents").into_iter().map(document).collect(),
            runs: parts("runs").into_iter().map(|part| (part[0].clone(), given(&part[1]), bytes(&part[2]))).collect(),
            messages: parts("messages")
                .into_iter()
                .map(|part| (part[0].clone(), part[1].clone(), bytes(&part[2])))
                .collect(),
            events: parts("events").into_iter().map(|part| (part[0].clone(), bytes(&part[1]))).collect(),
        }
    }

    /// `workflow NAME [inbox] [durable] [tasks=a,b(a),c(a+b)] [key=N:STRATEGY] [retry=ATTEMPTS/MS/PERCENT/MAX]
    /// [schedule=MS] [exec=MS] [trigger=EVENT] [lifecycle=PREFIX] [priority=N] [sticky=soft|hard] [losses=N]
    /// [judged=a+b] [on_failure=e] [slots=KIND:UNITS+...] [labels=WISHES] [rates=USES] [not_yet=WHAT]`. Actions are
    /// named like tasks; slots, labels and rates are those of every task, `slots_a` and the like those of task `a`.
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
        let among = |option: &str, name: &str| self.text(option).is_some_and(|list| list.split('+').any(|n| n == name));
        let own = |option: &str, name: &str| self.text(&format!("{option}_{name}")).or_else(|| self.text(option));
        let plain = TaskDef::named(name);
        let task = |(name, parents): &(&str, &str)| TaskDef {
            name: (*name).to_owned(),
            action: (*name).to_owned(),
            when: if among("on_failure", name) { When::AnotherFailed } else { When::ParentsEnded },
            judged: among("judged", name),
            slots: own("slots", name).map_or_else(|| plain.slots.clone(), |text| slots(&text)),
            labels: own("labels", name).map(|text| wishes(&text)).unwrap_or_default(),
            rates: own("rates", name).map(|text| rates(&text)).unwrap_or_default(),
            losses_max: self.number("losses"),
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
            sticky: self.text("sticky").map(|how| if how == "hard" { Sticky::Hard } else { Sticky::Soft }),
            not_yet: self.text("not_yet"),
            source: None,
        }
    }

    /// `worker NAME ACTIONS [slots=N|KIND:UNITS+...] [labels=NAME:VALUE+...]`.
    pub fn new_worker(&self) -> NewWorker {
        let units = self.text("slots").unwrap_or_else(|| "10".to_owned());
        NewWorker {
            name: self.word(0).to_owned(),
            actions: self.word(1).split(',').map(str::to_owned).collect(),
            slots: if units.contains(':') { slots(&units) } else { slots(&format!("{SLOT}:{units}")) },
            labels: self.labels(),
            about: Bytes::new(),
        }
    }

    /// `labels=NAME:VALUE+...`.
    pub fn labels(&self) -> BTreeMap<String, LabelValue> {
        let text = self.text("labels").unwrap_or_default();
        let each = text.split('+').filter_map(|label| label.split_once(':'));
        each.map(|(name, value)| (name.to_owned(), label(value))).collect()
    }

    /// `start WORKFLOW INPUT [key=K] [id=KEY:BODY] [priority=N] [meta=JSON] [want_worker=W] [want=WISHES]`.
    pub fn start(&self) -> Start {
        let (worker, labels) = (self.text("want_worker"), self.text("want"));
        let wishes = (worker.is_some() || labels.is_some()).then(|| RunWishes {
            worker: worker.map(|name| WorkerId(id_of(&name))),
            labels: labels.map(|text| wishes(&text)).unwrap_or_default(),
        });
        Start {
            workflow: self.word(0).to_owned(),
            key: self.text("key"),
            input: self.bytes(1),
            priority: self.number("priority"),
            idempotency: self.idempotency(),
            metadata: self.text("meta").map(Bytes::from),
            wishes,
            child_of: None,
            once: self.has("once"),
        }
    }

    /// `limits NAME=N ...`.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits { runs_awake_max: 0, ..Limits::default() };
        for (name, value) in &self.options {
            let number: usize = value.parse().expect("a limit is a number");
            match name.as_str() {
                "payload" => limits.payload_bytes_max = number,
                "inbox" => limits.inbox_messages_max = number,
                "key_queue" => limits.key_queue_max = number,
                "live_runs" => limits.live_runs_max = number,
                "journal" => limits.journal_entries_max = number as u32,
                "pending" => limits.pending_entries_max = number,
                "before" => limits.entries_before_max = number,
                "before_bytes" => limits.entries_before_bytes_max = number,
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
                "starts" => limits.starts_max = number,
                "children" => limits.children_max = number,
                "rates" => limits.rates_max = number,
                "metadata" => limits.metadata_bytes_max = number,
                "log" => limits.log_bytes_max = number,
                "replay" => limits.replay_ms = number as u64,
                "forget" => limits.worker_forget_ms = number as u64,
                "acknowledge" => limits.acknowledge_ms = number as u64,
                "grace" => limits.worker_grace_ms = number as u64,
                "document" => limits.document_bytes_max = number,
                "mark" => limits.document_mark_ms = number as u64,
                "parts" => limits.commit_parts_max = number,
                "commit" => limits.commit_bytes_max = number,
                "streams" => limits.streams_max = number,
                "stream_groups" => limits.stream_groups_max = number,
                "stream_consumers" => limits.stream_consumers_max = number,
                "stream_entries" => limits.stream_entries_max = number,
                "stream_entry" => limits.stream_entry_bytes_max = number,
                "stream_in_hand" => limits.stream_in_hand_max = number as u64,
                "stream_partitions" => limits.stream_partitions_max = number,
                "awake" => limits.runs_awake_max = number,
                "copies" => limits.event_copies_bytes_max = number,
                other => panic!("no limit {other:?}"),
            }
        }
        limits
    }
}
