//! The two ends' books against each other.

use std::collections::BTreeMap;

use super::ends::{Books, SESSIONS};

/// What a session's replies say, in the order in which they first came.
fn spoken(books: &Books) -> BTreeMap<&str, Vec<&str>> {
    let mut spoken: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (_, session, text) in &books.replies {
        spoken.entry(session).or_default().extend(text.split('\n'));
    }
    spoken
}

/// Whether every message that was added has been accepted and answered.
pub(super) fn is_whole(books: &Books) -> bool {
    let spoken = spoken(books);
    books.begun.iter().all(|(session, count)| {
        books.accepted.get(session) == Some(count)
            && spoken.get(format!("person-{session}").as_str()).is_some_and(|said| said.len() as u64 >= *count)
    })
}

/// What was lost, came twice in effect, or came out of order.
pub(super) fn check(books: &Books) -> Vec<String> {
    let mut violations: Vec<String> =
        books.differing.iter().map(|one| format!("one reply with two texts: {one}")).collect();
    let spoken = spoken(books);
    for session in 0..SESSIONS {
        let who = format!("person-{session}");
        let said = spoken.get(who.as_str()).map(Vec::as_slice).unwrap_or_default();
        let accepted = books.accepted.get(&session).copied().unwrap_or(0);
        if books.begun.get(&session).copied().unwrap_or(0) > accepted {
            violations.push(format!("message {session}:{accepted} was added again and again and never accepted"));
        }
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for text in said.iter().copied() {
            *seen.entry(text).or_default() += 1;
        }
        for n in 0..accepted {
            match seen.get(format!("{session}:{n}").as_str()) {
                None => violations.push(format!("message {session}:{n} was accepted and never answered")),
                Some(1) => {}
                Some(times) => violations.push(format!("message {session}:{n} was answered {times} times")),
            }
        }
        let order: Vec<u64> =
            said.iter().filter_map(|text| text.split_once(':').and_then(|(_, n)| n.parse().ok())).collect();
        if !order.is_sorted() {
            violations.push(format!("{who} was answered out of order: {order:?}"));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(replies: &[(&str, &str)]) -> Books {
        let replies =
            replies.iter().map(|(id, text)| ((*id).to_owned(), "person-0".to_owned(), (*text).to_owned())).collect();
        Books { accepted: [(0, 3)].into(), begun: [(0, 3)].into(), replies, ..Books::default() }
    }

    #[test]
    fn it_finds_what_is_lost_repeated_or_out_of_order() {
        assert_eq!(check(&books(&[("a", "0:0\n0:1"), ("b", "0:2")])), Vec::<String>::new());
        assert!(check(&books(&[("a", "0:0"), ("b", "0:2")]))[0].contains("never answered"));
        assert!(check(&books(&[("a", "0:0\n0:1"), ("b", "0:1\n0:2")]))[0].contains("2 times"));
        assert!(check(&books(&[("a", "0:1"), ("b", "0:0\n0:2")]))[0].contains("out of order"));
        assert!(!is_whole(&books(&[("a", "0:0")])));
        let all = books(&[("a", "0:0\n0:1\n0:2")]);
        assert!(is_whole(&all));
        let unheard = Books { begun: [(0, 4)].into(), ..all };
        assert!(!is_whole(&unheard) && check(&unheard)[0].contains("never accepted"));
    }
}
