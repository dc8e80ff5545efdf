//! The connection to Redis: made when it is first needed, made again when it breaks, with a growing pause between tries.
//! What is wrong is said once, when it begins, and once more when it is over; in between everybody asks [`Redis::health`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, RedisFuture, RedisResult, ScriptInvocation,
    TlsCertificates, Value,
};
use tokio::sync::watch;
use tokio::time::error::Elapsed;

use crate::trouble::{Kind, Trouble};

/// The first pause after a failed try to connect.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The shortest pause before a cluster is asked again, in milliseconds.
const RETRY_WAIT_MIN: u64 = 5;

/// Where Redis is and how it is spoken to.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://` or `rediss://`, with user and password if it wants them. Never shown.
    pub url: String,
    /// Whether it is a cluster; then any of its nodes leads to the others.
    pub cluster: bool,
    /// Further nodes of the cluster to ask when the first is away.
    pub nodes: Vec<String>,
    /// Certificates of its authority in PEM, if not one the system trusts.
    pub ca: Option<Vec<u8>>,
    /// How long an answer or a connection is waited for.
    pub timeout: Duration,
}

impl RedisOptions {
    /// A Redis at an address, waited for two seconds.
    pub fn new(url: impl Into<String>) -> Self {
        RedisOptions { url: url.into(), cluster: false, nodes: Vec::new(), ca: None, timeout: Duration::from_secs(2) }
    }
}

impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("cluster", &self.cluster)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Settings that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("redis.url is not usable ({why}): write redis://HOST:PORT, or rediss://USER:PASSWORD@HOST:PORT for TLS")]
pub struct BadOptions {
    why: String,
}

/// How Redis stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It was not asked yet.
    Unknown,
    /// It answers.
    Well,
    /// Something is wrong with it. What depends on it waits; the rest goes on.
    Ill(Trouble),
}

/// A Redis. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    timeout: Duration,
    place: Mutex<Place>,
    well: AtomicBool,
    health: Mutex<Health>,
}

enum Target {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
}

#[derive(Default)]
struct Place {
    conn: Option<(u64, Conn)>,
    made: u64,
    failures: u32,
    not_before: Option<Instant>,
    last: Option<Trouble>,
    /// One that is being made, and who waits for it.
    making: Option<watch::Receiver<Option<Made>>>,
}

/// A connection with its number, or why there is none.
type Made = Result<(u64, Conn), Trouble>;

/// A connection, whichever way it was made.
#[derive(Clone)]
pub(crate) enum Conn {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Conn {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Conn::One(conn) => conn.req_packed_command(cmd),
            Conn::Cluster(conn) => conn.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Conn::One(conn) => conn.req_packed_commands(pipeline, offset, count),
            Conn::Cluster(conn) => conn.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Conn::One(conn) => conn.get_db(),
            Conn::Cluster(conn) => conn.get_db(),
        }
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Redis {
    /// Checks the settings. Connects later, when something is asked.
    ///
    /// # Errors
    /// [`BadOptions`], without the address in it: it may have a password.
    pub fn new(options: &RedisOptions) -> Result<Redis, BadOptions> {
        let bad = |why: &str| BadOptions { why: why.to_owned() };
        if options.url.contains("#insecure") {
            return Err(bad("#insecure would trust anybody: name the authority in redis.ca"));
        }
        let certs = TlsCertificates { client_tls: None, root_cert: options.ca.clone() };
        let info = options.url.as_str().into_connection_info().map_err(|error| bad(error.category()))?;
        let target = if options.cluster {
            let mut nodes = vec![info];
            for node in &options.nodes {
                nodes.push(node.as_str().into_connection_info().map_err(|error| bad(error.category()))?);
            }
            let mut builder = ClusterClientBuilder::new(nodes)
                .connection_timeout(options.timeout)
                .response_timeout(options.timeout)
                .retries(3)
                // All of them before the answer is due: what is wrong is then said, and not only that time ran out.
                .min_retry_wait(RETRY_WAIT_MIN)
                .max_retry_wait((options.timeout.as_millis() as u64 / 8).max(RETRY_WAIT_MIN));
            if options.ca.is_some() {
                builder = builder.certs(certs);
            }
            Target::Cluster(Box::new(builder.build().map_err(|error| bad(error.category()))?))
        } else if options.ca.is_some() {
            let client = Client::build_with_tls(info, certs);
            Target::One(Box::new(client.map_err(|_| bad("its authority in redis.ca is no certificate in PEM"))?))
        } else {
            Target::One(Box::new(Client::open(info).map_err(|error| bad(error.category()))?))
        };
        let inner = Inner {
            target,
            timeout: options.timeout,
            place: Mutex::default(),
            well: AtomicBool::new(false),
            health: Mutex::new(Health::Unknown),
        };
        Ok(Redis { inner: Arc::new(inner) })
    }

    /// How it stands, as far as was seen.
    pub fn health(&self) -> Health {
        self.inner.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it whether it answers.
    ///
    /// # Errors
    /// [`Trouble`] says what is wrong and what to do.
    pub async fn ping(&self) -> Result<(), Trouble> {
        self.ask(redis::cmd("PING")).await
    }

    /// How many connections were made so far. Another number than before means that Redis may have been started anew.
    pub(crate) fn connections(&self) -> u64 {
        self.place().made
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.inner.target, Target::Cluster(_))
    }

    /// Has one command carried out.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, cmd: Cmd) -> Result<T, Trouble> {
        let (number, mut conn) = self.connection().await?;
        let outcome = tokio::time::timeout(self.inner.timeout * 2, cmd.query_async(&mut conn)).await;
        self.after(number, outcome).await
    }

