//! A private Redis that is killed, stopped and flushed, and as much of its protocol as a gateway and a sender need.
//!
//! It is written out rather than taken from a library so that what the server's own library does is not what checks it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long an answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long Redis may take to come up.
const UP_MAX: Duration = Duration::from_secs(30);

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Text(String),
    Number(i64),
    List(Vec<Reply>),
    Nothing,
}

impl Reply {
    pub(super) fn list(&self) -> &[Reply] {
        if let Reply::List(list) = self { list } else { &[] }
    }

    pub(super) fn text(&self) -> &str {
        if let Reply::Text(text) = self { text } else { "" }
    }
}

/// A connection.
pub(super) struct Conn(BufReader<TcpStream>);

impl Conn {
    pub(super) fn open(port: u16) -> anyhow::Result<Conn> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Conn(BufReader::new(stream)))
    }

    /// Asks once. After an error of the connection nothing is known about what Redis did.
    pub(super) fn ask(&mut self, words: &[&str]) -> anyhow::Result<Reply> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> anyhow::Result<Reply> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            bail!("the connection ended");
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).context("an empty answer")?;
        match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => bail!("{rest}"),
            ":" => Ok(Reply::Number(rest.parse()?)),
            "$" | "*" if rest == "-1" => Ok(Reply::Nothing),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(Reply::Text(String::from_utf8(bytes)?))
            }
            "*" => Ok(Reply::List((0..rest.parse::<usize>()?).map(|_| self.reply()).collect::<anyhow::Result<_>>()?)),
            _ => bail!("not an answer of Redis: {line:?}"),
        }
    }
}

/// The process.
pub(super) struct RedisServer {
    dir: PathBuf,
    pub(super) port: u16,
    child: Option<Child>,
}

impl RedisServer {
    pub(super) fn start(dir: &Path) -> anyhow::Result<RedisServer> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let dir = dir.join("redis");
        std::fs::create_dir_all(&dir)?;
        let mut server = RedisServer { dir, port, child: None };
        server.run()?;
        Ok(server)
    }

    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < UP_MAX {
            let mut command = Command::new("redis-server");
            command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().context("redis-server can't be started: apt-get install redis-server")?;
            while child.try_wait()?.is_none() && begun.elapsed() < UP_MAX {
                if Conn::open(self.port).is_ok_and(|mut conn| conn.ask(&["PING"]).is_ok()) {
                    self.child = Some(child);
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("redis-server did not come up")
    }

    /// SIGKILL: all it had is gone.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(super) fn flush(&self) -> anyhow::Result<()> {
        Conn::open(self.port)?.ask(&["FLUSHALL"]).map(drop)
    }

    /// It holds its connections and says nothing for a while.
    pub(super) fn freeze(&self, for_long: Duration) -> anyhow::Result<()> {
        let pid = self.child.as_ref().context("Redis is down")?.id().to_string();
        for (signal, pause) in [("-STOP", for_long), ("-CONT", Duration::ZERO)] {
            if !Command::new("kill").args([signal, &pid]).status()?.success() {
                bail!("Redis could not be sent {signal}");
            }
            std::thread::sleep(pause);
        }
        Ok(())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
