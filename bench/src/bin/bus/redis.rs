//! A private Redis, and how much it takes when nothing else is asked of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long it may take to come up.
const UP_MAX: Duration = Duration::from_secs(30);

pub(crate) struct RedisServer {
    child: Child,
    port: u16,
}

impl RedisServer {
    pub(crate) fn start(dir: &Path, appendonly: bool) -> anyhow::Result<RedisServer> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", if appendonly { "yes" } else { "no" }]).current_dir(dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("redis-server can't be started: apt-get install redis-server")?;
        let mut server = RedisServer { child, port };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("redis-server ended: {status}");
            }
            if begun.elapsed() > UP_MAX {
                bail!("redis-server did not come up within {UP_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Entries a second that it takes from one connection that adds so many at once and waits for the answers. All of
    /// them are gone afterwards.
    pub(crate) fn adds_per_second(&self, batch: usize, bytes: usize, for_long: Duration) -> anyhow::Result<f64> {
        let body = "x".repeat(bytes);
        let words = ["XADD", "alone", "*", "id", "0-1234567", "key", "session-1234", "envelope", &body];
        let mut one = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| one.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        let mut conn = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?);
        conn.get_ref().set_nodelay(true)?;
        let request = one.repeat(batch);
        let (begun, mut added) = (Instant::now(), 0);
        while begun.elapsed() < for_long {
            conn.get_mut().write_all(request.as_bytes())?;
            for _ in 0..batch {
                let mut line = String::new();
                conn.read_line(&mut line)?;
                let length = line.trim_end().strip_prefix('$').and_then(|length| length.parse::<usize>().ok());
                let Some(length) = length else { bail!("XADD was answered with {line:?}") };
                conn.read_exact(&mut vec![0; length + 2])?;
            }
            added += batch;
        }
        let per_second = added as f64 / begun.elapsed().as_secs_f64();
        conn.get_mut().write_all(b"*1\r\n$8\r\nFLUSHALL\r\n")?;
        conn.read_line(&mut String::new())?;
        Ok(per_second)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