    /// Has several commands carried out, each on one key: in one go where one server has all keys. What they answer is of
    /// no interest.
    pub(crate) async fn ask_all(&self, commands: Vec<Cmd>) -> Result<(), Trouble> {
        if self.is_cluster() {
            // In one go they would all go to one node.
            let asked = commands.into_iter().map(|cmd| self.ask::<Value>(cmd));
            return futures_util::future::try_join_all(asked).await.map(drop);
        }
        if commands.is_empty() {
            return Ok(());
        }
        let mut pipe = Pipeline::with_capacity(commands.len());
        for cmd in commands {
            pipe.add_command(cmd).ignore();
        }
        let (number, mut conn) = self.connection().await?;
        let outcome = tokio::time::timeout(self.inner.timeout * 2, pipe.query_async(&mut conn)).await;
        self.after(number, outcome).await
    }

    /// Has a script carried out.
    pub(crate) async fn run<T: redis::FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Trouble> {
        let (number, mut conn) = self.connection().await?;
        let outcome = tokio::time::timeout(self.inner.timeout * 2, script.invoke_async(&mut conn)).await;
        self.after(number, outcome).await
    }

    /// What is seen in an outcome; a connection that is of no use any more is dropped.
    async fn after<T>(&self, number: u64, outcome: Result<RedisResult<T>, Elapsed>) -> Result<T, Trouble> {
        let outcome = match outcome {
            Ok(outcome) => outcome.map_err(Trouble::from),
            Err(_) => Err(Trouble::silent(self.inner.timeout.as_millis() * 2)),
        };
        if let Err(trouble) = &outcome
            && trouble.breaks_connection()
        {
            let mut place = self.place();
            // Another call may have made a new one meanwhile.
            if place.conn.as_ref().is_some_and(|(of, _)| *of == number) {
                place.conn = None;
            }
        }
        self.note(&outcome);
        outcome
    }

    /// A connection for a call that waits, and so can't share one. `None` for a cluster, where nothing is waited for.
    pub(crate) async fn waiting(&self) -> Result<Option<MultiplexedConnection>, Trouble> {
        let Target::One(client) = &self.inner.target else { return Ok(None) };
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(self.inner.timeout)).set_response_timeout(None);
        let made = client.get_multiplexed_async_connection_with_config(&config).await.map_err(Trouble::from);
        self.note(&made);
        made.map(Some)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.inner.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, made if there is none. It is made by a task of its own and never by a caller: one that is not
    /// polled for a while (it waits beside something else) must not hold up the others.
    async fn connection(&self) -> Made {
        let mut making = {
            let mut place = self.place();
            if let Some((number, conn)) = &place.conn {
                return Ok((*number, conn.clone()));
            }
            if let (Some(not_before), Some(last)) = (place.not_before, &place.last)
                && Instant::now() < not_before
            {
                return Err(last.clone());
            }
            match &place.making {
                // Its task is gone with its runtime if nobody sends any more.
                Some(making) if making.has_changed().is_ok() || making.borrow().is_some() => making.clone(),
                _ => {
                    let (made, making) = watch::channel(None);
                    place.making = Some(making.clone());
                    let redis = self.clone();
                    tokio::spawn(async move {
                        let _ = made.send(Some(redis.make().await));
                    });
                    making
                }
            }
        };
        match making.wait_for(Option::is_some).await {
            Ok(made) => made.clone().unwrap_or_else(|| Err(Trouble::ending())),
            Err(_) => Err(Trouble::ending()),
        }
    }

