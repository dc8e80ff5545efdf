//! One connection of HTTP/1.1, one request at a time: what a load generator needs, for as little of the cores it shares
//! with the servers it measures as can be. Whole requests go out as bytes made beforehand, and of an answer only the
//! status and the end are looked for.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::ops::Range;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of an answer, its head included. More is no answer a load generator asks for.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    body: Range<usize>,
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(4096), body: 0..0 })
    }

    /// Sends a request and reads its answer to the end; gives the status.
    ///
    /// # Errors
    /// When the connection breaks or what comes is no HTTP/1.1 answer that leaves it open.
    pub async fn ask(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.read().await?;
        };
        let Head { status, length } = Head::parse(&self.buffer[..head])?;
        match length {
            Length::Bytes(bytes) => {
                while self.buffer.len() < head + bytes {
                    self.read().await?;
                }
                self.body = head..head + bytes;
            }
            Length::Chunks => self.chunks(head).await?,
        }
        Ok(status)
    }

    /// The body of the last answer.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// Reads a body in chunks and moves them together.
    async fn chunks(&mut self, head: usize) -> Result<()> {
        let (mut at, mut end) = (head, head);
        loop {
            let line = loop {
                match find(&self.buffer[at..], b"\r\n") {
                    Some(length) => break at + length,
                    None => self.read().await?,
                }
            };
            let digits = std::str::from_utf8(&self.buffer[at..line]).ok().and_then(|line| line.split(';').next());
            let size = digits.and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
            let size = size.ok_or_else(|| bad("a chunk without a size"))?;
            let next = line + 2 + size + 2;
            while self.buffer.len() < next {
                self.read().await?;
            }
            if size == 0 {
                self.body = head..end;
                return Ok(());
            }
            self.buffer.copy_within(line + 2..line + 2 + size, end);
            (at, end) = (next, end + size);
        }
    }

    async fn read(&mut self) -> Result<()> {
        if self.buffer.len() > ANSWER_BYTES_MAX {
            return Err(bad("an answer of more than 8 MiB"));
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Error::new(ErrorKind::UnexpectedEof, "the connection was closed")),
            _ => Ok(()),
        }
    }
}

/// A request with a body of JSON, as bytes.
#[must_use]
pub fn request(method: &str, path: &str, token: Option<&str>, body: &str) -> Vec<u8> {
    let bearer = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{bearer}{kind}content-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

enum Length {
    Bytes(usize),
    Chunks,
}

struct Head {
    status: u16,
    length: Length,
}

impl Head {
    fn parse(head: &[u8]) -> Result<Head> {
        let text = std::str::from_utf8(head).map_err(|_| bad("a head that is no text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
        let status: u16 = status.and_then(|status| status.parse().ok()).ok_or_else(|| bad("no status line"))?;
        let mut length = Length::Bytes(0);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Length::Bytes(value.parse().map_err(|_| bad("a length that is no number"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
                length = Length::Chunks;
            } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
                return Err(bad("the server closes the connection after each answer"));
            }
        }
        Ok(Head { status, length })
    }
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("not what a load generator expects: {what}"))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(parts: &'static [&'static str]) -> Result<(u16, String)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await?;
            for part in parts {
                stream.write_all(part.as_bytes()).await?;
                stream.flush().await?;
                tokio::task::yield_now().await;
            }
            // That is all: the connection is closed.
            Ok::<_, Error>(())
        });
        let mut connection = Connection::open(address).await?;
        let status = connection.ask(&request("POST", "/", None, "{}")).await;
        drop(server.await);
        status.map(|status| (status, String::from_utf8_lossy(connection.body()).into_owned()))
    }

    #[tokio::test]
    async fn answers_of_a_length_and_in_chunks_are_read_to_their_end() {
        let sized = answered(&["HTTP/1.1 200 OK\r\nContent-", "Length: 5\r\n\r\nhe", "llo"]).await.unwrap();
        assert_eq!(sized, (200, "hello".to_owned()));
        let chunks =
            &["HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r", "\n2;x\r\nlo\r\n0\r", "\n\r\n"];
        assert_eq!(answered(chunks).await.unwrap(), (202, "hello".to_owned()));
        assert_eq!(answered(&["HTTP/1.1 204 No Content\r\n\r\n"]).await.unwrap(), (204, String::new()));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        let cut = answered(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe"]).await.unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
        let closes = answered(&["HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"]).await.unwrap_err();
        assert!(closes.to_string().contains("closes the connection"), "{closes}");
    }
}
