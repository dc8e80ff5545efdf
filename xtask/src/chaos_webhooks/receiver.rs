//! The endpoint: it writes down every request, and then does whatever chance says.

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

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
}

/// What it does other than answer 200.
const MANNERS: [&str; 9] =
    ["500", "503", "429", "hang", "reset", "slow body", "huge body", "redirect", "half an answer"];

pub(super) struct Receiver {
    address: String,
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
        });
        let shared = inside.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inside = shared.clone();
                // A connection that breaks, breaks with the server that was killed.
                std::thread::spawn(move || drop(serve(stream, &inside)));
            }
        });
        Ok(Receiver { address, inside })
    }

    pub(super) fn url(&self, kind: &str) -> String {
        format!("http://{}/{kind}", self.address)
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
        let each = MANNERS.iter().zip(&self.inside.counts);
        each.map(|(manner, count)| format!("{manner} {}", count.load(Ordering::Relaxed))).collect::<Vec<_>>().join(", ")
    }
}

fn serve(stream: TcpStream, inside: &Inside) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
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
                let _ = to.shutdown(Shutdown::Both);
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
                let _ = to.shutdown(Shutdown::Both);
                return Ok(());
            }
        }
    }
    Ok(())
}
