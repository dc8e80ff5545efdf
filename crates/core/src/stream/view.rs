//! How a stream stands: how far each group is behind, who holds what, and why what waits does.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Stream;
use super::group::{Hand, Handing};
use crate::id::Ms;
use crate::row::{StreamProgressRow, StreamRow};
use crate::tenant::Tenant;

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamView {
    /// Its name.
    pub name: String,
    /// What is recorded of it.
    pub row: StreamRow,
    /// Entries ever published.
    pub published: u64,
    /// Its groups, by name.
    pub groups: Vec<GroupView>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// The generation it reads.
    pub generation: u32,
    /// Entries it has not acknowledged.
    pub waiting: u64,
    /// About how many bytes these have.
    pub waiting_bytes: u64,
    /// Of these, entries that are with its consumers.
    pub in_hand: u64,
    /// When it was created.
    pub created_at: Ms,
    /// When a consumer of it was last heard of, to within ten minutes.
    pub seen_at: Ms,
    /// Its consumers, until when each holds what it holds, and how many partitions that is.
    pub consumers: Vec<(String, Ms, usize)>,
    /// The partitions of the generation it reads. Empty if only a summary was asked for.
    pub parts: Vec<PartView>,
}

/// A partition as a group reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartView {
    /// Which.
    pub partition: u16,
    /// The first entry that is not acknowledged.
    pub floor: u64,
    /// The number the next entry gets.
    pub next: u64,
    /// Entries not acknowledged.
    pub waiting: u64,
    /// Of these, entries that are with the holder.
    pub in_hand: u64,
    /// Who holds it.
    pub holder: Option<String>,
    /// Why what waits is not handed out.
    pub why: Option<String>,
}

pub(crate) fn of(tenant: &Tenant, name: &str, stream: &Stream, now: Ms, whole: bool) -> StreamView {
    let groups = stream.groups.iter().map(|(group_name, group)| {
        let handing = tenant.handing.get(&(name.to_string(), group_name.clone()));
        let consumers = handing.into_iter().flat_map(|all| all.consumers.iter()).filter(|(_, known)| known.until > now);
        let consumers = consumers.map(|(consumer, known)| {
            let hands = handing.into_iter().flat_map(|all| all.hands.values());
            (consumer.clone(), known.until, hands.filter(|hand| hand.holder.as_ref() == Some(consumer)).count())
        });
        let generation = group.row.generation;
        let none = StreamProgressRow::default();
        let partitions = stream.generation(generation).map_or(0, |generation| generation.partitions);
        let parts: Vec<PartView> = (0..partitions)
            .map(|partition| {
                let progress = group.progress.get(&partition).unwrap_or(&none);
                let next = stream.next_of(generation, partition);
                let hand = handing.and_then(|all| all.hands.get(&partition));
                let holder = hand.and_then(|hand| hand.holder.clone());
                let until = holder.as_ref().and_then(|holder| handing?.consumers.get(holder)).map(|known| known.until);
                let held = until.is_some_and(|until| until > now);
                let in_hand = hand.filter(|_| held).map_or(0, |hand| hand.count(progress));
                PartView {
                    partition,
                    floor: progress.floor,
                    next,
                    waiting: progress.waiting(next),
                    in_hand,
                    why: why(handing, hand.filter(|_| held), until, progress, next, now),
                    holder: holder.filter(|_| held),
                }
            })
            .collect();
        GroupView {
            name: group_name.clone(),
            generation,
            waiting: stream.waiting(group),
            waiting_bytes: stream.waiting_bytes(group),
            in_hand: parts.iter().map(|part| part.in_hand).sum(),
            created_at: group.row.created_at,
            seen_at: group.row.seen_at,
            consumers: consumers.collect(),
            parts: if whole { parts } else { Vec::new() },
        }
    });
    StreamView {
        name: name.to_string(),
        row: stream.row.clone(),
        published: stream.parts.values().map(|part| part.next).sum(),
        groups: groups.collect(),
    }
}

/// Why entries of a partition wait. `None` if none does.
fn why(
    handing: Option<&Handing>,
    hand: Option<&Hand>,
    until: Option<Ms>,
    progress: &StreamProgressRow,
    next: u64,
    now: Ms,
) -> Option<String> {
    if progress.waiting(next) == 0 {
        return None;
    }
    let live = |handing: &Handing| handing.consumers.values().any(|known| known.until > now);
    if !handing.is_some_and(live) {
        return Some("nobody reads for this group".to_string());
    }
    let Some((hand, holder)) = hand.and_then(|hand| Some((hand, hand.holder.as_ref()?))) else {
        return Some("no consumer holds the partition: the next that takes gets it".to_string());
    };
    let left = until.unwrap_or(now).saturating_sub(now);
    if let Some(seq) = hand.alone {
        return Some(format!(
            "entry {seq} was handed out in vain before and is with consumer {holder:?} alone, for {left} ms more unless \
             it is heard of; the others follow when it is settled"
        ));
    }
    if let Some((seq, (due, reason))) = hand.returned.iter().next().filter(|(_, (due, _))| *due > now) {
        return Some(format!(
            "entry {seq} was given back ({reason}) and is handed out again in {} ms, before the others",
            due.saturating_sub(now)
        ));
    }
    let in_hand = hand.count(progress);
    Some(format!(
        "consumer {holder:?} has {in_hand} of it in hand, and holds it for {left} ms more unless it is heard of"
    ))
}