    async fn make(&self) -> Made {
        let made = self.connect().await;
        let mut place = self.place();
        place.making = None;
        match made {
            Ok(conn) => {
                let number = place.made + 1;
                *place = Place { conn: Some((number, conn.clone())), made: number, ..Place::default() };
                Ok((number, conn))
            }
            Err(trouble) => {
                place.failures = place.failures.saturating_add(1);
                place.not_before = Some(Instant::now() + pause(place.failures, chance()));
                place.last = Some(trouble.clone());
                drop(place);
                self.note::<()>(&Err(trouble.clone()));
                Err(trouble)
            }
        }
    }

    async fn connect(&self) -> Result<Conn, Trouble> {
        let timeout = self.inner.timeout;
        let made = async {
            match &self.inner.target {
                Target::One(client) => {
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(Some(timeout))
                        .set_response_timeout(Some(timeout));
                    client.get_multiplexed_async_connection_with_config(&config).await.map(Conn::One)
                }
                Target::Cluster(client) => client.get_async_connection().await.map(Conn::Cluster),
            }
        };
        match tokio::time::timeout(timeout * 2, made).await {
            Ok(made) => made.map_err(Trouble::from),
            Err(_) => Err(Trouble::silent(timeout.as_millis() * 2)),
        }
    }

    /// Remembers what was seen, and says so if it is something new.
    pub(crate) fn note<T>(&self, outcome: &Result<T, Trouble>) {
        match outcome {
            Err(trouble) if trouble.is_of_server() => {
                self.inner.well.store(false, Ordering::Release);
                let mut health = self.inner.health.lock().unwrap_or_else(PoisonError::into_inner);
                let known = matches!(&*health, Health::Ill(before) if before.kind == trouble.kind
                    // A server that stops answering is soon one that can't be reached: that is no news.
                    || (is_away(before.kind) && is_away(trouble.kind)));
                if !known {
                    tracing::warn!("{trouble}; what needs it waits, everything else goes on");
                    *health = Health::Ill(trouble.clone());
                }
            }
            Ok(_) | Err(_) => {
                if self.inner.well.swap(true, Ordering::AcqRel) {
                    return;
                }
                let mut health = self.inner.health.lock().unwrap_or_else(PoisonError::into_inner);
                if matches!(&*health, Health::Ill(_)) {
                    tracing::info!("Redis answers again");
                }
                *health = Health::Well;
            }
        }
    }
}

fn is_away(kind: Kind) -> bool {
    matches!(kind, Kind::Unreachable | Kind::Silent)
}

/// The pause after so many failures in a row: doubled each time, and half of it by chance, so that many do not come at
/// once.
fn pause(failures: u32, chance: u8) -> Duration {
    let full = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX);
    full / 2 + full / 2 * u32::from(chance) / 255
}

fn chance() -> u8 {
    let mut byte = [0];
    // Without randomness everybody waits the same: no reason to fail.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        assert_eq!(pause(1, 255), PAUSE_MIN);
        assert_eq!(pause(1, 0), PAUSE_MIN / 2);
        assert_eq!(pause(3, 255), PAUSE_MIN * 4);
        assert_eq!(pause(1_000, 255), PAUSE_MAX);
    }

    #[test]
    fn settings_never_show_the_password() {
        let options = RedisOptions::new("redis://user:hunter2@localhost:6379");
        assert!(!format!("{options:?}").contains("hunter2"));
        let bad = Redis::new(&RedisOptions::new("http://user:hunter2@localhost")).expect_err("no address of a Redis");
        assert!(!bad.to_string().contains("hunter2"), "{bad}");
    }

    #[test]
    fn trusting_anybody_is_refused() {
        let bad = Redis::new(&RedisOptions::new("rediss://localhost:6379/#insecure")).expect_err("refused");
        assert!(bad.to_string().contains("redis.ca"), "{bad}");
    }
}
