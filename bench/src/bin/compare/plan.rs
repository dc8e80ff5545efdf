//! What is compared: contenders, and what each of them can be asked for.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A rival, by the name it is chosen with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rival {
    /// Restate, with its default 24 partitions and with 2.
    Restate,
    /// Celery on Redis.
    CeleryRedis,
    /// Celery on RabbitMQ.
    CeleryRabbitmq,
    /// DBOS on PostgreSQL.
    Dbos,
}

/// Whoever is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// The server, and a worker in Rust in a process of its own.
    Mainspring,
    /// Durable functions of the Rust SDK, with the engine in their process.
    MainspringFunctions,
    /// The server, and a worker with Hatchet's SDK for Python.
    MainspringPython,
    /// Durable functions of the Rust SDK, on PostgreSQL.
    MainspringPostgres,
    /// Restate with 24 partitions.
    Restate24,
    /// Restate with 2 partitions.
    Restate2,
    /// Celery on Redis.
    CeleryRedis,
    /// Celery on RabbitMQ.
    CeleryRabbitmq,
    /// DBOS on PostgreSQL.
    Dbos,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// A run that does nothing, and its answer.
    A,
    /// Three durable steps, and the answer.
    B,
    /// A counter of each of 1,000 keys.
    C1,
    /// One counter for everybody.
    C2,
    /// Runs begun and not waited for.
    D,
    /// One run that starts 1,000 and waits for all of them.
    E,
    /// 10,000 runs that sleep and wake within one second.
    F,
    /// A message to a session, and its turn's reply.
    G,
    /// Runs that sleep for longer than anybody measures: what a server is killed with.
    #[value(skip)]
    Live,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Mainspring => "mainspring",
            Contender::MainspringFunctions => "mainspring-functions",
            Contender::MainspringPython => "mainspring-python",
            Contender::MainspringPostgres => "mainspring-postgres",
            Contender::Restate24 => "restate-24",
            Contender::Restate2 => "restate-2",
            Contender::CeleryRedis => "celery-redis",
            Contender::CeleryRabbitmq => "celery-rabbitmq",
            Contender::Dbos => "dbos",
        }
    }

    /// Runs that are begun and not waited for, at most: what is begun in some seconds must be done in not many more.
    pub(crate) fn begun_max(self) -> u64 {
        use Contender::{CeleryRabbitmq, CeleryRedis, Dbos, MainspringPython};
        // These workers are Python.
        if matches!(self, CeleryRabbitmq | CeleryRedis | Dbos | MainspringPython) { 3_000 } else { 30_000 }
    }

    /// Whether it is one of ours.
    pub(crate) fn is_ours(self) -> bool {
        use Contender::{Mainspring, MainspringFunctions, MainspringPostgres, MainspringPython};
        matches!(self, Mainspring | MainspringFunctions | MainspringPostgres | MainspringPython)
    }

    /// How it is set up, in a sentence for the page.
    pub(crate) fn setup(self) -> &'static str {
        match self {
            Contender::Mainspring => {
                "`mainspring serve`, one partition, `fsync = \"durable\"`; a worker in Rust in a process of its own, over \
                 gRPC (the wire of Hatchet's SDKs), one thread, one stream of work and a connection for reports; what was \
                 done while a report was on its way is reported together (`SendBatchActionEvent`); asked over HTTP with a \
                 token, `POST /v1/workflows/NAME/runs?wait_seconds=60`. Three steps are three tasks, one after the other, \
                 each given out and reported over the wire"
            }
            Contender::MainspringFunctions => {
                "durable functions of the Rust SDK with the engine in their process, one partition, durable; asked over \
                 HTTP without a token. *There is no border between processes here, as the others have one*: it is how \
                 durable functions in Rust are deployed in this release. A counter is an inbox: messages that wait are \
                 taken together, and their sum and that they were taken are one decision"
            }
            Contender::MainspringPython => {
                "`mainspring serve` as above; workers with the published `hatchet-sdk` for Python: 2 of them, as Celery has two \
                 processes, 100 slots each"
            }
            Contender::MainspringPostgres => {
                "durable functions of the Rust SDK as above, on a private PostgreSQL (`fsync`, `synchronous_commit` on)"
            }
            Contender::Restate24 => {
                "`@restatedev/restate-server` from npm, one node, as it comes: 24 partitions, write-ahead logs synced; a \
                 service in Rust on `restate-sdk` in a process of its own; asked over its HTTP ingress. Telemetry off, \
                 logs at `warn`"
            }
            Contender::Restate2 => "the same with 2 partitions, which is fairer where there are two cores",
            Contender::CeleryRedis => {
                "Celery from PyPI, `prefork` with 2 processes, prefetch 64, results in Redis where they are waited for, \
                 ignored where not; a private `redis-server` with its append-only file synced once a second; asked with \
                 Celery's own client from up to 2 processes of threads. *A crash of Redis loses up to a second*"
            }
            Contender::CeleryRabbitmq => {
                "Celery as above on a private RabbitMQ, durable queues and persistent messages, results over `rpc://`, \
                 which keeps them in memory; no publisher confirms, which is Celery's default"
            }
            Contender::Dbos => {
                "DBOS from PyPI on a private PostgreSQL (`fsync`, `synchronous_commit` on); a library, so callers, \
                 workflows and queue are threads of one process of Python"
            }
        }
    }

    pub(crate) fn can(self, workload: Workload) -> bool {
        use Workload::{A, B, C1, C2, D, E, F, G};
        match self {
            Contender::Mainspring => matches!(workload, A | B | D | E),
            Contender::MainspringFunctions => matches!(workload, A | B | C1 | C2 | D | E | F | G),
            Contender::MainspringPython => matches!(workload, A | D),
            Contender::MainspringPostgres => matches!(workload, A | B | D | G),
            Contender::Restate24 | Contender::Restate2 => matches!(workload, A | B | C1 | C2 | D | E | F | G),
            Contender::CeleryRedis | Contender::CeleryRabbitmq => matches!(workload, A | D),
            Contender::Dbos => matches!(workload, A | B | D),
        }
    }

    /// Those measured beside these rivals.
    pub(crate) fn beside(rivals: &[Rival]) -> Vec<Contender> {
        let has = |rival| rivals.contains(&rival);
        let mut all = vec![Contender::Mainspring];
        if has(Rival::Restate) || has(Rival::Dbos) {
            all.push(Contender::MainspringFunctions);
        }
        if has(Rival::Restate) {
            all.extend([Contender::Restate24, Contender::Restate2]);
        }
        if has(Rival::CeleryRedis) || has(Rival::CeleryRabbitmq) {
            all.push(Contender::MainspringPython);
        }
        if has(Rival::CeleryRedis) {
            all.push(Contender::CeleryRedis);
        }
        if has(Rival::CeleryRabbitmq) {
            all.push(Contender::CeleryRabbitmq);
        }
        if has(Rival::Dbos) {
            all.extend([Contender::MainspringPostgres, Contender::Dbos]);
        }
        all
    }
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::A => "a",
            Workload::B => "b",
            Workload::C1 => "c1",
            Workload::C2 => "c2",
            Workload::D => "d",
            Workload::E => "e",
            Workload::F => "f",
            Workload::G => "g",
            Workload::Live => "live",
        }
    }

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Workload::A => "A run that does nothing, waited for",
            Workload::B => "Three durable steps, waited for",
            Workload::C1 => "A counter for each of 1,000 keys",
            Workload::C2 => "One counter for everybody",
            Workload::D => "Runs begun, not waited for",
            Workload::E => "One run that starts 1,000 others and waits for all of them",
            Workload::F => "10,000 runs that sleep, and wake within one second",
            Workload::G => "A message to a session, its turn, and the reply",
            Workload::Live => "Runs that sleep",
        }
    }

    /// What has to be known to read its figures.
    pub(crate) fn note(self) -> &'static str {
        match self {
            Workload::A | Workload::C1 | Workload::C2 => "",
            Workload::B => {
                "Restate's and the functions' steps are recorded one by one by the function itself; over the wire they are \
                 three tasks of one run, each given to the worker and reported."
            }
            Workload::D => {
                "As many as are taken in the seconds of a measurement, 30,000 at most, and 3,000 where workers are Python; \
                 `done/s to the end` counts from the first request until the last of them was done."
            }
            Workload::E => "Five of them, one after the other.",
            Workload::F => {
                "All are begun within the 20 seconds before the first wakes. `late` is from when the last is due until \
                 all were awake; the other figures are those of their beginning. A partition of Restate \
                 runs 1,000 functions at once, those that have slept for less than a minute among them \
                 (`concurrent-invocations-limit`, `inactivity-timeout`): with 2 partitions the others begin to sleep later."
            }
            Workload::G => {
                "16 sessions for each caller, so that no message comes while its session's last is answered. Ours is the \
                 flow of turns as it is, without a window: the message is accepted and kept, the turn reads the session's \
                 state, asks an agent that answers at once, and commits state, reply, the reply's delivery and their \
                 events in one decision. Restate's is an object for each session: its state is read, the agent is asked in \
                 a recorded step, the state is set, and the reply returned; nothing is delivered, and nobody is told."
            }
            Workload::Live => "",
        }
    }

    /// How many callers at once it is measured with, of those asked for.
    pub(crate) fn callers(self, asked: &[usize]) -> Vec<usize> {
        match self {
            Workload::E | Workload::F => vec![1],
            _ => asked.to_vec(),
        }
    }
}
