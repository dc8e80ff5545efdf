//! The other side: servers that answer with given bytes, hang, dawdle or flood, and a DNS server that answers what it
//! likes.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// An HTTP server of sorts.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    close: Arc<Notify>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
enum Manner {
    /// Answers with these bytes, then closes the connection.
    Answer(Vec<u8>),
    /// Answers with these, and keeps it open.
    Dawdle(Vec<u8>),
    /// Sends a body without end.
    Flood,
}

pub(super) fn http_answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

impl Peer {
    pub(super) async fn answering(bytes: Vec<u8>) -> Peer {
        Peer::serving(Manner::Answer(bytes)).await
    }

    pub(super) async fn dawdling(bytes: Vec<u8>) -> Peer {
        Peer::serving(Manner::Dawdle(bytes)).await
    }

    pub(super) async fn hanging() -> Peer {
        Peer::serving(Manner::Dawdle(Vec::new())).await
    }

    pub(super) async fn flooding() -> Peer {
        Peer::serving(Manner::Flood).await
    }

    /// A URL where nobody listens.
    pub(super) async fn closed() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(super) fn close_connections(&self) {
        self.close.notify_waiters();
    }

    async fn serving(manner: Manner) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, close) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counted, closing) = (requests.clone(), close.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (manner, counted, closing) = (manner.clone(), counted.clone(), closing.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = converse(stream, manner, &counted) => {}
                        () = closing.notified() => {}
                    }
                });
            }
        });
        Peer { address, requests, close, serving }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn converse(mut stream: TcpStream, manner: Manner, requests: &AtomicUsize) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    // A request here has a body of one JSON object.
    while !(seen.ends_with(b"}") && seen.windows(5).any(|some| some == b"\r\n\r\n{")) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            // The beginning of TLS, which nobody here speaks.
            Ok(_) if buffer[0] == 0x16 && seen.is_empty() => return,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    match manner {
        Manner::Answer(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Manner::Dawdle(bytes) => {
            let _ = stream.write_all(&bytes).await;
            std::future::pending::<()>().await;
        }
        Manner::Flood => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b'a'; 4096]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// A DNS server that answers what a test says, for no time at all (TTL 0).
pub(super) struct Dns {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<&'static str>>>,
    serving: JoinHandle<()>,
}

impl Dns {
    /// One that answers the nth question of a kind (A, AAAA) with those addresses that are of that kind.
    pub(super) async fn answering(answer: impl Fn(&str, usize) -> Vec<IpAddr> + Send + 'static) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let question = &buffer[..length];
                // The name's labels end with an empty one; type and class follow.
                let name_end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
                let kind = if question[name_end + 1] == 28 { "AAAA" } else { "A" };
                let nth = {
                    let mut noted = noted.lock().unwrap();
                    noted.push(kind);
                    noted.iter().filter(|one| **one == kind).count() - 1
                };
                let of_kind: Vec<IpAddr> =
                    answer(kind, nth).into_iter().filter(|ip| ip.is_ipv6() == (kind == "AAAA")).collect();
                let _ = socket.send_to(&reply(question, name_end + 4, &of_kind), from).await;
            }
        });
        Dns { address, asked, serving }
    }

    /// One that hears and does not answer.
    pub(super) async fn silent() -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let _socket = socket;
            std::future::pending::<()>().await;
        });
        Dns { address, asked: Arc::default(), serving }
    }

    pub(super) fn questions_of(&self, kind: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|one| **one == kind).count()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The question's id and question, then one record for each address, whose name is a pointer to the question's.
fn reply(question: &[u8], question_end: usize, addresses: &[IpAddr]) -> Vec<u8> {
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    reply.extend(&question[12..question_end]);
    for address in addresses {
        let (kind, bytes) = match address {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (28, v6.octets().to_vec()),
        };
        reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, bytes.len() as u8]);
        reply.extend(bytes);
    }
    reply
}
