//! Processes a measurement starts, with all that they start themselves: ended with it, and what they used.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// A tick of `/proc/PID/stat`, which is the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long a process may take to end when it is asked to.
const END_MAX: Duration = Duration::from_secs(10);

/// A process in a group of its own.
#[derive(Debug)]
pub struct Process {
    command: Command,
    log: PathBuf,
    child: Child,
    /// What it is asked to end with, before it is killed.
    end_with: Signal,
}

impl Process {
    /// Starts a command; what it says goes to a file.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Process> {
        use std::os::unix::process::CommandExt;
        command.stdin(Stdio::null()).process_group(0);
        let child = spawn(&mut command, log)?;
        Ok(Process { command, log: log.to_owned(), child, end_with: Signal::TERM })
    }

    /// Starts it again as it was started, after it was killed.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&mut self.command, &self.log)?;
        Ok(())
    }

    /// Has it ended with another signal than SIGTERM.
    #[must_use]
    pub fn ending_with(mut self, signal: Signal) -> Process {
        self.end_with = signal;
        self
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(self.id())
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When it ends or the time is over; where it said why is named then.
    pub fn wait_ready(&mut self, most: Duration, mut ready: impl FnMut() -> bool) -> anyhow::Result<()> {
        let (begun, log) = (Instant::now(), &self.log);
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("a process ended ({status}) before it was ready; see {}", log.display());
            }
            if begun.elapsed() > most {
                bail!("a process was not ready after {} s; see {}", most.as_secs(), log.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Kills it and all that it started, as a crash would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
    }
}

fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Child> {
    let said = std::fs::File::options().create(true).append(true).open(log);
    let said = said.with_context(|| format!("{} can't be made", log.display()))?;
    let started = command.stdout(said.try_clone()?).stderr(said).spawn();
    started.with_context(|| format!("{} can't be started", command.get_program().to_string_lossy()))
}

impl Drop for Process {
    fn drop(&mut self) {
        let gone = |child: &mut Child| child.try_wait().is_ok_and(|ended| ended.is_some());
        if !gone(&mut self.child) {
            self.signal(self.end_with);
            let begun = Instant::now();
            while !gone(&mut self.child) && begun.elapsed() < END_MAX {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // Whatever it left behind in its group.
        self.kill();
    }
}

/// What processes used, from their start until now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds of processor time.
    pub cpu_seconds: f64,
    /// Resident memory in bytes. What several processes share is shared out among them, where the system tells how.
    pub resident_bytes: u64,
    /// Bytes they had written to disks.
    pub written_bytes: u64,
}

impl Usage {
    /// That of a process and everything it started, also what has ended since. Nothing of a process that is gone.
    #[must_use]
    pub fn of(id: u32) -> Usage {
        let mut all = Usage::default();
        let parents = parents();
        let mut of = vec![id];
        while let Some(id) = of.pop() {
            all = all.and(Usage::alone(id));
            of.extend(parents.iter().filter(|(_, parent)| *parent == id).map(|(child, _)| *child));
        }
        all
    }

    fn alone(id: u32) -> Usage {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name, in parentheses, may have anything in it. The fields behind it count from 3 in proc(5).
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |nth: usize| fields.get(nth - 3).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let words = |file: &str, name: &str| {
            let text = std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        };
        Usage {
            // Its own, and that of children which have ended: 14 to 17.
            cpu_seconds: (14..=17).map(ticks).sum::<f64>() / TICKS_PER_SECOND,
            resident_bytes: match words("smaps_rollup", "Pss:") {
                0 => words("status", "VmRSS:") * 1024,
                shared_out => shared_out * 1024,
            },
            written_bytes: words("io", "write_bytes:"),
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            resident_bytes: self.resident_bytes + other.resident_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
        }
    }

    /// What was used since; memory as it is now.
    #[must_use]
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_seconds: (self.cpu_seconds - before.cpu_seconds).max(0.0),
            resident_bytes: self.resident_bytes,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// Every process, with its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((id, parent))
    })
    .collect()
}

/// A port of loopback that nobody listens on at this moment.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
