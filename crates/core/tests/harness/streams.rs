//! Streams in scripts: what is asked of them, and their rows and answers as short lines.

use bytes::Bytes;
use mainspring_core::row::{
    StreamEntryIdRow, StreamEntryRow, StreamGroupRow, StreamPartRow, StreamProgressRow, StreamRow, decode, key,
};
use mainspring_core::stream::{Letter, NewEntry, Place, Span, StreamAsk, StreamReply, StreamSettings};
use mainspring_core::{Command, Table};

use super::parse::Line;

/// What is asked of streams.
pub const VERBS: [&str; 10] =
    ["stream", "publish", "take", "ack", "nack", "unseen", "give_up", "leave", "drop_group", "look_at_stream"];

/// `stream NAME [partitions=N] [keep=MS] [waiting=N] [waiting_bytes=N] [deliveries=N]`, `publish NAME KEY:BODY[:ID] ...`,
/// `take NAME GROUP CONSUMER [max=N] [lease=MS] [now] [again]`, `ack NAME GROUP CONSUMER G-P-FROM[..TO] ...`,
/// `nack NAME GROUP CONSUMER PLACE ... [reason=R] [after=MS]`, `give_up NAME GROUP CONSUMER PLACE:BODY ... [reason=R]`,
/// `leave NAME GROUP CONSUMER`, `drop_group NAME GROUP`, `look_at_stream NAME`. A `KEY` of `-` is none.
pub fn command(line: &Line) -> Command {
    let text = |nth: usize| line.word(nth).to_owned();
    let (group, consumer) = (line.words.get(1).cloned(), line.words.get(2).cloned());
    let group = || group.clone().expect("a group");
    let consumer = || consumer.clone().expect("a consumer");
    let rest = |from: usize| line.words.iter().skip(from);
    let reason = line.text("reason").unwrap_or_default();
    let ask = match line.verb.as_str() {
        "stream" => StreamAsk::Put(StreamSettings {
            partitions: line.number("partitions"),
            keep_ms: line.number("keep"),
            waiting_max: line.number("waiting"),
            waiting_bytes_max: line.number("waiting_bytes"),
            deliveries_max: line.number("deliveries"),
        }),
        "publish" => StreamAsk::Publish(rest(1).map(|word| entry(word)).collect()),
        "take" => StreamAsk::Take {
            group: group(),
            consumer: consumer(),
            max: line.number("max").unwrap_or(100),
            lease_ms: line.number("lease").unwrap_or(1_000),
            from_now: line.has("now"),
            again: line.has("again"),
        },
        "ack" => StreamAsk::Acknowledge {
            group: group(),
            consumer: consumer(),
            spans: rest(3).map(|word| span(word)).collect(),
        },
        "nack" | "unseen" => StreamAsk::GiveBack {
            group: group(),
            consumer: consumer(),
            places: rest(3).map(|word| word.parse().expect("a place")).collect(),
            reason,
            after_ms: line.number("after").unwrap_or(0),
            unseen: line.verb == "unseen",
        },
        "give_up" => StreamAsk::GiveUp {
            group: group(),
            consumer: consumer(),
            letters: rest(3).map(|word| letter(word, &reason)).collect(),
        },
        "leave" => StreamAsk::Leave { group: group(), consumer: consumer() },
        "drop_group" => StreamAsk::DropGroup { group: group() },
        "look_at_stream" => StreamAsk::Look,
        verb => panic!("no verb {verb:?}"),
    };
    Command::Stream { name: text(0), ask }
}

fn entry(word: &str) -> NewEntry {
    let mut parts = word.split(':');
    let key = parts.next().filter(|key| *key != "-").map(str::to_owned);
    let body = Bytes::from(parts.next().expect("KEY:BODY").to_owned());
    NewEntry { key, body, id: parts.next().map(str::to_owned) }
}

fn span(word: &str) -> Span {
    let (from, to) = word.split_once("..").unwrap_or((word, ""));
    let span = Span::of(from.parse().expect("a place"));
    if to.is_empty() { span } else { Span { to: to.parse().expect("a number"), ..span } }
}

fn letter(word: &str, reason: &str) -> Letter {
    let (place, body) = word.split_once(':').expect("PLACE:BODY");
    let entry = NewEntry { body: Bytes::from(body.to_owned()), ..NewEntry::default() };
    Letter { place: place.parse().expect("a place"), entry, deliveries: 2, reason: reason.to_owned() }
}

