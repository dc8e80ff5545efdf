//! A server of the release build, started for one measurement and ended with it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a server may take to become ready before the measurement is given up.
const READY_MAX: Duration = Duration::from_secs(30);
/// How often the ready file is looked for: the resolution of the time to ready.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    binary: PathBuf,
    dir: PathBuf,
    /// Its address, such as `http://127.0.0.1:4711`.
    pub url: String,
    /// From the start of the process until it said it was ready.
    pub ready_after: Duration,
}

impl Server {
    /// Starts `binary dev` on `dir`, on a port the system picks, with more environment if need be.
    ///
    /// # Errors
    /// When it can't be started, ends, or is not ready in time; its output is in `<dir>/../server.log`.
    pub fn start(binary: &Path, dir: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Server> {
        Server::start_as(&["dev".as_ref()], binary, dir, environment)
    }

    /// Starts `binary serve` with a configuration instead.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn serve(config: &Path, binary: &Path, dir: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Server> {
        Server::start_as(&["serve".as_ref(), "--config".as_ref(), config.as_os_str()], binary, dir, environment)
    }

    fn start_as(verb: &[&OsStr], binary: &Path, dir: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Server> {
        let log_path = dir.with_extension("log");
        let log = std::fs::File::create(&log_path).context("no file for the server's output")?;
        // A file of an earlier process would look like readiness.
        let ready_file = dir.join("server.json");
        let _ = std::fs::remove_file(&ready_file);
        let begun = Instant::now();
        let mut child = Command::new(binary)
            .args(verb)
            .args(["--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .envs(environment.iter().copied())
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{} can't be started: build it with `cargo build --release`", binary.display()))?;
        loop {
            if let Some(url) = url_in(&ready_file) {
                let ready_after = begun.elapsed();
                return Ok(Server { child, binary: binary.to_owned(), dir: dir.to_owned(), url, ready_after });
            }
            if let Some(status) = child.try_wait()? {
                bail!("the server ended ({status}) before it was ready; see {}", log_path.display());
            }
            if begun.elapsed() > READY_MAX {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the server was not ready after {} s; see {}", READY_MAX.as_secs(), log_path.display());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Makes an access token with the server's own command.
    ///
    /// # Errors
    /// When the command fails.
    pub fn token(&self) -> anyhow::Result<String> {
        let made = Command::new(&self.binary)
            .args(["token", "create", "--name", "bench", "--quiet", "--dir"])
            .arg(&self.dir)
            .output()?;
        if !made.status.success() {
            bail!("no token: {}", String::from_utf8_lossy(&made.stderr).trim());
        }
        Ok(String::from_utf8(made.stdout)?.trim().to_owned())
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let words = line.context("no VmRSS in the process's status")?;
        Ok(words.trim().trim_end_matches("kB").trim().parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The release build beside this program, whatever the target directory is called.
///
/// # Errors
/// When this program does not know where it is.
pub fn release_binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile_dir = own.parent().context("this program is in no directory")?;
    Ok(profile_dir.with_file_name("release").join("mainspring"))
}

fn url_in(ready_file: &Path) -> Option<String> {
    let text = std::fs::read(ready_file).ok()?;
    let ready: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(ready.get("url")?.as_str()?.to_owned())
}
