//! Messages: each in exactly one turn that ended, in order, given to the agent once that answers it, and every reply out.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Message;
use super::tasks::Tasks;

type Session = (u128, String);
type Payloads = BTreeMap<u128, (u128, Vec<u8>)>;

/// What a message says.
#[derive(Debug, Clone, Default)]
struct Says {
    text: String,
    /// For one that nobody wrote: it counts only if there was silence since.
    if_silent_since: Option<u64>,
    by_person: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// In the order they were recorded.
    order: BTreeMap<Session, Vec<u128>>,
    known: BTreeMap<u128, Message>,
    /// What senders were told, by what they said.
    told: BTreeMap<(Session, String), (u128, u128)>,
    /// What senders were told of, in the order they sent it.
    sent: BTreeMap<Session, Vec<String>>,
    /// What the agent was last asked in a turn.
    asked: BTreeMap<u128, Vec<String>>,
    /// What agents answered in a turn.
    answered: BTreeMap<u128, Vec<String>>,
    /// Segments that reached their channel: session, place and count, text.
    replies: BTreeMap<String, (String, (u32, u32), String)>,
    /// Segments in the order in which they first arrived: turn, place, id.
    arrived: BTreeMap<String, Vec<(u128, u32, String)>>,
    /// What each message says.
    says: BTreeMap<u128, Says>,
    /// Which message says it.
    texts: BTreeMap<(Session, String), u128>,
}

