//! The bus on Redis Streams. Each partition is a stream of its own; a consumer of a group holds a partition by a short
//! lease, and whoever takes a partition over is first handed what the one before did not acknowledge.
//!
//! Other programs read and write the same streams with `XADD`, `XREADGROUP` and `XACK`; `docs/redis.md` says how they
//! choose the partition and what the fields are. Nothing here must survive: Redis may be flushed at any time.

mod member;
mod scripts;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::{Cmd, FromRedisValue, Value};

use crate::bus::{
    Bus, BusError, DEAD_PREFIX, ENTRIES_MAX, Entry, EntryId, GroupLag, NewEntry, Settled, check_entries, check_name,
    partition_of,
};
use crate::link::Redis;
use crate::trouble::{Kind, Trouble};
use member::Member;

/// Entries kept in a stream of dead letters; older ones go.
const DEAD_MAX: usize = 100_000;
/// Entries one look removes at most.
const TRIM_AT_ONCE: usize = 10_000;
/// Bytes of a reason.
const REASON_BYTES_MAX: usize = 1_000;
/// Members of groups this process remembers; more is a program that never leaves.
const MEMBERS_MAX: usize = 10_000;

/// How streams are kept and handed out.
#[derive(Debug, Clone)]
pub struct RedisBusOptions {
    /// Partitions of a stream. 0: the stream has one and its name no suffix, as programs without partitions expect.
    pub partitions: u32,
    /// Partitions of streams that have another number, by name.
    pub partitions_of: BTreeMap<String, u32>,
    /// How long a consumer keeps a partition without a sign of life.
    pub lease: Duration,
    /// How long an entry may be unacknowledged before it is handed out again.
    pub visibility: Duration,
    /// How often is looked for such entries, and streams are trimmed.
    pub look_every: Duration,
    /// How often an entry is handed out before it is a dead letter.
    pub deliveries_max: u32,
    /// How long entries are kept.
    pub keep: Duration,
    /// Entries kept in a partition. As many that no group has acknowledged fill it.
    pub entries_max: u64,
    /// Groups that streams have from the first entry on, by stream, whether anybody reads for them yet or not: what is
    /// published waits for them.
    pub groups_of: BTreeMap<String, Vec<String>>,
}

impl Default for RedisBusOptions {
    fn default() -> Self {
        RedisBusOptions {
            partitions: 8,
            partitions_of: BTreeMap::new(),
            lease: Duration::from_secs(10),
            visibility: Duration::from_secs(30),
            look_every: Duration::from_secs(5),
            deliveries_max: 5,
            keep: Duration::from_secs(24 * 60 * 60),
            entries_max: 100_000,
            groups_of: BTreeMap::new(),
        }
    }
}

type MemberKey = (String, String, String);

/// A bus on Redis.
pub struct RedisBus {
    redis: Redis,
    options: RedisBusOptions,
    members: Mutex<HashMap<MemberKey, Arc<Member>>>,
    written: Mutex<HashMap<String, Written>>,
}

/// What this process knows of a stream it writes to or reads from.
#[derive(Debug, Default)]
struct Written {
    /// The highest place published, by partition.
    top: BTreeMap<u32, (u64, u64)>,
    looked: Option<Instant>,
    /// The group that kept entries from being trimmed when it was last looked.
    held: String,
}

impl std::fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBus").field("redis", &self.redis).finish_non_exhaustive()
    }
}

impl RedisBus {
    /// A bus on this Redis.
    pub fn new(redis: Redis, options: RedisBusOptions) -> Self {
        RedisBus { redis, options, members: Mutex::default(), written: Mutex::default() }
    }

    /// The Redis it is on.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Partitions of a stream, and whether their names have a suffix.
    fn partitions(&self, stream: &str) -> (u32, bool) {
        if stream.starts_with(DEAD_PREFIX) {
            return (1, false);
        }
        let count = self.options.partitions_of.get(stream).copied().unwrap_or(self.options.partitions);
        (count.max(1), count > 0)
    }

    /// The key of a partition.
    fn key(&self, stream: &str, partition: u32) -> String {
        if self.partitions(stream).1 { format!("{stream}.p{partition}") } else { stream.to_owned() }
    }

    /// The groups a stream has from the first entry on.
    fn groups_of(&self, stream: &str) -> &[String] {
        self.options.groups_of.get(stream).map_or(&[], Vec::as_slice)
    }

