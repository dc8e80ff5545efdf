//! A consumer of a group: which partitions it holds, what it was handed, and how it takes more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::{RedisBus, command, entry_of, parse, scripts};
use crate::bus::{ALONE_FROM, BusError, Entry};
use crate::trouble::{Kind, Trouble};

/// Where nothing can be waited for (in a cluster), the pause between two looks: at first, and at most.
const LOOK_MIN: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(200);
/// Entries handed out in vain that are looked at in one go.
const PENDING_AT_ONCE: usize = 500;

/// One id in a stream.
type Place = (u64, u64);

pub(super) struct Member {
    stream: String,
    group: String,
    consumer: String,
    /// Distinguishes this process from another, or an earlier, of the same name.
    token: String,
    partitions: u32,
    held: tokio::sync::Mutex<Held>,
    /// What was handed out and not acknowledged, by partition.
    handed: Mutex<BTreeMap<u32, BTreeSet<Place>>>,
}

#[derive(Default)]
struct Held {
    parts: BTreeMap<u32, Part>,
    kept: Option<Instant>,
    looked: Option<Instant>,
    /// A read was begun and its end not seen: Redis may have handed out what never arrived.
    unsure: bool,
    conn: Option<MultiplexedConnection>,
    turn: u32,
}

/// A partition that is held.
struct Part {
    until: Instant,
    /// Where to go on with what was handed out in vain before it was taken over. `None`: that is done.
    recovering: Option<Place>,
    /// What comes next of it is handed out when nothing of it is in hand any more: an entry has to be alone.
    waits: bool,
    /// It is to go to somebody else once everything handed out of it is acknowledged.
    leaving: bool,
}

impl Part {
    /// Whether what nobody was handed yet is read from it.
    fn is_read(&self) -> bool {
        self.recovering.is_none() && !self.waits && !self.leaving
    }
}

/// The key of a partition's lease.
pub(super) fn lease_key(partition: &str, group: &str) -> String {
    format!("{partition}:lease:{group}")
}

fn members_key(stream: &str, group: &str) -> String {
    format!("{stream}:members:{group}")
}