impl Messages {
    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }

    pub(super) fn enter(
        &mut self,
        message: Message,
        payloads: &Payloads,
        violations: &mut Vec<String>,
        marks: &mut BTreeSet<&'static str>,
    ) {
        let id = message.id;
        match self.known.get(&id) {
            None => {
                if message.state != "unread" {
                    violations.push(format!("message {id:x} was recorded first as {}", message.state));
                }
                let place = (message.tenant, message.session.clone());
                self.order.entry(place.clone()).or_default().push(id);
                let says = payloads.get(&message.payload).map(|(_, bytes)| read(bytes)).unwrap_or_default();
                if !says.by_person {
                    marks.insert("a follow-up came due");
                }
                // Every text is written once, so the same again is the same message taken in twice.
                if let Some(known) = self.texts.insert((place, says.text.clone()), id) {
                    violations.push(format!("{:?} is message {known:x} and message {id:x}", says.text));
                }
                self.says.insert(id, says);
            }
            Some(before) => {
                if (before.tenant, &before.session, before.payload)
                    != (message.tenant, &message.session, message.payload)
                {
                    violations.push(format!("message {id:x} became another: {before:?}, {message:?}"));
                }
                if before.state == "done" && (message.state, message.run) != ("done", before.run) {
                    violations.push(format!("message {id:x} was done and is {}", message.state));
                }
                if before.state == "received" && message.state == "unread" {
                    marks.insert("messages went back to their inbox");
                }
            }
        }
        self.known.insert(id, message);
    }

    /// Answers whether it was known before.
    pub(super) fn accepted(
        &mut self,
        tenant: u128,
        session: &str,
        text: &str,
        told: (u128, u128),
        payloads: &Payloads,
    ) -> Result<bool, String> {
        let place = (tenant, session.to_owned());
        let known = self.told.get(&(place.clone(), text.to_owned())).copied();
        if let Some(known) = known {
            if known != told {
                return Err(format!("{text:?} was answered with {known:x?} and with {told:x?}"));
            }
            return Ok(true);
        }
        let Some(message) = self.known.get(&told.0) else {
            return Err(format!("{text:?} was answered with message {:x}, which is not durable", told.0));
        };
        if (message.tenant, message.session.as_str()) != (tenant, session) || !says(message, text, payloads) {
            return Err(format!("message {:x} is not what {text:?} was sent as", told.0));
        }
        self.told.insert((place.clone(), text.to_owned()), told);
        self.sent.entry(place).or_default().push(text.to_owned());
        Ok(false)
    }

    pub(super) fn answered(&mut self, turn: u128, text: &str) {
        self.answered.entry(turn).or_default().push(text.to_owned());
    }

    pub(super) fn was_answered(&self, turn: u128) -> bool {
        self.answered.contains_key(&turn)
    }

    pub(super) fn asked(&mut self, turn: u128, texts: Vec<String>) {
        // A process that was put aside may ask once more what it knew.
        if self.asked.get(&turn).is_none_or(|known| known.len() <= texts.len()) {
            self.asked.insert(turn, texts);
        }
    }

    pub(super) fn delivered(
        &mut self,
        segment: super::Segment<'_>,
        marks: &mut BTreeSet<&'static str>,
    ) -> Result<(), String> {
        let super::Segment { turn, id, session, place, text } = segment;
        let said = (session.to_owned(), place, text.to_owned());
        if let Some(known) = self.replies.get(id) {
            if *known != said {
                return Err(format!("segment {id} arrived as {known:?} and as {said:?}"));
            }
            marks.insert("a segment arrived twice");
            return Ok(());
        }
        self.replies.insert(id.to_owned(), said);
        if place.1 > 1 {
            marks.insert("a reply had several segments");
        }
        self.arrived.entry(session.to_owned()).or_default().push((turn, place.0, id.to_owned()));
        Ok(())
    }

    /// The replies of a session: of every completed turn that had something to answer, in the order of the turns, each
    /// with all its segments in order, which together say what its agent answered. A failed turn may have one too.
    fn settle_replies(&self, session: &str, turns: &[u128], tasks: &Tasks, violations: &mut Vec<String>) {
        let arrived = self.arrived.get(session).map(Vec::as_slice).unwrap_or_default();
        let mut of_turns: Vec<u128> = arrived.iter().map(|(turn, ..)| *turn).collect();
        of_turns.dedup();
        let expected: Vec<u128> = turns
            .iter()
            .copied()
            .filter(|turn| match tasks.run(*turn).map(|run| run.state) {
                Some("completed") => self.asked.contains_key(turn),
                Some("failed") => of_turns.contains(turn),
                _ => false,
            })
            .collect();
        if of_turns != expected {
            violations.push(format!("replies of {session} arrived for {of_turns:x?}, the turns were {expected:x?}"));
            return;
        }
        for turn in of_turns {
            let segments: Vec<_> = arrived.iter().filter(|(of, ..)| *of == turn).collect();
            let count = self.replies.get(&segments[0].2).map_or(0, |(_, (_, count), _)| *count);
            let places: Vec<u32> = segments.iter().map(|(_, place, _)| *place).collect();
            if places != (0..count).collect::<Vec<_>>() {
                violations.push(format!("of the {count} segments of turn {turn:x} arrived {places:?}"));
            }
            if tasks.run(turn).is_some_and(|run| run.state == "completed") {
                let squeezed = |text: &str| text.split_whitespace().collect::<String>();
                let said: String = segments.iter().map(|(.., id)| squeezed(&self.replies[id].2)).collect();
                let answers = self.answered.get(&turn);
                if !answers.is_some_and(|answers| answers.iter().any(|answer| squeezed(answer) == said)) {
                    violations.push(format!("turn {turn:x} replied {said:?}, its agent answered {answers:?}"));
                }
            }
        }
    }

    pub(super) fn settle(&self, tasks: &Tasks, violations: &mut Vec<String>) {
        for (place, order) in &self.order {
            let turns: Vec<u128> = order.iter().filter_map(|id| self.settle_one(*id, tasks, violations)).collect();
            // In the order they came, turn after turn: no turn twice with another in between.
            let mut each = turns.clone();
            each.dedup();
            if each.iter().collect::<BTreeSet<_>>().len() != each.len() {
                violations.push(format!("messages of {place:?} are out of order over turns {turns:x?}"));
            }
            let began: Vec<u64> = each.iter().filter_map(|turn| Some(tasks.run(*turn)?.created_at)).collect();
            if !began.is_sorted() {
                violations.push(format!("turns of {place:?} are out of order"));
            }
            for turn in &each {
                let of = order.iter().zip(&turns).filter(|(_, of)| *of == turn).map(|(id, _)| *id);
                self.settle_turn(*turn, &of.collect::<Vec<_>>(), tasks, violations);
            }
            self.settle_replies(&place.1, &each, tasks, violations);
        }
        for ((tenant, session), sent) in &self.sent {
            let order = self.order.get(&(*tenant, session.clone())).map(Vec::as_slice).unwrap_or_default();
            let place = |text: &String| {
                let (id, _) = self.told.get(&((*tenant, session.clone()), text.clone()))?;
                order.iter().position(|known| known == id)
            };
            let places: Vec<Option<usize>> = sent.iter().map(place).collect();
            if places.contains(&None) {
                violations.push(format!("an accepted message of {session} was lost"));
            } else if !places.is_sorted() {
                violations.push(format!("messages of {session} are not in the order they were sent: {places:?}"));
            }
        }
    }

    fn settle_one(&self, id: u128, tasks: &Tasks, violations: &mut Vec<String>) -> Option<u128> {
        let message = self.known.get(&id)?;
        let (Some(turn), "done") = (message.run, message.state) else {
            violations.push(format!("message {id:x} of {} is left {}", message.session, message.state));
            return None;
        };
        match tasks.run(turn) {
            Some(run) if run.ended && run.state != "superseded" => {}
            Some(run) => violations.push(format!("message {id:x} is done with a run that is {}", run.state)),
            None => violations.push(format!("message {id:x} is done with a run that never was")),
        }
        Some(turn)
    }

    /// A turn that completed answered exactly its messages, but for what nobody wrote and what came too late.
    fn settle_turn(&self, turn: u128, messages: &[u128], tasks: &Tasks, violations: &mut Vec<String>) {
        if tasks.run(turn).is_none_or(|run| run.state != "completed") {
            return;
        }
        let mut asked = self.asked.get(&turn).map(Vec::as_slice).unwrap_or_default();
        for id in messages {
            let says = &self.says[id];
            match asked.split_first() {
                Some((first, rest)) if *first == says.text => asked = rest,
                _ if self.is_outdated(*id) => {}
                _ => {
                    let text = &says.text;
                    violations.push(format!("turn {turn:x} completed, and its agent was not asked {text:?}"));
                    return;
                }
            }
        }
        if !asked.is_empty() {
            violations.push(format!("the agent of turn {turn:x} was also asked {asked:?}"));
        }
    }

    /// Whether somebody said something after the silence a message was meant for.
    fn is_outdated(&self, id: u128) -> bool {
        let (Some(since), Some(message)) = (self.says[&id].if_silent_since, self.known.get(&id)) else { return false };
        let others = self.order.get(&(message.tenant, message.session.clone())).into_iter().flatten();
        others.filter(|other| self.says[*other].by_person).any(|other| self.known[other].accepted_at > since)
    }
}

fn read(payload: &[u8]) -> Says {
    let body: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    Says {
        text: body["text"].as_str().unwrap_or_default().to_owned(),
        if_silent_since: body["only_if_silent_since_ms"].as_u64(),
        by_person: body["kind"].is_null() || body["kind"] == "person",
    }
}

fn says(message: &Message, text: &str, payloads: &Payloads) -> bool {
    payloads.get(&message.payload).is_some_and(|(_, bytes)| super::contains(bytes, format!("\"{text}\"").as_bytes()))
}