    /// The highest place this process has published in a partition.
    fn top_of(&self, stream: &str, partition: u32) -> Option<(u64, u64)> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(stream).and_then(|known| known.top.get(&partition).copied())
    }

    async fn publish_all(&self, stream: &str, entries: Vec<NewEntry>) -> Result<Vec<EntryId>, BusError> {
        check_name("stream", stream)?;
        check_entries(&entries)?;
        let (partitions, _) = self.partitions(stream);
        let mut by_partition: BTreeMap<u32, Vec<(usize, NewEntry)>> = BTreeMap::new();
        let count = entries.len();
        for (nth, entry) in entries.into_iter().enumerate() {
            by_partition.entry(partition_of(&entry.key, partitions)).or_default().push((nth, entry));
        }
        let mut ids = vec![EntryId(String::new()); count];
        // Together, because each of them is a round trip.
        let published = by_partition.iter().map(|(partition, entries)| self.publish_in(stream, *partition, entries));
        for (entries, places) in by_partition.values().zip(futures_util::future::join_all(published).await) {
            for ((nth, _), place) in entries.iter().zip(places?) {
                ids[*nth] = place;
            }
        }
        let due = {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let known = written.entry(stream.to_owned()).or_default();
            let due = known.looked.is_none_or(|at| at.elapsed() >= self.options.look_every);
            if due {
                known.looked = Some(Instant::now());
            }
            due
        };
        if due {
            self.trim(stream).await?;
        }
        Ok(ids)
    }

    async fn publish_in(
        &self,
        stream: &str,
        partition: u32,
        entries: &[(usize, NewEntry)],
    ) -> Result<Vec<EntryId>, BusError> {
        let key = self.key(stream, partition);
        let known = self.top_of(stream, partition);
        let known = known.filter(|_| entries.iter().any(|(_, entry)| entry.place.is_some()));
        let known = known.map_or_else(String::new, |(ms, seq)| format!("{ms}-{seq}"));
        let mut call = scripts::PUBLISH.prepare_invoke();
        let groups = self.groups_of(stream);
        call.key(&key).arg(self.options.entries_max).arg(&known).arg(groups.len()).arg(groups);
        for (_, NewEntry { id, key, body, place }) in entries {
            let place = place.map_or_else(String::new, |(ms, seq)| format!("{ms}-{seq}"));
            call.arg(place).arg(id).arg(key).arg(&body[..]);
        }
        let mut tried = false;
        let places = loop {
            let outcome: Result<Vec<String>, Trouble> = self.redis.run(&call).await;
            match outcome {
                Ok(places) => break places,
                Err(trouble) if trouble.kind == Kind::StreamFull => {
                    if tried || !self.trim_partition(stream, partition, entries.len()).await? {
                        let max = self.options.entries_max;
                        return Err(BusError::Full { stream: stream.to_owned(), max });
                    }
                    tried = true;
                }
                Err(trouble) if trouble.kind == Kind::StreamLost => {
                    // What it had is published again; until then nothing is known of it.
                    self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
                    return Err(BusError::Lost { stream: stream.to_owned() });
                }
                Err(trouble) => return Err(trouble.into()),
            }
        };
        let top = entries.iter().filter_map(|(_, entry)| entry.place).max();
        if let Some(top) = top {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let known = written.entry(stream.to_owned()).or_default().top.entry(partition).or_default();
            *known = top.max(*known);
        }
        Ok(places.into_iter().map(|place| entry_id(partition, &place)).collect())
    }

    /// Removes what is too old or too much, as far as every group has acknowledged it.
    ///
    /// # Errors
    /// [`BusError::Away`].
    pub async fn trim(&self, stream: &str) -> Result<(), BusError> {
        for partition in 0..self.partitions(stream).0 {
            self.trim_partition(stream, partition, 0).await?;
        }
        Ok(())
    }

    /// Trims a partition, so far that `room` more entries fit if that can be. Answers whether anything was removed.
    async fn trim_partition(&self, stream: &str, partition: u32, room: usize) -> Result<bool, BusError> {
        let key = self.key(stream, partition);
        let keep_ms = self.options.keep.as_millis() as u64;
        let kept = self.options.entries_max.saturating_sub(room as u64);
        let (removed, held): (u64, String) =
            self.redis.run(scripts::TRIM.key(&key).arg(keep_ms).arg(kept).arg(TRIM_AT_ONCE)).await?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let known = written.entry(stream.to_owned()).or_default();
        if known.held != held && !held.is_empty() {
            tracing::warn!(
                stream = key,
                group = held,
                "a group has not acknowledged entries that are due to go, and keeps them: let it catch up, or XGROUP DESTROY it"
            );
        }
        if known.held != held && (partition == 0 || !held.is_empty()) {
            known.held = held;
        }
        Ok(removed > 0)
    }

    async fn make_group(&self, key: &str, group: &str) -> Result<(), BusError> {
        // From the beginning: what was published before anybody read is meant for the group too.
        match self.redis.ask::<Value>(command(&["XGROUP", "CREATE", key, group, "0", "MKSTREAM"])).await {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.said.contains("BUSYGROUP") => Ok(()),
            Err(trouble) => Err(trouble.into()),
        }
    }

    fn member(&self, stream: &str, group: &str, consumer: &str) -> Result<Arc<Member>, BusError> {
        check_name("stream", stream)?;
        check_name("group", group)?;
        check_name("consumer", consumer)?;
        let key = (stream.to_owned(), group.to_owned(), consumer.to_owned());
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = members.get(&key) {
            return Ok(member.clone());
        }
        if members.len() >= MEMBERS_MAX {
            let what = format!("{MEMBERS_MAX} consumers of this process are members of groups");
            return Err(BusError::refused(what, "leave groups that are not read any more"));
        }
        let member = Arc::new(Member::new(stream, group, consumer, self.partitions(stream).0));
        members.insert(key, member.clone());
        Ok(member)
    }

    async fn ack_all(&self, stream: &str, group: &str, consumer: &str, ids: &[EntryId]) -> Result<(), BusError> {
        if ids.is_empty() {
            return Ok(());
        }
        let member = {
            let key = (stream.to_owned(), group.to_owned(), consumer.to_owned());
            self.members.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
        };
        let mut by_partition: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for id in ids {
            let (partition, place) = place_of(id)?;
            by_partition.entry(partition).or_default().push(place);
        }
        let ack = |(partition, places): (&u32, &Vec<&str>)| {
            let mut cmd = command(&["XACK", &self.key(stream, *partition), group]);
            cmd.arg(places);
            cmd
        };
        self.redis.ask_all(by_partition.iter().map(ack).collect()).await?;
        if let Some(member) = member {
            member.forget(&by_partition);
        }
        Ok(())
    }

    async fn bury(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        entry: &Entry,
        reason: &str,
    ) -> Result<(), BusError> {
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut add = redis::cmd("XADD");
        add.arg(format!("{DEAD_PREFIX}{stream}")).arg("MAXLEN").arg("~").arg(DEAD_MAX).arg("*");
        add.arg("id").arg(&entry.id).arg("key").arg(&entry.key).arg("envelope").arg(&entry.body[..]);
        add.arg("reason").arg(&reason[..end]).arg("stream").arg(stream).arg("entry").arg(&entry.entry.0);
        add.arg("group").arg(group).arg("deliveries").arg(entry.deliveries);
        // Two steps, because they are two keys: after a crash between them it is a dead letter twice, under one id.
        self.redis.ask::<String>(add).await?;
        tracing::warn!(stream, group, id = entry.id, reason = &reason[..end], "an entry is a dead letter");
        self.ack_all(stream, group, consumer, std::slice::from_ref(&entry.entry)).await
    }

    async fn leave_all(&self, stream: &str, group: &str, consumer: &str) -> Result<(), BusError> {
        let key = (stream.to_owned(), group.to_owned(), consumer.to_owned());
        let member = self.members.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let Some(member) = member else { return Ok(()) };
        member.leave(self).await
    }

    async fn lag_of(&self, stream: &str) -> Result<Vec<GroupLag>, BusError> {
        check_name("stream", stream)?;
        let mut lags = Vec::new();
        for partition in 0..self.partitions(stream).0 {
            let key = self.key(stream, partition);
            let mut info = redis::cmd("XINFO");
            info.arg("GROUPS").arg(&key);
            let groups: Vec<HashMap<String, Value>> = match self.redis.ask(info).await {
                Ok(groups) => groups,
                // There is no such stream yet.
                Err(trouble) if trouble.said.contains("no such key") => continue,
                Err(trouble) => return Err(trouble.into()),
            };
            for group in groups {
                lags.push(self.lag_of_group(stream, partition, &key, group).await?);
            }
        }
        Ok(lags)
    }

    async fn lag_of_group(
        &self,
        stream: &str,
        partition: u32,
        key: &str,
        mut info: HashMap<String, Value>,
    ) -> Result<GroupLag, BusError> {
        let group: String = info.remove("name").and_then(|name| read(name).ok()).unwrap_or_default();
        let number = |value: Option<Value>| value.and_then(|value| read::<Option<u64>>(value).ok().flatten());
        let pending = number(info.remove("pending")).unwrap_or(0);
        let after: String = info.remove("last-delivered-id").and_then(|id| read(id).ok()).unwrap_or_default();
        let mut oldest_at_ms = None;
        if pending > 0 {
            let mut look = redis::cmd("XPENDING");
            look.arg(key).arg(&group);
            let (_, first, _, _): (u64, Option<String>, Value, Value) = self.redis.ask(look).await?;
            oldest_at_ms = first.as_deref().and_then(parse).map(|(ms, _)| ms);
        }
        if oldest_at_ms.is_none() {
            let mut look = redis::cmd("XRANGE");
            look.arg(key).arg(format!("({after}")).arg("+").arg("COUNT").arg(1);
            let next: Vec<(String, Value)> = self.redis.ask(look).await?;
            oldest_at_ms = next.first().and_then(|(id, _)| parse(id)).map(|(ms, _)| ms);
        }
        let backlog = match number(info.remove("lag")) {
            Some(lag) => lag,
            // Redis has lost count, as it does when entries in the middle were removed.
            None if oldest_at_ms.is_none() => 0,
            None => {
                let mut count = redis::cmd("XLEN");
                count.arg(key);
                self.redis.ask::<u64>(count).await?.saturating_sub(pending)
            }
        };
        let mut holder = redis::cmd("GET");
        holder.arg(member::lease_key(&self.key(stream, partition), &group));
        let holder: Option<String> = self.redis.ask(holder).await?;
        let held_by = holder.and_then(|token| token.rsplit_once('#').map(|(consumer, _)| consumer.to_owned()));
        Ok(GroupLag { group, partition, backlog, pending, oldest_at_ms, held_by })
    }

    async fn settled_of(&self, stream: &str) -> Result<Settled, BusError> {
        let (partitions, _) = self.partitions(stream);
        let mut settled = Settled::All;
        for partition in 0..partitions {
            let key = self.key(stream, partition);
            let top = self.top_of(stream, partition);
            let published = top.map_or_else(String::new, |(ms, seq)| format!("{ms}-{seq}"));
            let mut call = scripts::SETTLED.key(&key);
            call.arg(&published).arg(self.groups_of(stream));
            let (state, number): (String, String) = self.redis.run(&call).await?;
            settled = match (state.as_str(), settled) {
                ("lost", _) => {
                    // What it lost is published again; until then nothing is known of it.
                    self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
                    return Ok(Settled::Lost);
                }
                ("below", before) => {
                    let below = number.parse().unwrap_or(0);
                    Settled::Below(if let Settled::Below(before) = before { below.min(before) } else { below })
                }
                (_, before) => before,
            };
        }
        Ok(settled)
    }
}

