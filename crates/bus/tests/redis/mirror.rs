//! Published configurations in Redis: what readers outside find there at every moment, whatever is killed, and that it comes
//! back by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use mainspring_bus::{MirrorOptions, Redis, RedisMirror, RedisOptions};
use mainspring_client::{Client, RunningWorker, TenantId, Worker};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};
use mainspring_flows::publish::bundle::digest_of;
use mainspring_flows::publish::{
    self, Action, Asked, Configs, Job, Mirror, MirrorBundle, MirrorError, MirrorPointer, SCOPE, Shared, Status,
    UPDATED_EVENT, Updated,
};
use redis::Value as Answer;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::server::RedisServer;

const TENANT: TenantId = TenantId(0xa);
const PATIENCE: Duration = Duration::from_secs(120);
const KINDS: [&str; 5] = ["rules", "scenarios", "templates", "tools", "variables"];

/// A configuration that says `mark`.
fn kind(kind: &str, mark: &str) -> Value {
    match kind {
        "rules" => json!([{ "id": "polite", "when": mark }]),
        "scenarios" => json!([{ "id": "order", "steps": [{ "id": "ask", "template": "hello" }] }]),
        "templates" => json!([{ "id": "hello", "text": "Hello {{name}}", "mark": mark }]),
        "tools" => json!([{ "id": "refund", "policy": "irreversible" }]),
        _ => json!([{ "id": "name", "mark": mark }]),
    }
}

/// The mirror, with a call at which it stops for ever, before or after it was carried out: that is where the process is
/// killed then.
struct Stops {
    inner: RedisMirror,
    calls: AtomicU32,
    at: u32,
    after: bool,
    reached: AtomicBool,
}

impl Stops {
    fn pass<'a>(&'a self, call: BoxFuture<'a, Result<(), MirrorError>>) -> BoxFuture<'a, Result<(), MirrorError>> {
        Box::pin(async move {
            let here = self.calls.fetch_add(1, Ordering::SeqCst) + 1 == self.at;
            if here && !self.after {
                self.reached.store(true, Ordering::SeqCst);
                return std::future::pending().await;
            }
            let outcome = call.await;
            if here {
                self.reached.store(true, Ordering::SeqCst);
                return std::future::pending().await;
            }
            outcome
        })
    }
}

impl Mirror for Stops {
    fn catches_up(&self) -> bool {
        self.inner.catches_up()
    }

    fn put<'a>(&'a self, bundle: &'a MirrorBundle) -> BoxFuture<'a, Result<(), MirrorError>> {
        self.pass(self.inner.put(bundle))
    }

    fn point<'a>(&'a self, pointer: &'a MirrorPointer) -> BoxFuture<'a, Result<(), MirrorError>> {
        self.pass(self.inner.point(pointer))
    }

    fn notify<'a>(&'a self, updated: &'a Updated) -> BoxFuture<'a, Result<(), MirrorError>> {
        self.pass(self.inner.notify(updated))
    }

    fn forget<'a>(
        &'a self,
        tenant: TenantId,
        agent: &'a str,
        version: u64,
        kinds: &'a [String],
    ) -> BoxFuture<'a, Result<(), MirrorError>> {
        self.inner.forget(tenant, agent, version, kinds)
    }
}

/// A process that publishes.
struct House {
    configs: Configs,
    mirror: RedisMirror,
    stops: Arc<Stops>,
    runtime: Option<Runtime>,
    engine: Engine,
    _stop: watch::Sender<bool>,
    _worker: RunningWorker,
}

fn quick() -> MirrorOptions {
    MirrorOptions {
        look_every: Duration::from_millis(50),
        look_at_all_every: Duration::from_millis(300),
        ..MirrorOptions::default()
    }
}

impl House {
    fn open(dir: &Path, redis: Redis) -> House {
        House::open_with(dir, redis, quick(), 0, false, true)
    }

