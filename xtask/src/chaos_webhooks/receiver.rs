//! The endpoint: it writes down every request, and then does whatever chance says.

use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;

use super::tls::Tls;
use crate::dice::Dice;
use crate::http::Head;

/// A request, as it came.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) timestamp: String,
    pub(super) signature: String,
    pub(super) body: String,
    /// Whether it was answered 2xx, wholly written.
    pub(super) ok: bool,
}

struct Inside {
    misbehaves: AtomicBool,
    taken: Mutex<Vec<Taken>>,
    dice: Mutex<Dice>,
    counts: [AtomicU64; MANNERS.len()],
    tls: Tls,
    tls_counts: [AtomicU64; TLS_MANNERS.len()],
}

/// What it does other than answer 200.
const MANNERS: [&str; 9] =
    ["500", "503", "429", "hang", "reset", "slow body", "huge body", "redirect", "half an answer"];

/// How it meets a connection with TLS, other than well.
const TLS_MANNERS: [&str; 5] = ["cut", "not TLS", "wrong authority", "wrong name", "expired"];

pub(super) struct Receiver {
    address: String,
    secure_address: String,
    inside: Arc<Inside>,
}

impl Receiver {
    pub(super) fn listen(seed: u64) -> anyhow::Result<Receiver> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?.to_string();
        let inside = Arc::new(Inside {
            misbehaves: AtomicBool::new(false),
            taken: Mutex::default(),
            dice: Mutex::new(Dice::new(seed, 7)),
            counts: Default::default(),
            tls: Tls::new()?,
            tls_counts: Default::default(),
        });
        let shared = inside.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inside = shared.clone();
                // A connection that breaks, breaks with the server that was killed.
                std::thread::spawn(move || drop(stream.set_nodelay(true).map(|()| serve(stream, &inside))));
            }
        });
        let secure = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let secure_address = secure.local_addr()?.to_string();
        let shared = inside.clone();
        std::thread::spawn(move || {
            for stream in secure.incoming().flatten() {
                let inside = shared.clone();
                std::thread::spawn(move || drop(meet(stream, &inside)));
            }
        });
        Ok(Receiver { address, secure_address, inside })
    }

    pub(super) fn url(&self, kind: &str) -> String {
        format!("http://{}/{kind}", self.address)
    }

    /// The same behind TLS.
    pub(super) fn secure_url(&self, kind: &str) -> String {
        format!("https://{}/{kind}", self.secure_address)
    }

    /// The authority its certificate is from, in PEM.
    pub(super) fn authority(&self) -> &str {
        self.inside.tls.authority()
    }

    pub(super) fn behave(&self) {
        self.inside.misbehaves.store(false, Ordering::SeqCst);
    }

    pub(super) fn misbehave(&self) {
        self.inside.misbehaves.store(true, Ordering::SeqCst);
    }

    pub(super) fn taken(&self) -> Vec<Taken> {
        self.inside.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it did what.
    pub(super) fn told(&self) -> String {
        let each = MANNERS.iter().zip(&self.inside.counts).chain(TLS_MANNERS.iter().zip(&self.inside.tls_counts));
        each.map(|(manner, count)| format!("{manner} {}", count.load(Ordering::Relaxed))).collect::<Vec<_>>().join(", ")
    }
}

/// What requests come over: a connection, or TLS on one.
trait Link: Read + Write {
    /// Ends it, whatever is under way.
    fn cut(&mut self);
}

impl Link for TcpStream {
    fn cut(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Link for StreamOwned<ServerConnection, TcpStream> {
    fn cut(&mut self) {
        self.sock.cut();
    }
}

/// Meets whoever connects to the door with TLS: mostly as it should be.
fn meet(stream: TcpStream, inside: &Inside) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let nth = {
        let mut dice = inside.dice.lock().unwrap_or_else(PoisonError::into_inner);
        let odd = inside.misbehaves.load(Ordering::SeqCst) && dice.once_in(3);
        odd.then(|| dice.between(0, TLS_MANNERS.len() as u64 - 1) as usize)
    };
    let Some(nth) = nth else {
        return serve(StreamOwned::new(ServerConnection::new(inside.tls.good())?, stream), inside);
    };
    inside.tls_counts[nth].fetch_add(1, Ordering::Relaxed);
    match TLS_MANNERS[nth] {
        "cut" => {
            // In the middle of the greeting.
            let _ = (&stream).read(&mut [0; 16]);
            drop(stream.shutdown(Shutdown::Both));
            Ok(())
        }
        "not TLS" => Ok((&stream).write_all(b"HTTP/1.1 400 No\r\n\r\n")?),
        manner => {
            let bad = ServerConnection::new(inside.tls.bad(manner))?;
            serve(StreamOwned::new(bad, stream), inside)
        }
    }
}

fn serve(stream: impl Link, inside: &Inside) -> anyhow::Result<()> {
    let mut connection = BufReader::new(stream);
    while let Some(head) = Head::read(&mut connection)? {
        let body = String::from_utf8(head.body(&mut connection)?)?;
        let said: Value = serde_json::from_str(&body)?;
        if said["type"] == "webhook.verification" {
            let echo = serde_json::json!({ "challenge": said["challenge"] }).to_string();
            write!(connection.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{echo}", echo.len())?;
            continue;
        }
        let header = |name: &str| head.header(name).map(str::to_owned).with_context(|| format!("no {name}"));
        let one = Taken {
            id: header("webhook-id")?,
            timestamp: header("webhook-timestamp")?,
            signature: header("webhook-signature")?,
            body,
            ok: false,
        };
        // Written down before it is answered: what was answered is certainly here.
        let place = {
            let mut taken = inside.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.push(one);
            taken.len() - 1
        };
        let manner = {
            let mut dice = inside.dice.lock().unwrap_or_else(PoisonError::into_inner);
            // One in three misbehaves: streaks of ten, after which it would be spared, are rare.
            let odd = inside.misbehaves.load(Ordering::SeqCst) && dice.once_in(3);
            odd.then(|| dice.between(0, MANNERS.len() as u64 - 1) as usize)
        };
        if let Some(manner) = manner {
            inside.counts[manner].fetch_add(1, Ordering::Relaxed);
        }
        let ok = || {
            inside.taken.lock().unwrap_or_else(PoisonError::into_inner)[place].ok = true;
        };
        let to = connection.get_mut();
        match manner.map(|nth| MANNERS[nth]) {
            None => {
                ok();
                to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            }
            Some("500") => to.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")?,
            Some("503") => to.write_all(b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")?,
            Some("429") => to.write_all(b"HTTP/1.1 429 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")?,
            Some("hang") => {
                std::thread::sleep(Duration::from_secs(3));
                return Ok(());
            }
            Some("reset") => {
                to.cut();
                return Ok(());
            }
            Some("slow body") => {
                ok();
                to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")?;
                for _ in 0..9 {
                    std::thread::sleep(Duration::from_millis(300));
                    to.write_all(b"x")?;
                }
                return Ok(());
            }
            Some("huge body") => {
                ok();
                to.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                // Until the other side has had enough of it.
                while to.write_all(&[b'x'; 65_536]).is_ok() {}
                return Ok(());
            }
            Some("redirect") => {
                to.write_all(b"HTTP/1.1 302 No\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")?;
            }
            Some(_) => {
                to.write_all(b"HTTP/1.1 200 OK\r\nContent-Le")?;
                to.cut();
                return Ok(());
            }
        }
    }
    Ok(())
}