impl Bus for RedisBus {
    fn publish<'a>(&'a self, stream: &'a str, entries: Vec<NewEntry>) -> BoxFuture<'a, Result<Vec<EntryId>, BusError>> {
        Box::pin(self.publish_all(stream, entries))
    }

    fn take<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Entry>, BusError>> {
        Box::pin(async move { self.member(stream, group, consumer)?.take(self, max.min(ENTRIES_MAX), wait).await })
    }

    fn ack<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        ids: &'a [EntryId],
    ) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(self.ack_all(stream, group, consumer, ids))
    }

    fn dead_letter<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        entry: &'a Entry,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(self.bury(stream, group, consumer, entry, reason))
    }

    fn leave<'a>(&'a self, stream: &'a str, group: &'a str, consumer: &'a str) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(self.leave_all(stream, group, consumer))
    }

    fn lag<'a>(&'a self, stream: &'a str) -> BoxFuture<'a, Result<Vec<GroupLag>, BusError>> {
        Box::pin(self.lag_of(stream))
    }

    fn settled<'a>(&'a self, stream: &'a str) -> BoxFuture<'a, Result<Settled, BusError>> {
        Box::pin(self.settled_of(stream))
    }
}

/// Where an entry is: its partition, and its id in Redis.
fn entry_id(partition: u32, place: &str) -> EntryId {
    EntryId(format!("{partition}/{place}"))
}

