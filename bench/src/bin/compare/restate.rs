//! Restate: one node, and a service in Rust in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use mainspring_bench::closed::Requests;
use mainspring_bench::http1::request;
use mainspring_bench::process::{Process, free_port};

use crate::mainspring::{key_of, session_of, sleep_ms};
use crate::plan::Workload;
use crate::running::{Door, Parts, READY_MAX, Running, answers, ask};

pub(crate) fn start(parts: &Parts, dir: &Path, partitions: u16) -> anyhow::Result<Running> {
    let (ingress, admin, node, service_port) = (free_port()?, free_port()?, free_port()?, free_port()?);
    let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let log = dir.join("server.log");
    let mut command = Command::new(binary(parts)?);
    command.args([
        "--no-logo",
        "--listen-mode",
        "tcp",
        "--bind-ip",
        "127.0.0.1",
        "--log-filter",
        "warn",
        "--node-name",
        "bench",
    ]);
    command.arg("--bind-port").arg(node.to_string()).arg("--base-dir").arg(dir.join("data")).current_dir(dir);
    command.env("RESTATE_INGRESS__BIND_ADDRESS", at(ingress).to_string());
    command.env("RESTATE_ADMIN__BIND_ADDRESS", at(admin).to_string());
    command.env("RESTATE_DEFAULT_NUM_PARTITIONS", partitions.to_string()).env("RESTATE_DISABLE_TELEMETRY", "true");
    let begun = Instant::now();
    let mut server = Process::start(command, &log)?;
    server.wait_ready(READY_MAX, || answers(at(admin), "/health") && answers(at(ingress), "/restate/health"))?;
    let ready_after = begun.elapsed();

    let (tally, log) = (dir.join("tally"), dir.join("service.log"));
    let mut command = Command::new(parts.rivals.join("restate-service/release/restate-service"));
    command.arg(service_port.to_string()).arg(&tally);
    let mut service = Process::start(command, &log)?;
    service.wait_ready(READY_MAX, || std::net::TcpStream::connect(at(service_port)).is_ok())?;
    ask(at(admin), "POST", "/deployments", &format!("{{\"uri\":\"http://{}\"}}", at(service_port)))?;

    let requests = |workload| -> Requests {
        let begun = Instant::now();
        let fixed = |path: &str, body: &str| -> Requests {
            let bytes = request("POST", path, None, body);
            Arc::new(move |_, _, out| out.extend_from_slice(&bytes))
        };
        match workload {
            Workload::B => fixed("/Bench/steps", ""),
            Workload::C1 => Arc::new(|caller, nth, out| {
                out.extend(request("POST", &format!("/Counter/{}/add", key_of(caller, nth)), None, "1"));
            }),
            Workload::C2 => fixed("/Counter/hot/add", "1"),
            Workload::D => fixed("/Bench/noop/send", ""),
            Workload::E => fixed("/Bench/fan_out", "1000"),
            Workload::F => Arc::new(move |caller, nth, out| {
                let ms = sleep_ms(caller, nth, begun).to_string();
                out.extend(request("POST", "/Bench/sleep/send", None, &ms));
            }),
            Workload::G => Arc::new(|caller, nth, out| {
                let path = format!("/Session/{}/message", session_of(caller, nth));
                out.extend(request("POST", &path, None, &format!("\"{nth}\"")));
            }),
            Workload::Live => fixed("/Bench/sleep/send", "3600000"),
            Workload::A => fixed("/Bench/noop", ""),
        }
    };
    let door = Door::Http { address: at(ingress), requests: Box::new(requests) };
    Ok(Running { workers: vec![service], servers: vec![server], ready_after, door, tally })
}

/// The program itself, past the script of its package that looks for it.
pub(crate) fn binary(parts: &Parts) -> anyhow::Result<PathBuf> {
    let packages = parts.rivals.join("restate/node_modules/@restatedev");
    let found = std::fs::read_dir(&packages)?.flatten().map(|entry| entry.path().join("bin/restate-server"));
    let mut found = found.filter(|path| path.is_file());
    found.next().with_context(|| format!("no restate-server in {}", packages.display()))
}
