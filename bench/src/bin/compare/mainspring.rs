//! Ours: the server with workers over the wire, and durable functions with the engine in their process.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use mainspring_bench::closed::Requests;
use mainspring_bench::http1::request;
use mainspring_bench::process::{Process, free_port};
use mainspring_bench::wire::address_of;

use crate::plan::Workload;
use crate::postgres::Postgres;
use crate::running::{Door, Parts, READY_MAX, Running, answers};

/// A tenant is made by being named, and workflows need no agent.
const CONFIG: &str = "[tenants.default]";

/// From the first request of workload F until the first sleeper wakes: long enough to have begun all of them.
pub(crate) const SLEEP: Duration = Duration::from_secs(20);

/// Workers in Python, each a process: as many as Celery's worker has.
const PYTHON_WORKERS: usize = 2;

/// How long after the first the last of them may be there: nothing over HTTP says so.
const PYTHON_WORKERS_APART: Duration = Duration::from_secs(5);

struct Server {
    process: Process,
    url: String,
    token: String,
    ready_after: Duration,
}

/// `mainspring serve`, and a token for it.
fn server(parts: &Parts, dir: &Path) -> anyhow::Result<Server> {
    let (config, data, log) = (dir.join("mainspring.toml"), dir.join("data"), dir.join("server.log"));
    std::fs::write(&config, CONFIG)?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = Command::new(&parts.server);
    command.args(["serve", "--listen", &address, "--config"]).arg(&config).arg("--dir").arg(&data);
    let begun = Instant::now();
    let mut process = Process::start(command, &log)?;
    let url = format!("http://{address}");
    let at = address_of(&url)?;
    process.wait_ready(READY_MAX, || answers(at, "/readyz"))?;
    let ready_after = begun.elapsed();
    let made = Command::new(&parts.server)
        .args(["token", "create", "--name", "bench", "--quiet", "--dir"])
        .arg(&data)
        .output()?;
    if !made.status.success() {
        bail!("no token: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    Ok(Server { process, url, token: String::from_utf8(made.stdout)?.trim().to_owned(), ready_after })
}

fn door(server: &Server) -> anyhow::Result<Door> {
    let token = server.token.clone();
    let requests = move |workload| -> Requests {
        let (workflow, input, wait) = match workload {
            Workload::B => ("steps", "{}", "?wait_seconds=60"),
            Workload::D => ("noop", "{}", ""),
            Workload::E => ("fan-out", "{\"children\":1000}", "?wait_seconds=60"),
            _ => ("noop", "{}", "?wait_seconds=60"),
        };
        let body = format!("{{\"input\":{input}}}");
        let bytes = request("POST", &format!("/v1/workflows/{workflow}/runs{wait}"), Some(&token), &body);
        Arc::new(move |_, _, out| out.extend_from_slice(&bytes))
    };
    Ok(Door::Http { address: address_of(&server.url)?, requests: Box::new(requests) })
}

pub(crate) fn server_and_worker(parts: &Parts, dir: &Path) -> anyhow::Result<Running> {
    let server = server(parts, dir)?;
    let (tally, log) = (dir.join("tally"), dir.join("worker.log"));
    let mut command = Command::new(parts.programs.join("wire-worker"));
    command.args(["--url", &server.url]).arg("--tally").arg(&tally).env("WORKER_TOKEN", &server.token);
    let mut worker = Process::start(command, &log)?;
    worker.wait_ready(READY_MAX, || tally.exists())?;
    let door = door(&server)?;
    Ok(Running { workers: vec![worker], servers: vec![server.process], ready_after: server.ready_after, door, tally })
}

pub(crate) fn server_and_python(parts: &Parts, dir: &Path) -> anyhow::Result<Running> {
    let server = server(parts, dir)?;
    let tally = dir.join("tally");
    std::fs::create_dir_all(&tally)?;
    let mut workers = Vec::new();
    for nth in 1..=PYTHON_WORKERS {
        let mut command = Command::new(parts.python());
        command.arg(parts.scripts.join("hatchet_worker.py")).env("TALLY", &tally).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("HATCHET_CLIENT_TOKEN", &server.token).env("HATCHET_CLIENT_SERVER_URL", &server.url);
        command.env("HATCHET_CLIENT_HOST_PORT", server.url.trim_start_matches("http://"));
        command.env("HATCHET_CLIENT_TLS_STRATEGY", "none");
        workers.push(Process::start(command, &dir.join(format!("worker-{nth}.log")))?);
    }
    // They are there once a run comes back, and the second soon after the first.
    let Door::Http { address, requests } = door(&server)? else { bail!("ours is asked over HTTP") };
    let mut bytes = Vec::new();
    requests(Workload::A)(0, 0, &mut bytes);
    workers[0].wait_ready(READY_MAX, || {
        std::thread::sleep(Duration::from_millis(50));
        crate::measure::ask_once(address, &bytes).is_ok_and(|status| status == 200)
    })?;
    std::thread::sleep(PYTHON_WORKERS_APART);
    let door = Door::Http { address, requests };
    Ok(Running { workers, servers: vec![server.process], ready_after: server.ready_after, door, tally })
}

pub(crate) fn functions(parts: &Parts, dir: &Path) -> anyhow::Result<Running> {
    functions_with(parts, dir, None)
}

pub(crate) fn functions_on_postgres(parts: &Parts, dir: &Path) -> anyhow::Result<Running> {
    let postgres = Postgres::start(&dir.join("postgres"))?;
    let url = postgres.url();
    let mut running = functions_with(parts, dir, Some(&url))?;
    running.servers.push(postgres.process);
    Ok(running)
}

fn functions_with(parts: &Parts, dir: &Path, postgres: Option<&str>) -> anyhow::Result<Running> {
    let (tally, log) = (dir.join("tally"), dir.join("functions.log"));
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = Command::new(parts.programs.join("functions"));
    command.args(["--listen", &address, "--dir"]).arg(dir.join("data")).arg("--tally").arg(&tally);
    if let Some(url) = postgres {
        command.args(["--postgres", url]);
    }
    let begun = Instant::now();
    let mut process = Process::start(command, &log)?;
    let address = address.parse()?;
    process.wait_ready(READY_MAX, || std::net::TcpStream::connect(address).is_ok())?;
    let ready_after = begun.elapsed();
    let requests = |workload| -> Requests {
        let begun = Instant::now();
        let fixed = |path: &str| -> Requests {
            let bytes = request("POST", path, None, "");
            Arc::new(move |_, _, out| out.extend_from_slice(&bytes))
        };
        match workload {
            Workload::B => fixed("/steps"),
            Workload::C1 => Arc::new(|caller, nth, out| {
                out.extend(request("POST", &format!("/counter/{}/1", key_of(caller, nth)), None, ""));
            }),
            Workload::C2 => fixed("/counter/hot/1"),
            Workload::D => fixed("/send/noop"),
            Workload::E => fixed("/fan-out/1000"),
            Workload::F => Arc::new(move |caller, nth, out| {
                out.extend(request("POST", &format!("/sleep/{}", sleep_ms(caller, nth, begun)), None, ""));
            }),
            Workload::G => Arc::new(|caller, nth, out| {
                out.extend(request("POST", &format!("/message/{}/{nth}", session_of(caller, nth)), None, ""));
            }),
            Workload::Live => fixed("/sleep/3600000"),
            Workload::A => fixed("/noop"),
        }
    };
    let door = Door::Http { address, requests: Box::new(requests) };
    Ok(Running { workers: Vec::new(), servers: vec![process], ready_after, door, tally })
}

/// The counter a request is for: one of 1,000, all over them.
pub(crate) fn key_of(caller: usize, nth: u64) -> u64 {
    (nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (caller as u64).wrapping_mul(0xd6e8_feb8_6659_fd93)).rotate_left(29)
        % 1_000
}

/// The session a message is for. Each caller has 16 of its own, and writes to one after the other, so that a message never
/// comes while its session's last is answered.
pub(crate) fn session_of(caller: usize, nth: u64) -> String {
    format!("s{caller}-{}", nth % 16)
}

/// How long a sleeper of workload F sleeps, so that all of them wake within the second that begins [`SLEEP`] after `begun`.
pub(crate) fn sleep_ms(caller: usize, nth: u64, begun: Instant) -> u128 {
    let wakes = SLEEP + Duration::from_millis(key_of(caller, nth));
    wakes.saturating_sub(begun.elapsed()).as_millis()
}
