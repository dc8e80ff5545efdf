//! The order of tasks: parents first.
//!
//! What this module does not know: tasks. It sees numbers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Puts tasks into an order in which parents come before children, and which is otherwise that of their declaration.
/// `parents[i]` holds the parents of task `i`, each once.
///
/// # Errors
/// The way round a cycle: each task has the next as its parent, and the first is also the last.
pub(super) fn order(parents: &[Vec<u16>]) -> Result<Vec<u16>, Vec<u16>> {
    let mut children: Vec<Vec<u16>> = vec![Vec::new(); parents.len()];
    let mut open: Vec<usize> = Vec::with_capacity(parents.len());
    let mut ready = BinaryHeap::new();
    for (task, of) in (0_u16..).zip(parents) {
        open.push(of.len());
        for parent in of {
            children[usize::from(*parent)].push(task);
        }
        if of.is_empty() {
            ready.push(Reverse(task));
        }
    }
    let mut order = Vec::with_capacity(parents.len());
    while let Some(Reverse(task)) = ready.pop() {
        order.push(task);
        for child in &children[usize::from(task)] {
            let left = &mut open[usize::from(*child)];
            *left -= 1;
            if *left == 0 {
                ready.push(Reverse(*child));
            }
        }
    }
    if order.len() == parents.len() { Ok(order) } else { Err(cycle(parents, &open)) }
}

/// Walks from parent to parent among the tasks that never became ready. Each of them has such a parent, so the walk
/// comes back to where it was.
fn cycle(parents: &[Vec<u16>], open: &[usize]) -> Vec<u16> {
    let stuck = |task: &u16| open[usize::from(*task)] > 0;
    let mut path: Vec<u16> = (0..).take(open.len()).find(stuck).into_iter().collect();
    while let Some(next) = path.last().and_then(|task| parents[usize::from(*task)].iter().copied().find(stuck)) {
        if let Some(start) = path.iter().position(|task| *task == next) {
            path.push(next);
            return path.split_off(start);
        }
        path.push(next);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_the_rest_stays_as_declared() {
        assert_eq!(order(&[]), Ok(vec![]));
        assert_eq!(order(&[vec![], vec![], vec![]]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[vec![2], vec![], vec![1]]), Ok(vec![1, 2, 0]));
        // A diamond, declared from its end.
        assert_eq!(order(&[vec![1, 2], vec![3], vec![3], vec![]]), Ok(vec![3, 1, 2, 0]));
    }

    #[test]
    fn a_cycle_is_walked_once_and_without_what_leads_to_it() {
        assert_eq!(order(&[vec![0]]), Err(vec![0, 0]));
        assert_eq!(order(&[vec![1], vec![2], vec![1], vec![]]), Err(vec![1, 2, 1]));
        // Task 1 waits for 0, which is free, and for 2; the walk does not go by way of 0.
        assert_eq!(order(&[vec![], vec![0, 2], vec![1]]), Err(vec![1, 2, 1]));
    }

    #[test]
    fn the_largest_graph_is_no_trouble() {
        let parents: Vec<Vec<u16>> = (0..1_000_u16).map(|task| (0..task).collect()).collect();
        assert_eq!(order(&parents), Ok((0..1_000).collect()));
    }
}
