//! Messages: each in exactly one turn that ended, in order, given to the agent once that answers it, and every reply out.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Message;
use super::tasks::Tasks;

type Session = (u128, String);
type Payloads = BTreeMap<u128, (u128, Vec<u8>)>;

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
    /// Turns whose agent has answered.
    answered: BTreeSet<u128>,
    /// Replies that reached their channel: session, text.
    replies: BTreeMap<String, (String, String)>,
    /// Turns in the order in which their replies first arrived.
    arrived: BTreeMap<String, Vec<u128>>,
}

impl Messages {
    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }

    pub(super) fn enter(&mut self, message: Message, violations: &mut Vec<String>, marks: &mut BTreeSet<&'static str>) {
        let id = message.id;
        match self.known.get(&id) {
            None => {
                if message.state != "unread" {
                    violations.push(format!("message {id:x} was recorded first as {}", message.state));
                }
                self.order.entry((message.tenant, message.session.clone())).or_default().push(id);
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

    pub(super) fn answered(&mut self, turn: u128) {
        self.answered.insert(turn);
    }

    pub(super) fn was_answered(&self, turn: u128) -> bool {
        self.answered.contains(&turn)
    }

    pub(super) fn asked(&mut self, turn: u128, texts: Vec<String>) {
        self.asked.insert(turn, texts);
    }

    pub(super) fn delivered(&mut self, turn: u128, reply: &str, session: &str, text: &str) -> Result<(), String> {
        let known = self.replies.get(reply);
        if let Some((to, said)) = known {
            if (to.as_str(), said.as_str()) != (session, text) {
                return Err(format!("reply {reply} arrived as {said:?} and as {text:?}"));
            }
            return Ok(());
        }
        self.replies.insert(reply.to_owned(), (session.to_owned(), text.to_owned()));
        self.arrived.entry(session.to_owned()).or_default().push(turn);
        Ok(())
    }

    pub(super) fn settle(&self, tasks: &Tasks, payloads: &Payloads, violations: &mut Vec<String>) {
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
                self.settle_turn(*turn, &of.collect::<Vec<_>>(), tasks, payloads, violations);
            }
            let mut replied: Vec<u128> = each;
            replied.retain(|turn| tasks.run(*turn).is_some_and(|run| run.state == "completed"));
            let arrived = self.arrived.get(&place.1).cloned().unwrap_or_default();
            if arrived != replied {
                violations.push(format!("replies of {place:?} arrived for {arrived:x?}, the turns were {replied:x?}"));
            }
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

    /// A turn that completed answered exactly its messages.
    fn settle_turn(
        &self,
        turn: u128,
        messages: &[u128],
        tasks: &Tasks,
        payloads: &Payloads,
        violations: &mut Vec<String>,
    ) {
        if tasks.run(turn).is_none_or(|run| run.state != "completed") {
            return;
        }
        let Some(asked) = self.asked.get(&turn) else {
            violations.push(format!("turn {turn:x} completed without its agent being asked"));
            return;
        };
        let same = asked.len() == messages.len()
            && asked.iter().zip(messages).all(|(text, id)| says(&self.known[id], text, payloads));
        if !same {
            let count = messages.len();
            violations.push(format!("turn {turn:x} has {count} messages, its agent was asked {asked:?}"));
        }
    }
}

fn says(message: &Message, text: &str, payloads: &Payloads) -> bool {
    payloads.get(&message.payload).is_some_and(|(_, bytes)| super::contains(bytes, format!("\"{text}\"").as_bytes()))
}
