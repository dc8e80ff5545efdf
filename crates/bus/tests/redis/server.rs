//! A private Redis on a free port, that can be killed, stopped, started again and flushed. Nothing of it is kept.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use mainspring_bus::conformance::Setting;
use mainspring_bus::{Redis, RedisBus, RedisBusOptions, RedisOptions};
use redis::Value;
use tempfile::TempDir;

pub(crate) struct RedisServer {
    child: Mutex<Option<Child>>,
    dir: TempDir,
    pub(crate) port: u16,
    args: Vec<String>,
}

impl RedisServer {
    pub(crate) fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// With further words on its command line.
    pub(crate) fn start_with(args: &[&str]) -> RedisServer {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Below the builds: /tmp is memory on many machines.
        let below = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let server = RedisServer {
            child: Mutex::new(None),
            dir: tempfile::tempdir_in(below).unwrap(),
            port,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        server.run();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it again, with whatever is in its directory.
    pub(crate) fn run(&self) {
        let mut last = String::new();
        // Another process may have taken the port while it was down; then it is soon free again.
        for _ in 0..100 {
            let mut command = Command::new("redis-server");
            command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command.args(&self.args).current_dir(self.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child =
                command.spawn().expect("redis-server can be started: install it (apt-get install redis-server)");
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    last = status.to_string();
                    break;
                }
                if std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                    *self.child.lock().unwrap() = Some(child);
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("redis-server does not come up: {last}");
    }

    /// SIGKILL. What it had in memory is gone.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP and SIGCONT: it holds its connections and says nothing.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.lock().unwrap().as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Asks it one thing, as any other program would.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap()
    }

    pub(crate) fn try_ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut conn = redis::Client::open(self.url()).unwrap().get_connection()?;
        let mut cmd = redis::Cmd::new();
        for word in words {
            cmd.arg(*word);
        }
        cmd.query(&mut conn)
    }

    pub(crate) fn flush(&self) {
        let _: Value = self.ask(&["FLUSHALL"]);
    }

    pub(crate) fn redis(&self) -> Redis {
        Redis::new(&RedisOptions { timeout: Duration::from_millis(500), ..RedisOptions::new(self.url()) }).unwrap()
    }

    pub(crate) fn bus(&self, options: RedisBusOptions) -> RedisBus {
        RedisBus::new(self.redis(), options)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the laws need to know of such a bus.
pub(crate) fn setting(options: &RedisBusOptions) -> Setting {
    let RedisBusOptions { partitions, lease, deliveries_max, .. } = *options;
    Setting { prefix: "law".to_owned(), lease, deliveries_max, partitions: partitions.max(1) }
}

/// Short leases, and looks around often.
pub(crate) fn quick() -> RedisBusOptions {
    RedisBusOptions {
        lease: Duration::from_millis(600),
        visibility: Duration::from_millis(500),
        look_every: Duration::from_millis(100),
        ..RedisBusOptions::default()
    }
}
