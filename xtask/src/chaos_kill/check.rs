//! Holds the server's books against the talkers', the sink's and the agent's. Every violation is a sentence with ids.

use std::collections::{BTreeMap, BTreeSet};

use super::books::{Books, Run, Turn};
use super::load::Accepted;
use super::sink::Delivered;

/// The agent's step with an outside effect.
const EFFECT_STEP: &str = "ask the carrier";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<String>,
    pub(super) completed: usize,
    pub(super) superseded: usize,
    pub(super) replies_delivered: usize,
    pub(super) deliveries_repeated: usize,
    pub(super) effects_committed: usize,
    pub(super) effects_reused: usize,
}

macro_rules! must {
    ($findings:ident, $holds:expr, $($sentence:tt)+) => {
        if !$holds {
            $findings.violations.push(format!($($sentence)+));
        }
    };
}

pub(super) fn check(accepted: &[Vec<Accepted>], books: &Books, delivered: &[Delivered]) -> Findings {
    let mut findings = Findings::default();
    let f = &mut findings;
    turns_end_well(f, books);
    messages_are_answered_once(f, accepted, books);
    sessions_are_in_order(f, accepted, books);
    replies_are_delivered(f, books, delivered);
    effects_are_not_repeated(f, books);
    findings
}

fn completed(books: &Books) -> impl Iterator<Item = &Turn> {
    books.turns.iter().filter(|turn| turn.state == "completed")
}

fn turns_end_well(f: &mut Findings, books: &Books) {
    let by_id: BTreeMap<&str, &Turn> = books.turns.iter().map(|turn| (turn.id.as_str(), turn)).collect();
    for turn in &books.turns {
        let Turn { id, state, .. } = turn;
        match state.as_str() {
            "completed" => {
                f.completed += 1;
                must!(f, !turn.messages.is_empty(), "turn {id} completed without a message");
                must!(f, turn.finished_at.is_some(), "turn {id} completed at no time");
                must!(f, turn.reply.is_some(), "turn {id} completed without a reply");
                if let Some(reply) = &turn.reply {
                    must!(
                        f,
                        reply.text == expected(turn, &reply.text),
                        "turn {id} does not answer its messages: {:?}",
                        reply.text
                    );
                }
            }
            "superseded" => {
                f.superseded += 1;
                must!(f, turn.reply.is_none(), "turn {id} was superseded and has a reply all the same");
                let next = turn.superseded_by.as_deref().and_then(|next| by_id.get(next));
                must!(f, next.is_some(), "turn {id} was superseded by {:?}, which is not there", turn.superseded_by);
                if let Some(next) = next {
                    let inherited =
                        turn.messages.iter().zip(&next.messages).all(|(before, after)| before.id == after.id);
                    let whole = inherited && next.messages.len() >= turn.messages.len();
                    must!(f, whole, "turn {} does not begin with the messages of {id}, which it superseded", next.id);
                }
            }
            other => {
                f.violations.push(format!("turn {id} is {other}: {}", turn.error.as_deref().unwrap_or("no error")))
            }
        }
    }
}

/// What the example agent answers: each message quoted in order, something about orders, and how many there were.
fn expected(turn: &Turn, found: &str) -> String {
    let quotes: Vec<String> = turn.messages.iter().map(|message| format!("> {}\n", message.text)).collect();
    let (begin, end) = (quotes.concat(), format!("({} messages)", turn.messages.len()));
    let middle = found.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&end)).unwrap_or("...");
    if middle.contains("> ") { format!("{begin}...{end}") } else { format!("{begin}{middle}{end}") }
}

fn messages_are_answered_once(f: &mut Findings, accepted: &[Vec<Accepted>], books: &Books) {
    let sent: BTreeMap<&str, &Accepted> = accepted.iter().flatten().map(|one| (one.message_id.as_str(), one)).collect();
    let count: usize = accepted.iter().map(Vec::len).sum();
    must!(f, sent.len() == count, "{count} messages were accepted under {} ids", sent.len());
    let mut answered = BTreeMap::<&str, Vec<&str>>::new();
    for turn in &books.turns {
        for message in &turn.messages {
            let known = sent.get(message.id.as_str());
            must!(
                f,
                known.is_some(),
                "turn {} has message {} ({:?}), which nobody sent",
                turn.id,
                message.id,
                message.text
            );
            if let Some(known) = known {
                let same = known.text == message.text && known.session == turn.session;
                must!(
                    f,
                    same,
                    "message {} was {:?} in {}, and is {:?} in {}",
                    message.id,
                    known.text,
                    known.session,
                    message.text,
                    turn.session
                );
            }
        }
    }
    for turn in completed(books) {
        for message in &turn.messages {
            answered.entry(&message.id).or_default().push(&turn.id);
        }
    }
    for (id, one) in sent {
        let turns = answered.get(id).map(Vec::as_slice).unwrap_or_default();
        let what = format!("message {id} ({:?}, first offered to turn {})", one.text, one.turn_id);
        must!(f, turns.len() == 1, "{what} is in {} completed turns: {}", turns.len(), turns.join(", "));
        let shown = books.messages.get(id);
        let done =
            shown.is_some_and(|shown| shown.state == "done" && shown.turn_id.as_deref() == turns.first().copied());
        must!(f, done, "{what} is shown as {shown:?}, and was answered by {turns:?}");
    }
}

