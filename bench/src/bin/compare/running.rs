//! A contender at work: its processes, and the door it is asked through.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use mainspring_bench::closed::Requests;
use mainspring_bench::process::{Process, Usage};
use mainspring_bench::tally;

use crate::plan::{Contender, Workload};
use crate::{celery, dbos, mainspring, restate};

/// How long a contender may take to be ready.
pub(crate) const READY_MAX: Duration = Duration::from_secs(120);

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// Our server.
    pub(crate) server: PathBuf,
    /// Programs of this package, beside this one.
    pub(crate) programs: PathBuf,
    /// What was installed.
    pub(crate) rivals: PathBuf,
    /// Programs for rivals, of the repository.
    pub(crate) scripts: PathBuf,
}

impl Parts {
    /// A Python that has what rivals need.
    pub(crate) fn python(&self) -> PathBuf {
        self.rivals.join("python/bin/python")
    }
}

/// How it is asked.
pub(crate) enum Door {
    /// Over HTTP, by the load generator that is the same for all of these.
    Http { address: SocketAddr, requests: Box<dyn Fn(Workload) -> Requests> },
    /// By its own client, in a program: workload, callers, seconds not counted, seconds counted.
    Program(Box<dyn Fn(Workload, usize, f64, f64) -> Command>),
}

/// A contender at work. Dropping it ends all of it.
pub(crate) struct Running {
    // Workers end first: what they hold is nobody's concern any more.
    pub(crate) workers: Vec<Process>,
    pub(crate) servers: Vec<Process>,
    /// From the start of the first process of the server until it answered.
    pub(crate) ready_after: Duration,
    pub(crate) door: Door,
    /// Where it is counted how many no-ops were done.
    pub(crate) tally: PathBuf,
}

impl Running {
    /// Starts a contender on a fresh directory.
    ///
    /// # Errors
    /// When a part of it can't be started or does not become ready.
    pub(crate) fn start(contender: Contender, parts: &Parts, dir: &Path) -> anyhow::Result<Running> {
        std::fs::create_dir_all(dir)?;
        let dir = &dir.canonicalize()?;
        let started = match contender {
            Contender::Mainspring => mainspring::server_and_worker(parts, dir),
            Contender::MainspringPython => mainspring::server_and_python(parts, dir),
            Contender::MainspringFunctions => mainspring::functions(parts, dir),
            Contender::MainspringPostgres => mainspring::functions_on_postgres(parts, dir),
            Contender::Restate24 => restate::start(parts, dir, 24),
            Contender::Restate2 => restate::start(parts, dir, 2),
            Contender::CeleryRedis => celery::on_redis(parts, dir),
            Contender::CeleryRabbitmq => celery::on_rabbitmq(parts, dir),
            Contender::Dbos => dbos::start(parts, dir),
        };
        started.with_context(|| format!("{} could not be started", contender.name()))
    }

    /// What servers and workers used so far.
    pub(crate) fn usage(&self) -> (Usage, Usage) {
        let sum = |all: &[Process]| all.iter().fold(Usage::default(), |sum, one| sum.and(one.usage()));
        (sum(&self.servers), sum(&self.workers))
    }

    /// How many no-ops were done. With several processes each keeps a number of its own.
    pub(crate) fn done(&self) -> u64 {
        if !self.tally.is_dir() {
            return tally::read(&self.tally);
        }
        numbers(&self.tally).iter().sum()
    }

    /// Waits until so many were done, or nothing more has been done for a while; gives how many.
    pub(crate) fn wait_done(&self, count: u64, patience: Duration) -> u64 {
        let (mut seen, mut at) = (self.done(), Instant::now());
        while seen < count && at.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.done();
            if now != seen {
                (seen, at) = (now, Instant::now());
            }
        }
        seen
    }
}

/// The numbers that processes keep in a folder.
fn numbers(folder: &Path) -> Vec<u64> {
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let numbers = files.flatten().filter_map(|file| std::fs::read(file.path()).ok()?.first_chunk().copied());
    numbers.map(u64::from_le_bytes).collect()
}

/// Whether something answers a GET with success.
pub(crate) fn answers(address: SocketAddr, path: &str) -> bool {
    ask(address, "GET", path, "").is_ok()
}

/// One request outside of any load.
///
/// # Errors
/// When there is no answer, or none that is a success; it is in the error then.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> anyhow::Result<Vec<u8>> {
    use mainspring_bench::http1::{Connection, request};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asked = async {
            let mut connection = Connection::open(address).await?;
            let status = connection.ask(&request(method, path, None, body)).await?;
            Ok::<_, std::io::Error>((status, connection.body().to_vec()))
        };
        let (status, body) = tokio::time::timeout(Duration::from_secs(60), asked).await.context("no answer")??;
        if !(200..300).contains(&status) {
            anyhow::bail!("{path}: {status} {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    })
}