    fn open_with(dir: &Path, redis: Redis, options: MirrorOptions, at: u32, after: bool, keeps: bool) -> House {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let engine = Engine::open(&EngineOptions::new(dir)).unwrap();
        let client = Client::new(engine.clone(), TENANT);
        let mirror = RedisMirror::new(redis, [("acme".to_owned(), client.clone())], options).unwrap();
        let stops =
            Stops { inner: mirror.clone(), calls: AtomicU32::new(0), at, after, reached: AtomicBool::new(false) };
        let stops = Arc::new(stops);
        let configs = Configs::new(client.clone(), Shared { mirror: Some(stops.clone()), ..Shared::default() });
        let (stop, stopping) = watch::channel(false);
        let worker = runtime.block_on(async {
            engine.submit(TENANT, Command::PutTenant { name: "acme".to_owned() }).await.unwrap();
            if keeps {
                tokio::spawn(mirror.clone().keep(stopping));
            }
            publish::offer(Worker::new(client, "flows"), &configs).start().await.unwrap()
        });
        House { configs, mirror, stops, runtime: Some(runtime), engine, _stop: stop, _worker: worker }
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    fn put_draft(&self, mark: &str) {
        self.run(async {
            let texts = KINDS.iter().map(|name| ((*name).to_owned(), kind(name, mark).to_string().into()));
            self.configs.put_draft("orders", texts.collect(), true, None, "test").await.unwrap();
        });
    }

    fn ask(&self, action: Action, key: &str) -> String {
        let asked = Asked {
            action,
            description: None,
            force: false,
            by: "test".to_owned(),
            idempotency_key: Some(key.to_owned()),
            draft_version: None,
        };
        self.run(self.configs.request("orders", &asked)).unwrap().0.id
    }

    /// A job, once it is over.
    fn over(&self, id: &str) -> Job {
        self.run(async {
            loop {
                let (_, job) = self.configs.job(id).await.unwrap();
                if job.status.over() {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    fn publish(&self, mark: &str) -> Job {
        self.put_draft(mark);
        let job = self.over(&self.ask(Action::Publish { canary: None }, mark));
        assert_eq!(job.status, Status::Completed, "{:?}", job.error);
        job
    }

    /// Waits until something holds, far longer than it should take.
    #[track_caller]
    fn until(&self, mut holds: impl FnMut() -> bool) {
        let (begun, caller) = (Instant::now(), std::panic::Location::caller());
        self.run(async {
            while !holds() {
                assert!(begun.elapsed() < PATIENCE, "what is waited for at {caller} does not come about");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// The epochs of which the log has told.
    fn told(&self) -> Vec<u64> {
        self.run(async {
            // Listings may lag.
            self.engine.wait_applied(TENANT, self.engine.durable_position(TENANT), Duration::from_secs(60)).await;
            let events = self.configs.client().events_before(Some(SCOPE), u64::MAX, 1_000).await.unwrap();
            let told = events.iter().rev().filter(|(_, event)| event.name == UPDATED_EVENT);
            told.map(|(_, event)| serde_json::from_slice::<Updated>(&event.data).unwrap().epoch).collect()
        })
    }

    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
        self.engine.shut_down();
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            self.engine.shut_down();
        }
    }
}

/// What a reader finds: the version the pointer names, and what the rules of it say. Everything of the version is there
/// and is what its digest says, or it panics.
fn read(server: &RedisServer) -> Option<(u64, String)> {
    let version: u64 = server.ask::<Option<String>>(&["GET", "acme:orders:cfg"])?.parse().unwrap();
    let key = format!("acme:orders:v{version}");
    let about: BTreeMap<String, String> = server.ask(&["HGETALL", &key]);
    assert_eq!(about.keys().collect::<Vec<_>>(), KINDS, "version {version} is whole");
    let mut mark = String::new();
    for (kind, about) in &about {
        let about: Value = serde_json::from_str(about).unwrap();
        let content: Option<Vec<u8>> = server.ask(&["GET", &format!("{key}:{kind}")]);
        let content = content.unwrap_or_else(|| panic!("{kind} of version {version} is there"));
        assert_eq!((&about["encoding"], about["bytes"].as_u64()), (&json!("identity"), Some(content.len() as u64)));
        assert_eq!(about["digest"], digest_of(&content), "{kind} of version {version}");
        if kind == "rules" {
            let content: Value = serde_json::from_slice(&content).unwrap();
            mark = content["items"][0]["when"].as_str().unwrap().to_owned();
        }
    }
    Some((version, mark))
}

fn two() -> Option<(u64, String)> {
    Some((2, "two".to_owned()))
}

/// Someone who listens, as programs in other languages do. What they hear comes by the receiver.
fn listen(server: &RedisServer) -> mpsc::Receiver<Value> {
    let mut conn = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let (heard, hears) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        let mut subscribed = conn.as_pubsub();
        subscribed.subscribe("cfg-updated").unwrap();
        ready.send(()).unwrap();
        while let Ok(message) = subscribed.get_message() {
            let text: String = message.get_payload().unwrap();
            if heard.send(serde_json::from_str(&text).unwrap()).is_err() {
                return;
            }
        }
    });
    is_ready.recv().unwrap();
    hears
}

#[test]
fn what_is_published_is_there_and_readers_are_told() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let hears = listen(&server);
    let house = House::open_with(dir.path(), server.redis(), quick(), 0, false, false);
    assert_eq!(read(&server), None);
    house.publish("one");
    assert_eq!(read(&server), Some((1, "one".to_owned())));
    let told = hears.recv().unwrap();
    assert_eq!((&told["tenant_id"], &told["agent_id"]), (&json!("acme"), &json!("orders")));
    assert_eq!((&told["version"], &told["epoch"], &told["action"]), (&json!(1), &json!(1), &json!("publish")));
    house.publish("two");
    assert_eq!((read(&server), hears.recv().unwrap()["version"].as_u64()), (two(), Some(2)));
    let back = Action::Rollback { target_version: 1, keep_pinned: false };
    assert_eq!(house.over(&house.ask(back, "back")).status, Status::Completed);
    assert_eq!(read(&server), Some((1, "one".to_owned())));
    let told = hears.recv().unwrap();
    assert_eq!((&told["version"], &told["epoch"], &told["action"]), (&json!(1), &json!(3), &json!("rollback")));
    // Every key is the tenant's and ends some day.
    let keys: Vec<String> = server.ask(&["KEYS", "*"]);
    assert_eq!(keys.len(), 2 + 2 * (1 + KINDS.len()), "{keys:?}");
    for key in keys {
        assert!(key.starts_with("acme:orders:") || key == "{acme:orders:cfg}:epoch", "{key}");
        let ttl: i64 = server.ask(&["PTTL", &key]);
        assert!(ttl > 29 * 24 * 60 * 60 * 1_000, "{key}: {ttl}");
    }
}

/// What the documentation lets our user do is enough.
#[test]
fn a_user_who_may_do_what_is_documented_is_enough() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let page = include_str!("../../../../docs/redis.md");
    let begins = page.find("ACL SETUSER mainspring").unwrap();
    let (for_streams, rest) = page[begins..].split_once('`').unwrap();
    let for_configurations = rest.split('`').nth(1).unwrap();
    let words = format!("{for_streams} {for_configurations}");
    let _: Answer = server.ask(&words.split(' ').collect::<Vec<_>>());
    let redis =
        Redis::new(&RedisOptions::new(format!("redis://mainspring:PASSWORD@127.0.0.1:{}", server.port))).unwrap();
    let house = House::open(dir.path(), redis);
    house.publish("one");
    house.publish("two");
    house.until(|| read_or_not(&server) == two() && house.mirror.is_whole());
    // Something more of a version, which is removed, and a version that is given up.
    let _: Answer = server.ask(&["HSET", "acme:orders:v2", "more", "{}"]);
    house.until(|| read_or_not(&server) == two());
    let kinds: Vec<String> = KINDS.iter().map(|kind| (*kind).to_owned()).collect();
    house.run(house.mirror.forget(TENANT, "orders", 1, &kinds)).unwrap();
}

/// H-57: whoever comes late with an older pointer changes nothing.
#[test]
fn a_late_writer_never_moves_the_pointer_back() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open_with(dir.path(), server.redis(), quick(), 0, false, false);
    house.publish("one");
    house.publish("two");
    let late = MirrorPointer { tenant: TENANT, agent: "orders".to_owned(), version: 1, epoch: 1 };
    assert!(!house.run(house.mirror.swap(&late)).unwrap());
    assert_eq!(read(&server), two());
    house.run(house.mirror.point(&late)).unwrap();
    assert_eq!(read(&server), two());
    assert!(house.run(house.mirror.swap(&MirrorPointer { version: 2, epoch: 2, ..late })).unwrap(), "a repeat");
    // A lost pointer whose epoch is still there is not made of an older one either.
    let _: Answer = server.ask(&["DEL", "acme:orders:cfg"]);
    let late = MirrorPointer { tenant: TENANT, agent: "orders".to_owned(), version: 1, epoch: 1 };
    assert!(!house.run(house.mirror.swap(&late)).unwrap());
    assert_eq!(read(&server), None);
}

/// H-54, H-55: a process that is killed before and after each word it has with Redis. What the pointer in Redis names is
/// whole each time, and in the end it is what the log says, once.
#[test]
fn killed_at_every_stage_redis_names_something_whole_and_ends_where_the_log_is() {
    // Five bundles, the pointer, and the word that it moved.
    for at in 1..=7 {
        for after in [false, true] {
            let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
            let house = House::open_with(dir.path(), server.redis(), quick(), 0, false, false);
            house.publish("one");
            house.kill();
            let house = House::open_with(dir.path(), server.redis(), quick(), at, after, false);
            house.put_draft("two");
            let id = house.ask(Action::Publish { canary: None }, "two");
            house.until(|| house.stops.reached.load(Ordering::SeqCst));
            let (_, register) = house.run(house.configs.register("orders")).unwrap();
            let swapped = at > 5;
            assert_eq!(
                register.current(),
                Some(if swapped { 2 } else { 1 }),
                "call {at}: the swap is after the bundles"
            );
            house.kill();
            let pointed = at > 6 || (at == 6 && after);
            let expected = if pointed { two() } else { Some((1, "one".to_owned())) };
            assert_eq!(read(&server), expected, "killed at call {at}, after it: {after}");
            let hears = listen(&server);
            let house = House::open_with(dir.path(), server.redis(), quick(), 0, false, false);
            let job = house.over(&id);
            assert_eq!((job.status, job.epoch), (Status::Completed, Some(2)), "call {at}: {:?}", job.error);
            assert_eq!(read(&server), two(), "call {at}");
            assert_eq!(house.told(), [1, 2], "call {at}: it moved once");
            assert_eq!(hears.recv().unwrap()["epoch"], 2, "told after the restart, also if it was told before");
        }
    }
}

/// H-77 for configurations: publishing goes on without Redis, and Redis has it when it is back, without anybody's doing.
#[test]
fn without_redis_publishing_goes_on_and_redis_catches_up() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.publish("one");
    server.kill();
    let job = house.publish("two");
    let note = |name: &str| {
        let stage = job.stages.iter().find(|stage| stage.name.word() == name);
        stage.and_then(|stage| stage.note.clone()).unwrap()
    };
    for (stage, says) in [
        ("write_bundles", "5 bundles are whole; the mirror fetches them when it can: Redis can't be reached"),
        ("invalidate_cache", "the mirror fetches the pointer when it can: Redis can't be reached"),
        ("notify", "the mirror tells it when it can: Redis can't be reached"),
    ] {
        assert!(note(stage).contains(says), "{stage}: {}", note(stage));
    }
    assert!(house.mirror.behind().is_some_and(|why| why.contains("can't be reached")));
    server.run();
    house.until(|| read(&server) == two());
    house.until(|| house.mirror.is_whole());
    // The version before is there as well: a session elsewhere may be pinned to it.
    assert_eq!(server.ask::<u64>(&["EXISTS", "acme:orders:v1:rules"]), 1);
}

/// A process that begins without Redis, with something published by the one before.
#[test]
fn a_process_that_starts_before_redis_brings_it_everything() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.publish("one");
    house.publish("two");
    house.kill();
    server.kill();
    let house = House::open(dir.path(), server.redis());
    house.until(|| house.mirror.behind().is_some_and(|why| why.contains("can't be reached")));
    server.run();
    house.until(|| read(&server) == two());
}

/// H-59 for readers of Redis, and more: what is flushed, evicted, cut or changed there is put right, and those who listen
/// are told.
#[test]
fn what_is_lost_or_wrong_in_redis_is_put_right_by_itself() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.publish("one");
    house.publish("two");
    let hears = listen(&server);
    server.flush();
    house.until(|| read_or_not(&server) == two());
    let told = hears.recv().unwrap();
    assert_eq!((&told["version"], &told["action"]), (&json!(2), &json!("caught_up")));
    for words in [
        &["DEL", "acme:orders:v2:rules"][..],
        &["DEL", "acme:orders:v2"],
        &["APPEND", "acme:orders:v2:tools", "x"],
        &["HSET", "acme:orders:v2", "rules", "{}"],
        &["HSET", "acme:orders:v2", "more", "{}"],
        &["SET", "acme:orders:cfg", "1"],
        &["DEL", "acme:orders:cfg"],
        &["DEL", "{acme:orders:cfg}:epoch"],
        // Of another log: this one decides, also where its epoch is lower.
        &["MSET", "acme:orders:cfg", "9", "{acme:orders:cfg}:epoch", "77"],
    ] {
        let _: Answer = server.ask(words);
        house.until(|| read_or_not(&server) == two() && epoch(&server).as_deref() == Some("2"));
    }
    // What is not current is looked at as well.
    let _: Answer = server.ask(&["DEL", "acme:orders:v1:rules"]);
    house.until(|| server.ask::<u64>(&["EXISTS", "acme:orders:v1:rules"]) == 1);
    // A key of another kind is in the way until somebody removes it, and it is said which kind of trouble that is.
    let _: Answer = server.ask(&["DEL", "acme:orders:v2"]);
    let _: Answer = server.ask(&["SET", "acme:orders:v2", "mine"]);
    house.until(|| house.mirror.behind().is_some_and(|why| why.contains("of another kind")));
    let _: Answer = server.ask(&["DEL", "acme:orders:v2"]);
    house.until(|| read_or_not(&server) == two() && house.mirror.is_whole());
}

