//! As much HTTP/1.1 as talking to a server on this machine takes: one connection, one request at a time.
//!
//! It is written out rather than taken from a library because what happens to a connection when the other side is killed
//! is just what the callers want to see, and because `cargo xtask` should build in seconds.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

/// An answer that takes longer is given up, and the connection with it.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Longer bodies are not asked for by anything here.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A caller with a token.
#[derive(Debug)]
pub(crate) struct Http {
    address: String,
    token: String,
    patience: Duration,
    connection: Option<BufReader<TcpStream>>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Http {
    /// A caller of `url`, which is `http://host:port`.
    pub(crate) fn new(url: &str, token: &str) -> Http {
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Http { address, token: token.to_owned(), patience: ANSWER_MAX, connection: None }
    }

    /// Gives up an answer that takes longer than this.
    pub(crate) fn patience(self, patience: Duration) -> Http {
        Http { patience, ..self }
    }

    /// Asks once. After an error nothing is known about what the server did.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let address: std::net::SocketAddr = self.address.parse().context("not host:port")?;
                let stream = TcpStream::connect_timeout(&address, self.patience)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.patience))?;
                stream.set_write_timeout(Some(self.patience))?;
                BufReader::new(stream)
            }
        };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n",
            self.address,
            self.token,
            body.len()
        );
        if !body.is_empty() {
            request.push_str("Content-Type: application/json\r\n");
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        connection.get_mut().write_all(&bytes)?;
        let head = Head::read(&mut connection)?.context("the connection ended before the answer")?;
        let status = head.first_line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("not a status line: {:?}", head.first_line))?;
        let body = head.body(&mut connection)?;
        if !head.closes() {
            self.connection = Some(connection);
        }
        Ok(Response { status, body })
    }

    /// Gets JSON; anything but a 200 is an error.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        let response = self.ask("GET", path, &[], &[]).with_context(|| format!("GET {path}"))?;
        if response.status != 200 {
            bail!("GET {path} answered {}: {}", response.status, String::from_utf8_lossy(&response.body));
        }
        serde_json::from_slice(&response.body).with_context(|| format!("GET {path} answered an unexpected shape"))
    }
}

/// The first line and the headers of a request or an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) first_line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads one; `None` when the other side has closed the connection.
    pub(crate) fn read(from: &mut impl BufRead) -> anyhow::Result<Option<Head>> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let first_line = line.trim_end().to_owned();
        let mut headers = Vec::new();
        loop {
            line.clear();
            if from.read_line(&mut line)? == 0 {
                bail!("the connection ended within the headers");
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Some(Head { first_line, headers }))
    }

    /// A header's value; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Reads the body that belongs to it.
    pub(crate) fn body(&self, from: &mut impl BufRead) -> anyhow::Result<Vec<u8>> {
        if self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return chunked_body(from);
        }
        let length: usize = self.header("content-length").map_or(Ok(0), str::parse)?;
        if length > BODY_BYTES_MAX {
            bail!("a body of {length} bytes");
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Ok(body)
    }

    fn closes(&self) -> bool {
        self.header("connection").is_some_and(|word| word.eq_ignore_ascii_case("close"))
    }
}

fn chunked_body(from: &mut impl BufRead) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let digits = line.trim().split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(digits, 16).context("not the length of a chunk")?;
        if body.len() + length > BODY_BYTES_MAX {
            bail!("a body of more than {BODY_BYTES_MAX} bytes");
        }
        let begun = body.len();
        body.resize(begun + length, 0);
        from.read_exact(&mut body[begun..])?;
        line.clear();
        from.read_line(&mut line)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_body_are_read_to_their_end() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\
            Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\nrest";
        let mut from = &wire[..];
        let bodies = [(); 2].map(|()| {
            let head = Head::read(&mut from).expect("a head").expect("an answer");
            head.body(&mut from).expect("a body")
        });
        assert_eq!(bodies, [b"ok".to_vec(), b"abcd".to_vec()]);
        assert_eq!(from, b"rest");
    }
}
