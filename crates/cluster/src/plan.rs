//! Which partitions a node should take and let go of: a pure function of the roster.
//!
//! Every node that stays has a share of the partitions: their number divided by the nodes', and the remainder one each to
//! the first, by id. A node takes what is free up to its share, and gives away what is beyond it, a few at a time. All
//! nodes count alike, so they agree without talking; where their views differ for a moment, the database lets only one
//! take.

use std::collections::BTreeSet;

use mainspring_postgres::{NodeId, NodeRow, Roster};

/// Partitions given away in one round. Each is away for some tens of milliseconds; all at once would be felt.
const RELEASED_MAX: usize = 4;

/// What a node should do next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Partitions to take.
    pub take: Vec<u16>,
    /// Partitions to let go of.
    pub release: Vec<u16>,
    /// Partitions to take this node's name off. They are not in its hands, because opening or closing one failed while the
    /// database was away, and as long as they have its name nobody else may take them.
    pub disown: Vec<u16>,
}

/// What the node `me`, which has `holding` in hand, should do about the roster. `steady` says that the database has
/// answered for long enough that a lease which ended did not end because nobody could renew it.
pub fn plan(me: NodeId, roster: &Roster, holding: &BTreeSet<u16>, steady: bool) -> Plan {
    let staying: Vec<&NodeRow> = roster.nodes.iter().filter(|node| node.alive && !node.leaving).collect();
    let Some(rank) = staying.iter().position(|node| node.id == me) else { return Plan::default() };
    let (count, nodes) = (roster.partitions.len(), staying.len());
    let named = roster.partitions.iter().filter(|one| one.node == Some(me) && !holding.contains(&one.number));
    let named = named.map(|one| one.number);
    let share = count / nodes + usize::from(rank < count % nodes);
    if holding.len() > share {
        let release = holding.iter().rev().take((holding.len() - share).min(RELEASED_MAX)).copied().collect();
        return Plan { take: Vec::new(), release, disown: named.collect() };
    }
    let free = |holder: Option<NodeId>| match holder {
        None => true,
        // Taken in this node's name, and not in its hands: it was given up in between.
        Some(holder) if holder == me => true,
        Some(holder) => match roster.nodes.iter().find(|node| node.id == holder) {
            Some(node) => !node.alive && steady,
            None => true,
        },
    };
    let partitions = roster.partitions.iter().filter(|one| !holding.contains(&one.number) && free(one.node));
    let mut take: Vec<u16> = partitions.map(|one| one.number).collect();
    // Each begins elsewhere, so that nodes that look at the same moment rarely reach for the same.
    let begin = take.len() * rank / nodes;
    take.rotate_left(begin);
    take.truncate(share - holding.len());
    let disown = named.filter(|number| !take.contains(number)).collect();
    Plan { take, release: Vec::new(), disown }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mainspring_postgres::PartitionRow;

    use super::*;

    fn node(id: u128) -> NodeRow {
        NodeRow {
            id: NodeId(id),
            name: format!("n{id}"),
            address: format!("127.0.0.1:{id}"),
            release: String::new(),
            alive: true,
            leaving: false,
        }
    }

    fn roster(nodes: Vec<NodeRow>, holders: &[Option<u128>]) -> Roster {
        let row = |(number, holder): (usize, &Option<u128>)| PartitionRow {
            number: number as u16,
            node: holder.map(NodeId),
            epoch: 1,
        };
        Roster { nodes, partitions: holders.iter().enumerate().map(row).collect() }
    }

    #[test]
    fn what_is_free_is_shared() {
        let roster = roster(vec![node(1), node(2), node(3)], &[None; 8]);
        let of = |id| plan(NodeId(id), &roster, &BTreeSet::new(), true).take;
        assert_eq!((of(1), of(2), of(3)), (vec![0, 1, 2], vec![2, 3, 4], vec![5, 6]));
    }

    #[test]
    fn what_is_beyond_the_share_is_given_away_a_few_at_a_time() {
        let roster = roster(vec![node(1), node(2)], &[Some(1); 16]);
        let holding = (0..16).collect();
        let first = plan(NodeId(1), &roster, &holding, true);
        assert_eq!(first, Plan { take: vec![], release: vec![15, 14, 13, 12], disown: vec![] });
        assert_eq!(plan(NodeId(2), &roster, &BTreeSet::new(), true), Plan::default(), "what is held is not taken");
    }

    #[test]
    fn a_node_that_vanished_is_relieved_once_the_database_is_steady() {
        let dead = NodeRow { alive: false, ..node(2) };
        let roster = roster(vec![node(1), dead], &[Some(1), Some(2)]);
        let holding = BTreeSet::from([0]);
        assert_eq!(plan(NodeId(1), &roster, &holding, false), Plan::default(), "perhaps nobody could renew");
        assert_eq!(plan(NodeId(1), &roster, &holding, true).take, [1]);
    }

    /// Its opening failed, its name could not be taken off, and meanwhile the node has got its share of others.
    #[test]
    fn what_has_its_name_and_is_not_in_its_hands_is_taken_or_given_to_the_others() {
        let roster = roster(vec![node(1), node(2)], &[Some(1), Some(1), Some(1), Some(2)]);
        let full = plan(NodeId(1), &roster, &BTreeSet::from([1, 2]), true);
        assert_eq!(full, Plan { take: vec![], release: vec![], disown: vec![0] });
        let room = plan(NodeId(1), &roster, &BTreeSet::from([2]), true);
        assert_eq!((room.take.len(), room.disown.len()), (1, 1));
    }

    #[test]
    fn a_node_that_leaves_has_no_share() {
        let leaving = NodeRow { leaving: true, ..node(1) };
        let roster = roster(vec![leaving, node(2)], &[Some(1), Some(1), None]);
        assert_eq!(plan(NodeId(1), &roster, &BTreeSet::from([0, 1]), true), Plan::default());
        assert_eq!(plan(NodeId(2), &roster, &BTreeSet::new(), true).take, [2]);
    }

    /// Nodes come, freeze, wake, leave and die in any order, each with a view of its own age; after that, all is shared
    /// evenly and stays where it is.
    #[test]
    fn any_history_ends_in_an_even_share() {
        const PARTITIONS: u16 = 64;
        for seed in 1..=100_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut dice = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut rows: BTreeMap<NodeId, NodeRow> = BTreeMap::new();
            let mut holders: Vec<Option<NodeId>> = vec![None; usize::from(PARTITIONS)];
            // What each node believes to hold, and the roster it saw last.
            let mut held: BTreeMap<NodeId, BTreeSet<u16>> = BTreeMap::new();
            let mut seen: BTreeMap<NodeId, Roster> = BTreeMap::new();
            let (mut next, mut moves) = (1, 0);
            for step in 0..400 {
                let calm = step >= 300;
                let now = |rows: &BTreeMap<NodeId, NodeRow>, holders: &[Option<NodeId>]| {
                    let holders: Vec<_> = holders.iter().map(|holder| holder.map(|id| id.0)).collect();
                    roster(rows.values().cloned().collect(), &holders)
                };
                let alive: Vec<NodeId> = rows.values().filter(|row| row.alive).map(|row| row.id).collect();
                match if calm { 9 } else { dice(12) } {
                    0 if alive.len() < 6 => {
                        rows.insert(NodeId(next), node(next));
                        next += 1;
                    }
                    1 if alive.len() > 1 => {
                        // Its lease ends: it may be dead, or frozen.
                        let id = alive[dice(alive.len() as u64) as usize];
                        rows.get_mut(&id).unwrap().alive = false;
                    }
                    2 => {
                        // One that froze wakes up, and finds out what it has lost.
                        let frozen = rows.values_mut().find(|row| !row.alive);
                        if let Some(row) = frozen {
                            row.alive = true;
                        }
                    }
                    3 if alive.len() > 1 => {
                        let id = alive[dice(alive.len() as u64) as usize];
                        rows.remove(&id);
                        held.remove(&id);
                        seen.remove(&id);
                    }
                    _ => {}
                }
                if rows.is_empty() {
                    rows.insert(NodeId(next), node(next));
                    next += 1;
                }
                for id in rows.values().filter(|row| row.alive).map(|row| row.id).collect::<Vec<_>>() {
                    // Some act on what they saw a while ago.
                    if calm || dice(3) > 0 {
                        seen.insert(id, now(&rows, &holders));
                    }
                    let Some(roster) = seen.get(&id) else { continue };
                    let mine = held.entry(id).or_default();
                    mine.retain(|number| holders[usize::from(*number)] == Some(id));
                    let Plan { take, release, disown } = plan(id, roster, mine, true);
                    for number in disown {
                        assert!(!mine.contains(&number), "what is disowned is not held");
                        let holder = &mut holders[usize::from(number)];
                        *holder = holder.filter(|of| *of != id);
                    }
                    for number in release {
                        assert!(mine.remove(&number), "what is released was held");
                        holders[usize::from(number)] = None;
                        moves += usize::from(step >= 350);
                    }
                    for number in take {
                        // As the database decides: nobody's, one's own, or a dead one's.
                        let holder = holders[usize::from(number)];
                        let free = holder.is_none_or(|of| of == id || rows.get(&of).is_none_or(|row| !row.alive));
                        if free {
                            holders[usize::from(number)] = Some(id);
                            // Now and then opening fails, and so does taking the name off again.
                            if calm || dice(10) > 0 {
                                mine.insert(number);
                            }
                            moves += usize::from(step >= 350);
                        }
                    }
                }
            }
            let staying: Vec<NodeId> = rows.values().filter(|row| row.alive).map(|row| row.id).collect();
            for id in &staying {
                let named = (0..PARTITIONS).filter(|number| holders[usize::from(*number)] == Some(*id));
                assert_eq!(held[id], named.collect::<BTreeSet<_>>(), "seed {seed}: what has its name is in its hands");
                let count = held[id].len();
                let share = usize::from(PARTITIONS) / staying.len();
                assert!((share..=share + 1).contains(&count), "seed {seed}: {id} has {count} of {PARTITIONS}");
            }
            assert_eq!(moves, 0, "seed {seed}: what is shared evenly stays where it is");
        }
    }
}
