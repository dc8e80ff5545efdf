//! A PostgreSQL that belongs to whoever starts it: on a free port, in a directory of its own, killed with its owner. Used by
//! the tests of several crates and by `cargo xtask`, so it asks for nothing but the standard library.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const INSTALL: &str = "install PostgreSQL for the tests: apt-get install postgresql-15 (or any of 13 and newer)";
/// Looks at whether it is up, each after this long.
const LOOKS: u32 = 3_000;
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) struct Process {
    dir: PathBuf,
    settings: Vec<String>,
    child: Mutex<Option<Child>>,
    pub(crate) port: u16,
}

impl Process {
    /// Makes a database in an empty directory, and starts it with settings such as `fsync=off`.
    pub(crate) fn start(dir: &Path, settings: &[&str]) -> io::Result<Process> {
        if let Some((uid, gid)) = other_user()? {
            chown(dir, Some(uid), Some(gid))?;
        }
        let mut initdb = command("initdb", dir)?;
        initdb.args(["-D", "data", "-U", "mainspring", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C"]);
        let made = initdb.output().map_err(|error| io::Error::new(error.kind(), format!("{error}: {INSTALL}")))?;
        if !made.status.success() {
            return Err(io::Error::other(format!("initdb: {}", String::from_utf8_lossy(&made.stderr))));
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let process = Process { dir: dir.to_owned(), settings, child: Mutex::new(None), port };
        process.run()?;
        Ok(process)
    }

    /// Starts it again, with what is in its directory.
    pub(crate) fn run(&self) -> io::Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut postgres = command("postgres", &self.dir)?;
        postgres.args(["-D", "data", "-k", "", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        self.settings.iter().for_each(|setting| {
            postgres.args(["-c", setting]);
        });
        let mut child = postgres.stderr(Stdio::from(log)).spawn()?;
        for _ in 0..LOOKS {
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("PostgreSQL ends: {status}; {}", self.log())));
            }
            if self.answers().unwrap_or(false) {
                *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = child.kill();
        Err(io::Error::other(format!("PostgreSQL does not come up: {}", self.log())))
    }

    /// Whether it takes a connection: it says `Z` once it would take a statement.
    fn answers(&self) -> io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        let words = b"\0\x03\0\0user\0mainspring\0database\0postgres\0\0";
        stream.write_all(&(words.len() as u32 + 4).to_be_bytes())?;
        stream.write_all(words)?;
        loop {
            let mut head = [0; 5];
            stream.read_exact(&mut head)?;
            match head[0] {
                b'Z' => return Ok(true),
                b'E' => return Ok(false),
                _ => {}
            }
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]).saturating_sub(4);
            io::copy(&mut Read::by_ref(&mut stream).take(u64::from(length)), &mut io::sink())?;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Ends all of it at once, as when the machine's power goes; what its system has written stays.
    pub(crate) fn kill(&self) {
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // SIGQUIT: its processes end at once, without writing anything, and it recovers from its log the next time. After
        // SIGKILL its other processes would go on for a moment and keep the directory.
        let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
        let _ = child.wait();
    }

    pub(crate) fn url_at(port: u16) -> String {
        format!("postgres://mainspring@127.0.0.1:{port}/postgres")
    }

    pub(crate) fn url(&self) -> String {
        Process::url_at(self.port)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One of PostgreSQL's programs, as a user it accepts: it refuses to run as root.
fn command(name: &str, dir: &Path) -> io::Result<Command> {
    let mut command = Command::new(program(name));
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some((uid, gid)) = other_user()? {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// The newest on the machine, or what the path has.
fn program(name: &str) -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path())))
        .map(|(version, path)| (version, path.join("bin").join(name)))
        .filter(|(_, path)| path.exists())
        .max();
    newest.map_or_else(|| PathBuf::from(name), |(_, path)| path)
}

/// The user and group that the package made, if this process is root.
fn other_user() -> io::Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let user = passwd.lines().find(|line| line.starts_with("postgres:")).ok_or_else(|| io::Error::other(INSTALL))?;
    let mut numbers = user.split(':').skip(2).map_while(|number| number.parse::<u32>().ok());
    Ok(numbers.next().zip(numbers.next()))
}
