//! A private PostgreSQL on a free port, that can be killed and started again. Nothing of it is kept.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mainspring_postgres::PostgresOptions;
use mainspring_store::conformance::BATCH_BYTES_MAX;
use tempfile::TempDir;

const INSTALL: &str = "install PostgreSQL for the tests: apt-get install postgresql-15 (or any of 13 and newer)";

pub(crate) struct Server {
    dir: TempDir,
    child: Mutex<Option<Child>>,
    pub(crate) port: u16,
    schemas: AtomicU32,
}

impl Server {
    pub(crate) fn start() -> Server {
        // Below the builds: /tmp is memory on many machines.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = command("initdb", dir.path());
        initdb.args(["-D", "data", "-U", "mainspring", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C"]);
        let made = initdb.output().expect(INSTALL);
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let server = Server { dir, child: Mutex::new(None), port, schemas: AtomicU32::new(0) };
        server.run();
        server
    }

    /// Starts it again, with what is in its directory.
    pub(crate) fn run(&self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut postgres = command("postgres", self.dir.path());
        postgres.args(["-D", "data", "-k", "", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        // Durable, as it is where it matters.
        postgres.args(["-c", "fsync=on", "-c", "shared_buffers=32MB", "-c", "max_connections=60"]);
        let mut child = postgres.stderr(Stdio::from(log)).spawn().expect(INSTALL);
        for _ in 0..3_000 {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("PostgreSQL ends: {status}; {}", self.log());
            }
            if self.answers() {
                *self.child.lock().unwrap() = Some(child);
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        panic!("PostgreSQL does not come up: {}", self.log());
    }

    fn answers(&self) -> bool {
        self.try_ask("SELECT 1").is_ok()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// SIGKILL to all of it, as when the machine's power goes; what its system has written stays.
    pub(crate) fn kill(&self) {
        let Some(mut child) = self.child.lock().unwrap().take() else { return };
        // SIGQUIT: its processes end at once, without writing anything, and it recovers from its log the next time. After
        // SIGKILL its other processes would go on for a moment and keep the directory.
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-QUIT", &pid]).status().unwrap().success());
        child.wait().unwrap();
    }

    pub(crate) fn url(&self) -> String {
        self.url_at(self.port)
    }

    pub(crate) fn url_at(&self, port: u16) -> String {
        format!("postgres://mainspring@127.0.0.1:{port}/postgres")
    }

    /// Options for a store of its own.
    pub(crate) fn options(&self) -> PostgresOptions {
        let schema = format!("store_{}", self.schemas.fetch_add(1, Ordering::Relaxed));
        PostgresOptions { schema, batch_bytes_max: BATCH_BYTES_MAX, ..PostgresOptions::new(self.url()) }
    }

    /// The first value of the first row, as text, as any other program would ask.
    pub(crate) fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap()
    }

    fn try_ask(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        // On a thread of its own: a test may be in a runtime already.
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await?;
                let connection = tokio::spawn(connection);
                let answer = client.simple_query(sql).await?;
                drop(client);
                let _ = connection.await;
                let first = answer.iter().find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                Ok(first.unwrap_or_default())
            })
        };
        std::thread::scope(|scope| scope.spawn(ask).join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }
}

/// One of PostgreSQL's programs, as a user it accepts: it refuses to run as root.
fn command(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(program(name));
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some((uid, gid)) = other_user() {
        command.uid(uid).gid(gid);
    }
    command
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
fn other_user() -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let mine = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok()?;
    if mine != 0 {
        return None;
    }
    let user = passwd.lines().find(|line| line.starts_with("postgres:")).expect(INSTALL);
    let mut numbers = user.split(':').skip(2).map(|number| number.parse::<u32>().expect("a number"));
    Some((numbers.next()?, numbers.next()?))
}