impl Member {
    pub(super) fn new(stream: &str, group: &str, consumer: &str, partitions: u32) -> Self {
        let mut random = [0; 8];
        // Two of one name that also share this would hold the same lease; without randomness the time has to do.
        if getrandom::fill(&mut random).is_err() {
            let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_nanos() as u64);
            random = now.to_be_bytes();
        }
        let token = format!("{consumer}#{:016x}", u64::from_be_bytes(random));
        Member {
            stream: stream.to_owned(),
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            token,
            partitions,
            held: tokio::sync::Mutex::default(),
            handed: Mutex::default(),
        }
    }

    pub(super) async fn take(&self, bus: &RedisBus, max: usize, wait: Duration) -> Result<Vec<Entry>, BusError> {
        let deadline = Instant::now() + wait;
        let held = &mut *self.held.lock().await;
        if max == 0 {
            self.keep(bus, held, true).await?;
            return self.touch(bus).await.map(|()| Vec::new());
        }
        let mut pause = LOOK_MIN;
        loop {
            self.keep(bus, held, false).await?;
            if std::mem::replace(&mut held.unsure, true) {
                // Everything that Redis has handed out and that we do not know of is handed out again, in order.
                for part in held.parts.values_mut() {
                    part.recovering = Some((0, 0));
                }
            }
            let mut entries = self.recover(bus, held, max).await?;
            if entries.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                // Leases have to be kept meanwhile, and what has to be alone is looked for again.
                let waits = held.parts.values().any(|part| part.waits);
                let block = left.min(if waits { LOOK_MAX } else { bus.options.lease / 3 });
                entries = self.read(bus, held, max, block).await?;
            }
            held.unsure = false;
            // Only now: what was found before something failed is not with anybody.
            self.remember(&entries);
            if !entries.is_empty() || Instant::now() >= deadline {
                return Ok(entries);
            }
            if bus.redis.is_cluster() || !held.parts.values().any(Part::is_read) {
                let left = deadline.saturating_duration_since(Instant::now());
                tokio::time::sleep(pause.min(left)).await;
                pause = (pause * 2).min(LOOK_MAX);
            }
        }
    }

    /// Keeps what is held, and takes or gives up partitions so that every member of the group has its share.
    async fn keep(&self, bus: &RedisBus, held: &mut Held, now: bool) -> Result<(), BusError> {
        let lapsed: Vec<u32> =
            held.parts.iter().filter(|(_, part)| part.until <= Instant::now()).map(|(number, _)| *number).collect();
        for number in lapsed {
            self.drop_part(held, number);
        }
        let every = bus.options.lease / 3;
        if !now
            && held.kept.is_some_and(|at| at.elapsed() < every.min(Duration::from_secs(1)))
            && held.parts.values().all(|part| part.until > Instant::now() + every)
        {
            return Ok(());
        }
        let lease_ms = bus.options.lease.as_millis() as u64;
        let members = members_key(&self.stream, &self.group);
        let count: u32 = bus.redis.run(scripts::JOIN.key(&members).arg(&self.token).arg(lease_ms)).await?;
        let share = self.partitions.div_ceil(count.max(1)) as usize;
        self.give_up(bus, held, share).await?;
        // Each begins to look at another place, so that members do not all ask for the same.
        let first = crc32c::crc32c(self.token.as_bytes()) % self.partitions;
        for step in 0..self.partitions {
            let number = (first + step) % self.partitions;
            let staying = held.parts.values().filter(|part| !part.leaving).count();
            if !held.parts.contains_key(&number) && staying >= share {
                continue;
            }
            self.hold(bus, held, number).await?;
        }
        held.kept = Some(Instant::now());
        Ok(())
    }

    async fn hold(&self, bus: &RedisBus, held: &mut Held, number: u32) -> Result<(), BusError> {
        let key = bus.key(&self.stream, number);
        let lease = lease_key(&key, &self.group);
        // From before it was asked: it may lapse for us too early, and never too late.
        let until = Instant::now() + bus.options.lease;
        let lease_ms = bus.options.lease.as_millis() as u64;
        let got: u8 = bus.redis.run(scripts::LEASE.key(&lease).arg(&self.token).arg(lease_ms)).await?;
        match (got, held.parts.get_mut(&number)) {
            (0, Some(_)) => self.drop_part(held, number),
            (0, None) => {}
            (1, Some(part)) => part.until = until,
            // It is new, or it had lapsed or was flushed: somebody else may have had it in between.
            _ => {
                self.drop_part(held, number);
                bus.make_group(&key, &self.group).await?;
                held.parts.insert(number, Part { until, recovering: Some((0, 0)), waits: false, leaving: false });
            }
        }
        Ok(())
    }

    /// Gives up partitions beyond the share: those of which nothing is handed out at once, the others when that is so.
    async fn give_up(&self, bus: &RedisBus, held: &mut Held, share: usize) -> Result<(), BusError> {
        let mut excess = held.parts.len().saturating_sub(share);
        let mut free = Vec::new();
        for (number, part) in held.parts.iter_mut().rev() {
            part.leaving = excess > 0;
            if part.leaving {
                excess -= 1;
                let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
                if handed.get(number).is_none_or(BTreeSet::is_empty) {
                    free.push(*number);
                }
            }
        }
        for number in free {
            self.release(bus, number).await?;
            self.drop_part(held, number);
        }
        Ok(())
    }

    async fn release(&self, bus: &RedisBus, number: u32) -> Result<(), BusError> {
        let lease = lease_key(&bus.key(&self.stream, number), &self.group);
        let _: u64 = bus.redis.run(scripts::RELEASE.key(&lease).arg(&self.token)).await?;
        Ok(())
    }

    fn drop_part(&self, held: &mut Held, number: u32) {
        held.parts.remove(&number);
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Hands out again what was handed out in vain: after a partition was taken over all of it, and now and then what
    /// nobody acknowledged for too long.
    async fn recover(&self, bus: &RedisBus, held: &mut Held, max: usize) -> Result<Vec<Entry>, BusError> {
        let mut entries = Vec::new();
        let looks = held.looked.is_none_or(|at| at.elapsed() >= bus.options.look_every);
        let numbers: Vec<u32> = held.parts.keys().copied().collect();
        for number in numbers {
            let Some(part) = held.parts.get_mut(&number) else { continue };
            part.waits = part.waits && self.has_in_hand(number);
            while let Some(after) = part.recovering
                && entries.len() < max
                && !part.waits
            {
                let (found, next, waits) = self.claim(bus, number, after, Duration::ZERO, max - entries.len()).await?;
                entries.extend(found);
                (part.recovering, part.waits) = (next, waits);
            }
            if looks && part.recovering.is_none() && !part.waits && entries.len() < max {
                let visibility = bus.options.visibility;
                let (found, next, waits) = self.claim(bus, number, (0, 0), visibility, max - entries.len()).await?;
                entries.extend(found);
                // What is behind one that is alone is come back to.
                (part.recovering, part.waits) = (next.filter(|_| waits), waits);
            }
        }
        if looks {
            held.looked = Some(Instant::now());
            // What we were handed is in good hands, however long it takes.
            self.touch(bus).await?;
            bus.trim(&self.stream).await?;
        }
        Ok(entries)
    }

    /// Claims what is pending from `after` on and idle for long enough, but for what this member was handed itself.
    /// Answers it, where to go on, and whether only when nothing of the partition is in hand.
    async fn claim(
        &self,
        bus: &RedisBus,
        number: u32,
        after: Place,
        idle: Duration,
        max: usize,
    ) -> Result<(Vec<Entry>, Option<Place>, bool), BusError> {
        let key = bus.key(&self.stream, number);
        let idle_ms = idle.as_millis().to_string();
        let from = format!("{}-{}", after.0, after.1);
        let count = max.min(PENDING_AT_ONCE);
        let look = command(&["XPENDING", &key, &self.group, "IDLE", &idle_ms, &from, "+", &count.to_string()]);
        let pending: Vec<(String, String, u64, u32)> = match bus.redis.ask(look).await {
            Ok(pending) => pending,
            Err(trouble) if trouble.kind == Kind::NoGroup => {
                bus.make_group(&key, &self.group).await?;
                return Ok((Vec::new(), None, false));
            }
            Err(trouble) => return Err(trouble.into()),
        };
        let next = pending.last().filter(|_| pending.len() >= count).and_then(|(id, ..)| parse(id));
        let mut next = next.map(|(ms, seq)| (ms, seq + 1));
        let mine = {
            let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
            handed.get(&number).cloned().unwrap_or_default()
        };
        // In the order of the stream, as they are told.
        let others = pending.iter().filter_map(|(id, _, _, deliveries)| Some((id.as_str(), parse(id)?, *deliveries)));
        let mut wanted: BTreeMap<&str, u32> = BTreeMap::new();
        let (mut ids, mut waits) = (Vec::new(), false);
        for (id, place, before) in others.filter(|(_, place, _)| !mine.contains(place)) {
            let is_alone = before + 1 >= ALONE_FROM && before < bus.options.deliveries_max;
            if is_alone && (!ids.is_empty() || !mine.is_empty()) {
                (next, waits) = (Some(place), true);
                break;
            }
            wanted.insert(id, before);
            ids.push(id);
            if is_alone {
                (next, waits) = (Some((place.0, place.1 + 1)), true);
                break;
            }
        }
        if ids.is_empty() {
            return Ok((Vec::new(), next, waits));
        }
        let mut claim = command(&["XCLAIM", &key, &self.group, &self.consumer, &idle_ms]);
        claim.arg(&ids);
        let claimed: Vec<Option<(String, Option<Fields>)>> = bus.redis.ask(claim).await?;
        let mut entries = Vec::new();
        for (place, fields) in claimed.into_iter().flatten() {
            let Some(Fields(fields)) = fields else { continue };
            let before = wanted.get(place.as_str()).copied().unwrap_or(0);
            let entry = entry_of(number, &place, fields, before + 1);
            if before >= bus.options.deliveries_max {
                let reason = format!("handed out {before} times and never acknowledged");
                bus.bury(&self.stream, &self.group, &self.consumer, &entry, &reason).await?;
            } else {
                entries.push(entry);
            }
        }
        Ok((entries, next, waits))
    }

    /// Whether anything of a partition was handed out and is not acknowledged.
    fn has_in_hand(&self, number: u32) -> bool {
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.get(&number).is_some_and(|places| !places.is_empty())
    }

    /// Reads what nobody was handed yet.
    async fn read(&self, bus: &RedisBus, held: &mut Held, max: usize, wait: Duration) -> Result<Vec<Entry>, BusError> {
        let mut numbers: Vec<u32> =
            held.parts.iter().filter(|(_, part)| part.is_read()).map(|(number, _)| *number).collect();
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        // A limit counts for each partition by itself; with fewer than one for each, they take turns.
        held.turn = held.turn.wrapping_add(1);
        let by = held.turn as usize % numbers.len();
        numbers.rotate_left(by);
        numbers.truncate(max);
        let each = (max / numbers.len()).max(1);
        let entries = if bus.redis.is_cluster() {
            let mut entries = Vec::new();
            for number in numbers {
                entries.extend(self.read_some(bus, held, &[number], each, None).await?);
            }
            entries
        } else {
            self.read_some(bus, held, &numbers, each, Some(wait)).await?
        };
        Ok(entries)
    }

    async fn read_some(
        &self,
        bus: &RedisBus,
        held: &mut Held,
        numbers: &[u32],
        each: usize,
        wait: Option<Duration>,
    ) -> Result<Vec<Entry>, BusError> {
        let keys: Vec<String> = numbers.iter().map(|number| bus.key(&self.stream, *number)).collect();
        let mut cmd = command(&["XREADGROUP", "GROUP", &self.group, &self.consumer, "COUNT", &each.to_string()]);
        // 0 would wait for ever.
        let blocks = wait.filter(|wait| wait.as_millis() > 0);
        if let Some(wait) = blocks {
            cmd.arg("BLOCK").arg(wait.as_millis() as u64);
        }
        cmd.arg("STREAMS").arg(&keys);
        for _ in &keys {
            cmd.arg(">");
        }
        let outcome: Result<Option<Streams>, Trouble> = match blocks {
            None => bus.redis.ask(cmd).await,
            Some(wait) => self.wait_for(bus, held, cmd, wait).await,
        };
        let streams = match outcome {
            Ok(streams) => streams.unwrap_or_default(),
            Err(trouble) if trouble.kind == Kind::NoGroup => {
                // Redis was flushed, or somebody removed the group.
                for key in &keys {
                    bus.make_group(key, &self.group).await?;
                }
                return Ok(Vec::new());
            }
            Err(trouble) => return Err(trouble.into()),
        };
        let mut entries = Vec::new();
        for (key, found) in streams {
            let Some(at) = keys.iter().position(|known| *known == key) else { continue };
            entries.extend(found.into_iter().map(|(place, Fields(fields))| entry_of(numbers[at], &place, fields, 1)));
        }
        Ok(entries)
    }

    /// On a connection of its own, because one that waits answers nobody else.
    async fn wait_for<T: redis::FromRedisValue>(
        &self,
        bus: &RedisBus,
        held: &mut Held,
        cmd: redis::Cmd,
        wait: Duration,
    ) -> Result<T, Trouble> {
        let mut conn = match held.conn.take() {
            Some(conn) => conn,
            None => match bus.redis.waiting().await? {
                Some(conn) => conn,
                None => return bus.redis.ask(cmd).await,
            },
        };
        let longest = wait + Duration::from_secs(2);
        let outcome = match tokio::time::timeout(longest, cmd.query_async(&mut conn)).await {
            Ok(outcome) => outcome.map_err(Trouble::from),
            Err(_) => Err(Trouble::silent(longest.as_millis())),
        };
        bus.redis.note(&outcome);
        if outcome.as_ref().err().is_none_or(|trouble| !trouble.breaks_connection()) {
            held.conn = Some(conn);
        }
        outcome
    }

    /// Says that what was handed out is still worked on: it is not handed out again for a while, and that does not count
    /// as another time.
    async fn touch(&self, bus: &RedisBus) -> Result<(), BusError> {
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let claim = |(number, places): (&u32, &BTreeSet<Place>)| {
            let mut cmd = command(&["XCLAIM", &bus.key(&self.stream, *number), &self.group, &self.consumer, "0"]);
            cmd.arg(places.iter().map(|(ms, seq)| format!("{ms}-{seq}")).collect::<Vec<_>>()).arg("JUSTID");
            cmd
        };
        let claims = handed.iter().filter(|(_, places)| !places.is_empty()).map(claim).collect();
        match bus.redis.ask_all(claims).await {
            Ok(()) => Ok(()),
            Err(trouble) if trouble.kind == Kind::NoGroup => Ok(()),
            Err(trouble) => Err(trouble.into()),
        }
    }

    fn remember(&self, entries: &[Entry]) {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            if let Some((number, place)) = entry.entry.0.split_once('/')
                && let (Ok(number), Some(place)) = (number.parse(), parse(place))
            {
                handed.entry(number).or_default().insert(place);
            }
        }
    }

    pub(super) fn forget(&self, acknowledged: &BTreeMap<u32, Vec<&str>>) {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, places) in acknowledged {
            if let Some(known) = handed.get_mut(number) {
                for place in places.iter().filter_map(|place| parse(place)) {
                    known.remove(&place);
                }
            }
        }
    }

    /// Gives everything to the others.
    pub(super) async fn leave(&self, bus: &RedisBus) -> Result<(), BusError> {
        let held = &mut *self.held.lock().await;
        let numbers: Vec<u32> = held.parts.keys().copied().collect();
        let mut cmd = redis::cmd("ZREM");
        cmd.arg(members_key(&self.stream, &self.group)).arg(&self.token);
        let left = bus.redis.ask::<u64>(cmd).await.map(drop).map_err(BusError::from);
        for number in numbers {
            self.release(bus, number).await?;
            self.drop_part(held, number);
        }
        left
    }
}

/// What a read answers: by stream, entries with their places.
type Streams = Vec<(String, Vec<(String, Fields)>)>;

/// The fields of an entry, one after another.
struct Fields(Vec<(Vec<u8>, Vec<u8>)>);

impl redis::FromRedisValue for Fields {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        Vec::<(Vec<u8>, Vec<u8>)>::from_redis_value(value).map(Fields)
    }
}
