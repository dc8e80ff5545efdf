//! A `mainspring` process under test, `dev` or `serve`: start, wait until it is ready, kill, make a token.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

/// How long a server may take to be ready: far longer than it should, so that a busy machine is not a failure.
const READY_MAX: Duration = Duration::from_secs(30);

/// What stays the same over all starts of one server.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) binary: PathBuf,
    /// Its data.
    pub(crate) dir: PathBuf,
    /// Where its output is added, start after start.
    pub(crate) log: PathBuf,
    pub(crate) port: u16,
    pub(crate) environment: Vec<(String, String)>,
    /// The configuration of `serve`. Without one it is `dev`.
    pub(crate) config: Option<PathBuf>,
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) ready_after: Duration,
}

#[derive(Deserialize)]
struct Ready {
    pid: u32,
}

impl Place {
    /// A place for a server's data below `dir`, with a port that is free now.
    pub(crate) fn new(binary: &Path, dir: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Place> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Ok(Place {
            binary: binary.to_owned(),
            dir: dir.join("data"),
            log: dir.join("server.log"),
            port,
            environment: environment.iter().map(owned).collect(),
            config: None,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts a server and waits until it says that it is ready.
    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let begun = Instant::now();
        let mut command = Command::new(&self.binary);
        match &self.config {
            Some(config) => command.arg("serve").arg("--config").arg(config),
            None => command.arg("dev"),
        };
        let mut child = command
            .args(["--listen", &format!("127.0.0.1:{}", self.port), "--dir"])
            .arg(&self.dir)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} can't be started", self.binary.display()))?;
        loop {
            if self.says_ready(child.id()) {
                return Ok(Server { child, ready_after: begun.elapsed() });
            }
            if let Some(status) = child.try_wait()? {
                bail!("the server ended ({status}) before it was ready; its last words:\n{}", self.last_words());
            }
            if begun.elapsed() > READY_MAX {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the server was not ready after {READY_MAX:?}; its last words:\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The file of a killed predecessor is still there, so what counts is whose it is.
    fn says_ready(&self, pid: u32) -> bool {
        let Ok(file) = File::open(self.dir.join("server.json")) else { return false };
        serde_json::from_reader(file).is_ok_and(|ready: Ready| ready.pid == pid)
    }

    /// Makes a token with the server's own command. A server must be running.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        let made = self.command(&["token", "create", "--name", "xtask", "--quiet"])?;
        Ok(made.trim().to_owned())
    }

    /// Runs a verb of the command line against the running server, and gives what it printed.
    pub(crate) fn command(&self, args: &[&str]) -> anyhow::Result<String> {
        let ran = Command::new(&self.binary).args(args).arg("--dir").arg(&self.dir).output()?;
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        if !ran.status.success() {
            bail!("mainspring {}: {}\n{printed}{}", args.join(" "), ran.status, String::from_utf8_lossy(&ran.stderr));
        }
        Ok(printed)
    }

    /// The end of the server's output.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Server {
    /// SIGKILL: it gets to do nothing more.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end in order, and waits for that.
    pub(crate) fn stop(mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        // std has no other signal than SIGKILL.
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        if !asked.success() {
            bail!("the server could not be asked to end");
        }
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > patience {
                bail!("the server had not ended {patience:?} after it was asked to");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself, which a server under test must not.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
