//! A private PostgreSQL, durable, with what a machine of this size deserves.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use mainspring_bench::process::{Process, free_port};
use rustix::process::Signal;

use crate::running::READY_MAX;

/// Its processes, and where it is.
pub(crate) struct Postgres {
    pub(crate) process: Process,
    port: u16,
}

impl Postgres {
    /// Makes one in a directory and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not come up.
    pub(crate) fn start(dir: &Path) -> anyhow::Result<Postgres> {
        std::fs::create_dir_all(dir)?;
        let programs = programs()?;
        let user = other_user();
        if let Some((uid, gid)) = user {
            chown(dir, Some(uid), Some(gid))?;
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(dir);
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let mut initdb = command("initdb");
        initdb.args(["-D", "data", "-U", "bench", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C"]);
        let made = initdb.output()?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr).trim());
        }
        let port = free_port()?;
        let mut postgres = command("postgres");
        postgres.args(["-D", "data", "-k", "", "-h", "127.0.0.1", "-p", &port.to_string()]);
        postgres.args(["-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "shared_buffers=256MB"]);
        postgres.args(["-c", "max_connections=300", "-c", "max_wal_size=4GB", "-c", "checkpoint_timeout=15min"]);
        // SIGINT: it ends its sessions and then itself, in order.
        let mut process = Process::start(postgres, &dir.with_extension("log"))?.ending_with(Signal::INT);
        process.wait_ready(READY_MAX, || {
            let mut asks = command("psql");
            asks.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "bench", "-d", "postgres", "-c", "SELECT 1"]);
            asks.output().is_ok_and(|asked| asked.status.success())
        })?;
        Ok(Postgres { process, port })
    }

    /// How it is reached.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://bench@127.0.0.1:{}/postgres", self.port)
    }
}

/// Where its programs are: in the path, or where Debian has them.
fn programs() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = debian.map(|entry| entry.path().join("bin")).collect();
    places.sort();
    places.extend(std::env::split_paths(&path));
    let found = places.into_iter().find(|place| place.join("initdb").is_file() && place.join("postgres").is_file());
    found.context("PostgreSQL is not installed: apt-get install postgresql")
}

/// PostgreSQL does not run as root: then whoever owns its package's files, or nobody.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}