fn epoch(server: &RedisServer) -> Option<String> {
    server.ask(&["GET", "{acme:orders:cfg}:epoch"])
}

/// What a reader finds while somebody tampers: nothing, unless it is whole.
fn read_or_not(server: &RedisServer) -> Option<(u64, String)> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(server))).ok().flatten()
}

/// A Redis that takes no more: publishing goes on, and once there is room Redis has it.
#[test]
fn a_full_redis_holds_nobody_up() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.publish("one");
    let _: Answer = server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    house.publish("two");
    assert_eq!(read(&server), Some((1, "one".to_owned())));
    house.until(|| house.mirror.behind().is_some_and(|why| why.contains("out of memory")));
    let _: Answer = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    house.until(|| read_or_not(&server) == two());
}

/// A version that was given up goes from Redis too, and never before Redis' pointer has left it.
#[test]
fn what_is_given_up_goes_and_never_under_the_pointer() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    // Nobody keeps it: Redis stays behind until something is asked of it.
    let house = House::open_with(dir.path(), server.redis(), quick(), 0, false, false);
    house.publish("one");
    server.signal("-STOP");
    house.publish("two");
    server.signal("-CONT");
    assert_eq!(read(&server), Some((1, "one".to_owned())));
    let kinds: Vec<String> = KINDS.iter().map(|kind| (*kind).to_owned()).collect();
    // What a Redis is asked that was just frozen may still fail.
    while house.run(house.mirror.forget(TENANT, "orders", 1, &kinds)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(read(&server), two());
    let left: Vec<String> = server.ask(&["KEYS", "acme:orders:v1*"]);
    assert_eq!(left, Vec::<String>::new());
}