/// What a row's key says.
pub fn key_of(table: Table, row: &[u8]) -> String {
    let number = key::stream_number_of(row).expect("a stream's number");
    let part = || key::stream_part_of(row).map(|(generation, partition)| format!("{generation}-{partition}"));
    let part = || part().expect("a partition");
    match table {
        Table::StreamGroup => format!("s{number} {}", key::stream_group_of(row).expect("a name")),
        Table::StreamProgress => format!("s{number} {} {}", part(), key::stream_progress_of(row).expect("a name")),
        Table::StreamEntry => format!("s{number} {}", key::stream_place_of(row).expect("a place")),
        Table::StreamEntryId => format!("s{number} {}", String::from_utf8_lossy(&row[20..])),
        _ => format!("s{number} {}", part()),
    }
}

/// A row in a line.
pub fn row(table: Table, row: &[u8], body: &[u8]) -> String {
    let expect = "a row just written decodes";
    let of = |what: &str| format!("{what} {}", key_of(table, row));
    match table {
        Table::Stream => {
            let found: StreamRow = decode(body).expect(expect);
            let name = key::stream_of(row).expect("a stream's name");
            let generations = found.generations.iter().map(|one| format!("{}:{}", one.number, one.partitions));
            let generations = generations.collect::<Vec<_>>().join(",");
            let StreamRow { number, keep_ms, waiting_max, deliveries_max, .. } = found;
            format!(
                "stream {name} s{number} generations={generations} keep={keep_ms} waiting={waiting_max} \
                 deliveries={deliveries_max}"
            )
        }
        Table::StreamPart => {
            let found: StreamPartRow = decode(body).expect(expect);
            let trail = found.trail.iter().map(|(seq, bytes)| format!(" {seq}@{bytes}")).collect::<String>();
            format!("{} next={} bytes={}{trail}", of("part"), found.next, found.bytes)
        }
        Table::StreamEntry => {
            let found: StreamEntryRow = decode(body).expect(expect);
            let more = found.key.map(|key| format!(" key={key}")).unwrap_or_default();
            let more = more + &found.id.map(|id| format!(" id={id}")).unwrap_or_default();
            let dead = found.dead.map(|dead| {
                let (times, place) = (dead.deliveries, dead.place);
                format!(" of {place}, given up by {} after {times} times: {}", dead.group, dead.reason)
            });
            format!("{}{more} {}{}", of("entry"), String::from_utf8_lossy(&found.body), dead.unwrap_or_default())
        }
        Table::StreamEntryId => {
            format!("{} is {}", of("entry-id"), decode::<StreamEntryIdRow>(body).expect(expect).place)
        }
        Table::StreamGroup => {
            let found: StreamGroupRow = decode(body).expect(expect);
            format!("{} reads generation {}", of("group"), found.generation)
        }
        _ => {
            let found: StreamProgressRow = decode(body).expect(expect);
            let above = found.above.iter().map(|(from, to)| format!(" +{from}..{to}")).collect::<String>();
            let times = found.deliveries.iter().map(|(seq, times)| format!(" {seq}:{times}x")).collect::<String>();
            format!("{} floor={}{above}{times}", of("progress"), found.floor)
        }
    }
}

/// An answer in a line.
pub fn answer(reply: &StreamReply) -> String {
    match reply {
        StreamReply::Published(places) => {
            let one = |(place, known): &(Place, bool)| format!("{place}{}", if *known { " (duplicate)" } else { "" });
            format!("published {}", places.iter().map(one).collect::<Vec<_>>().join(" "))
        }
        StreamReply::Taken(taken) => {
            let one = |(span, times): &(Span, u32)| {
                let Span { generation, partition, from, to } = span;
                let times = if *times > 1 { format!(" ({times}x)") } else { String::new() };
                format!(" {generation}-{partition}-{from}..{to}{times}")
            };
            let given = taken.given.iter().map(one).collect::<String>();
            let given = if given.is_empty() { " nothing".to_owned() } else { given };
            let dead = taken.exhausted.iter().map(|(place, times, why)| format!("; exhausted {place} {times}x: {why}"));
            let again = taken.again_after_ms.map(|ms| format!("; again in {ms}")).unwrap_or_default();
            format!("taken{given}{}{again}", dead.collect::<String>())
        }
        StreamReply::Views(views) => {
            let mut shown = format!("{} streams", views.len());
            for group in views.iter().flat_map(|view| &view.groups) {
                let (waiting, bytes, in_hand) = (group.waiting, group.waiting_bytes, group.in_hand);
                shown += &format!("; group {} {waiting} waiting, {bytes} bytes, {in_hand} in hand", group.name);
                for (consumer, until, partitions) in &group.consumers {
                    shown += &format!(", {consumer} has {partitions} until {until}");
                }
                for part in group.parts.iter().filter(|part| part.why.is_some()) {
                    shown += &format!("; {}: {}", part.partition, part.why.as_deref().unwrap_or_default());
                }
            }
            shown
        }
    }
}