fn place_of(id: &EntryId) -> Result<(u32, &str), BusError> {
    let split = id.0.split_once('/').and_then(|(partition, place)| Some((partition.parse().ok()?, place)));
    let malformed =
        || BusError::refused(format!("{:?} is no place in a stream", id.0), "give back what was handed out");
    split.filter(|(_, place)| parse(place).is_some()).ok_or_else(malformed)
}

/// An id of Redis as numbers.
fn parse(id: &str) -> Option<(u64, u64)> {
    let (ms, seq) = id.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, Trouble> {
    redis::from_redis_value(value).map_err(|error| Trouble { kind: Kind::Other, said: error.to_string() })
}

/// An entry as Redis gives it. Ours have the fields id, key and envelope; of others, a field `envelope`, `data`, `body`
/// or `payload` is the body, or all fields together are, as JSON.
fn entry_of(partition: u32, place: &str, fields: Vec<(Vec<u8>, Vec<u8>)>, deliveries: u32) -> Entry {
    let mut fields: BTreeMap<String, Vec<u8>> =
        fields.into_iter().map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value)).collect();
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let id = ["id", "envelope_id"].iter().find_map(|name| fields.get(*name)).map(text);
    let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| place.to_owned());
    let key = fields.get("key").map(text).unwrap_or_default();
    let body = ["envelope", "data", "body", "payload"].iter().find_map(|name| {
        // Flat fields may be called so as well: only an object is an envelope.
        let is_envelope = fields.get(*name)?.trim_ascii_start().first() == Some(&b'{') || fields.len() == 1;
        if is_envelope && !(fields.contains_key("type") && *name == "payload") { fields.remove(*name) } else { None }
    });
    let body = body.map(Bytes::from).unwrap_or_else(|| {
        let object: serde_json::Map<String, serde_json::Value> = fields
            .into_iter()
            .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned().into()))
            .collect();
        Bytes::from(serde_json::Value::Object(object).to_string())
    });
    Entry { entry: entry_id(partition, place), id, key, body, deliveries }
}