fn sessions_are_in_order(f: &mut Findings, accepted: &[Vec<Accepted>], books: &Books) {
    for talker in accepted.iter().filter(|talker| !talker.is_empty()) {
        let session = &talker[0].session;
        let turns: Vec<&Turn> = completed(books).filter(|turn| turn.session == *session).collect();
        for pair in turns.windows(2) {
            let after = pair[0].finished_at.is_some_and(|finished| finished <= pair[1].started_at);
            must!(f, after, "turns {} and {} of {session} were alive at one time", pair[0].id, pair[1].id);
        }
        let answered: Vec<&str> =
            turns.iter().flat_map(|turn| &turn.messages).map(|message| message.id.as_str()).collect();
        let wrong = talker.iter().zip(&answered).find(|(one, id)| one.message_id != **id);
        if let Some((one, id)) = wrong {
            f.violations.push(format!(
                "talker {}: message {} ({}) should come where {id} does",
                one.talker, one.nth, one.message_id
            ));
        }
    }
}

fn replies_are_delivered(f: &mut Findings, books: &Books, delivered: &[Delivered]) {
    let by_id: BTreeMap<&str, &Turn> = completed(books).map(|turn| (turn.id.as_str(), turn)).collect();
    let mut ids = BTreeMap::<&str, &str>::new();
    let mut last_of_session = BTreeMap::<&str, &Turn>::new();
    for one in delivered {
        let Delivered { reply_id, turn_id, session, .. } = one;
        must!(f, one.header_id == *reply_id, "reply {reply_id} was delivered under the id {}", one.header_id);
        let Some(turn) = by_id.get(turn_id.as_str()) else {
            f.violations.push(format!("reply {reply_id} was delivered for turn {turn_id}, which did not complete"));
            continue;
        };
        let same = turn.reply.as_ref().is_some_and(|reply| reply.id == *reply_id && reply.text == one.text);
        must!(
            f,
            same && turn.session == *session,
            "turn {turn_id} was delivered as {one:?}, its reply is {:?}",
            turn.reply
        );
        if ids.insert(turn_id, reply_id).is_some() {
            f.deliveries_repeated += 1;
            continue;
        }
        f.replies_delivered += 1;
        // Repeats may come late; the first delivery of each must be in order.
        if let Some(before) = last_of_session.insert(session, turn) {
            let order = (before.started_at, &before.id) < (turn.started_at, &turn.id);
            must!(f, order, "in {session} turn {turn_id} was delivered after turn {}", before.id);
        }
    }
    for id in by_id.keys().filter(|id| !ids.contains_key(**id)) {
        f.violations.push(format!("turn {id} completed, and its reply was never delivered"));
    }
}

fn effects_are_not_repeated(f: &mut Findings, books: &Books) {
    let mut last = BTreeMap::<(&str, &str), &str>::new();
    for line in &books.side_effects {
        last.insert((&line.run, &line.step), &line.nonce);
        let known = books.agent_runs.contains_key(&line.run);
        must!(f, known, "a side effect names run {}, which is no turn's agent", line.run);
    }
    let mut nonces = BTreeSet::new();
    for line in &books.side_effects {
        must!(f, nonces.insert(&line.nonce), "nonce {} was written twice", line.nonce);
    }
    let groups: BTreeMap<&str, &str> =
        books.turns.iter().map(|turn| (turn.id.as_str(), turn.turn_group_id.as_str())).collect();
    let group_of_run: BTreeMap<&str, &str> =
        books.turns.iter().filter_map(|turn| Some((turn.agent_run.as_deref()?, turn.turn_group_id.as_str()))).collect();
    for run in books.agent_runs.values() {
        let Some(recorded) = recorded_nonce(run) else { continue };
        f.effects_committed += 1;
        if !last.contains_key(&(run.id.as_str(), EFFECT_STEP)) {
            // It used what an earlier attempt of its turn group found out, and so did nothing itself.
            f.effects_reused += 1;
            let group = group_of_run.get(run.id.as_str());
            let line = books.side_effects.iter().find(|line| line.nonce == recorded);
            let of = line.and_then(|line| groups.get(line.turn.as_str()));
            must!(
                f,
                group.is_some() && of == group,
                "run {} of group {group:?} used {recorded:?}, which was written in group {of:?}",
                run.id
            );
            continue;
        }
        // The line is written before the result is recorded. A line after it means that a recorded step was run again.
        let written = last.get(&(run.id.as_str(), EFFECT_STEP));
        let same = written.is_some_and(|nonce| **nonce == *recorded);
        must!(f, same, "run {} recorded {recorded:?} for {EFFECT_STEP:?}, the last it did is {written:?}", run.id);
    }
    for turn in completed(books) {
        let run = turn.agent_run.as_ref().and_then(|id| books.agent_runs.get(id));
        let recorded = run.and_then(recorded_nonce);
        must!(
            f,
            recorded.is_some(),
            "turn {} completed without {EFFECT_STEP:?} recorded in {:?}",
            turn.id,
            turn.agent_run
        );
    }
}

fn recorded_nonce(run: &Run) -> Option<&str> {
    let entries = run.tasks.iter().flat_map(|task| &task.journal);
    let mut steps = entries.filter(|entry| entry.kind == "run" && entry.name == EFFECT_STEP && entry.state == "done");
    // The detail may be cut short, so it is searched rather than parsed.
    let (_, rest) = steps.next()?.detail.as_deref()?.split_once("\"nonce\":\"")?;
    rest.split_once('"').map(|(nonce, _)| nonce)
}
