//! Celery: a broker of its own, and a worker of two processes.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use mainspring_bench::process::{Process, free_port};

use crate::plan::{Contender, Workload};
use crate::running::{Door, Parts, READY_MAX, Running};

/// Processes of the worker: one for each core that there is at least.
const PROCESSES: usize = 2;

pub(crate) fn on_redis(parts: &Parts, dir: &Path) -> anyhow::Result<Running> {
    let port = free_port()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--dir"]).arg(dir);
    command.args(["--appendonly", "yes", "--appendfsync", "everysec"]);
    let begun = Instant::now();
    let mut redis = Process::start(command, &dir.join("redis.log"))?;
    redis.wait_ready(READY_MAX, || listens(port))?;
    let ready_after = begun.elapsed();
    let (broker, results) = (format!("redis://127.0.0.1:{port}/0"), format!("redis://127.0.0.1:{port}/1"));
    with_worker(parts, dir, vec![redis], ready_after, &broker, &results)
}

pub(crate) fn on_rabbitmq(parts: &Parts, dir: &Path) -> anyhow::Result<Running> {
    let (port, names, between) = (free_port()?, free_port()?, free_port()?);
    // Erlang's register of names, which would stay behind if the broker started it.
    let mut command = Command::new("epmd");
    command.args(["-port", &names.to_string(), "-address", "127.0.0.1"]);
    let begun = Instant::now();
    let mut register = Process::start(command, &dir.join("epmd.log"))?;
    register.wait_ready(READY_MAX, || listens(names))?;
    // Past the script in the path, which changes to the user of the package's own broker.
    let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    command.env("HOME", dir).env("ERL_EPMD_PORT", names.to_string()).env("RABBITMQ_NODENAME", "bench@localhost");
    command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", port.to_string());
    command.env("RABBITMQ_DIST_PORT", between.to_string()).env("RABBITMQ_PID_FILE", dir.join("rabbitmq.pid"));
    command.env("RABBITMQ_MNESIA_BASE", dir.join("mnesia")).env("RABBITMQ_LOG_BASE", dir.join("log"));
    command.env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins")).env("RABBITMQ_CONFIG_FILE", dir.join("none"));
    let mut rabbitmq = Process::start(command, &dir.join("rabbitmq.log"))?;
    rabbitmq.wait_ready(READY_MAX, || listens(port))?;
    let ready_after = begun.elapsed();
    let broker = format!("amqp://guest:guest@127.0.0.1:{port}//");
    with_worker(parts, dir, vec![rabbitmq, register], ready_after, &broker, "rpc://")
}

fn with_worker(
    parts: &Parts,
    dir: &Path,
    servers: Vec<Process>,
    ready_after: std::time::Duration,
    broker: &str,
    results: &str,
) -> anyhow::Result<Running> {
    let tally = dir.join("tally");
    std::fs::create_dir_all(&tally)?;
    let environment =
        [("BROKER", broker.to_owned()), ("RESULTS", results.to_owned()), ("TALLY", tally.display().to_string())];
    let mut command = Command::new(parts.python());
    command.args(["-m", "celery", "-A", "celery_tasks", "worker", "--pool", "prefork", "--loglevel", "ERROR"]);
    command.args([
        "--concurrency",
        &PROCESSES.to_string(),
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]);
    command.current_dir(&parts.scripts).envs(environment.clone()).env("PYTHONDONTWRITEBYTECODE", "1");
    let mut worker = Process::start(command, &dir.join("worker.log"))?;
    // Each of its processes makes a file for its number when it begins.
    worker.wait_ready(READY_MAX, || std::fs::read_dir(&tally).is_ok_and(|files| files.count() >= PROCESSES))?;
    let (python, script) = (parts.python(), parts.scripts.join("celery_load.py"));
    let door = move |workload: Workload, callers: usize, warm: f64, counted: f64| {
        let mut command = Command::new(&python);
        command.arg(&script).args([workload.name(), &callers.to_string(), &warm.to_string(), &counted.to_string()]);
        if workload == Workload::D {
            command.arg(Contender::CeleryRedis.begun_max().to_string());
        }
        command.envs(environment.clone()).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    Ok(Running { workers: vec![worker], servers, ready_after, door: Door::Program(Box::new(door)), tally })
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}