/// A command with its arguments.
fn command(parts: &[&str]) -> Cmd {
    let mut cmd = Cmd::new();
    for part in parts {
        cmd.arg(*part);
    }
    cmd
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_entry(fields: &[(&str, &str)]) -> (String, String) {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        let entry = entry_of(3, "17-0", fields, 1);
        assert_eq!(entry.entry, EntryId("3/17-0".to_owned()));
        (entry.id, String::from_utf8(entry.body.to_vec()).expect("text"))
    }

    #[test]
    fn entries_of_other_programs_are_read() {
        let own = read_entry(&[("id", "a"), ("key", "k"), ("envelope", "{\"x\":1}")]);
        assert_eq!(own, ("a".to_owned(), "{\"x\":1}".to_owned()));
        assert_eq!(read_entry(&[("data", "{\"x\":1}")]), ("17-0".to_owned(), "{\"x\":1}".to_owned()));
        let flat = read_entry(&[("type", "message"), ("payload", "{\"text\":\"hi\"}"), ("session", "s")]);
        assert_eq!(flat.1, r#"{"payload":"{\"text\":\"hi\"}","session":"s","type":"message"}"#);
        let word = read_entry(&[("agent", "orders"), ("body", "hello")]);
        assert_eq!(word.1, r#"{"agent":"orders","body":"hello"}"#);
    }

    #[test]
    fn a_place_that_was_not_handed_out_is_refused() {
        for bad in ["", "17-0", "x/17-0", "1/17", "1/a-b"] {
            assert!(place_of(&EntryId(bad.to_owned())).is_err(), "{bad:?}");
        }
        assert_eq!(place_of(&entry_id(2, "17-4")), Ok((2, "17-4")));
    }
}