/// One command makes it anew, also where a look would see nothing wrong.
#[test]
fn it_is_rebuilt_at_a_word_and_compressed_where_that_is_wished() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let options = MirrorOptions { compress: true, ..quick() };
    let house = House::open_with(dir.path(), server.redis(), options, 0, false, false);
    house.publish("one");
    house.publish("two");
    let before: Vec<u8> = server.ask(&["GET", "acme:orders:v2:rules"]);
    assert_eq!(before[..2], [0x1f, 0x8b]);
    let about: Value = serde_json::from_str(&server.ask::<String>(&["HGET", "acme:orders:v2", "rules"])).unwrap();
    assert_eq!((&about["encoding"], about["stored"].as_u64()), (&json!("gzip"), Some(before.len() as u64)));
    let _: Answer = server.ask(&["SET", "acme:orders:v2:rules", &"x".repeat(before.len())]);
    let _: Answer = server.ask(&["SET", "acme:orders:cfg", "1"]);
    assert_eq!(house.run(house.configs.rebuild_mirror()).unwrap(), Some((10, 1)));
    assert_eq!(server.ask::<Vec<u8>>(&["GET", "acme:orders:v2:rules"]), before);
    assert_eq!(server.ask::<String>(&["GET", "acme:orders:cfg"]), "2");
}

/// H-62: no tenant's keys can be read as another's.
#[test]
fn a_tenant_whose_keys_would_be_anothers_is_refused() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let engine = Engine::open(&EngineOptions::new(dir.path())).unwrap();
    for name in ["", "acme:orders", "{acme}"] {
        let client = Client::new(engine.clone(), TENANT);
        let refused = RedisMirror::new(server.redis(), [(name.to_owned(), client)], quick()).err().unwrap();
        assert!(refused.to_string().contains("rename it"), "{refused}");
    }
    engine.shut_down();
}
