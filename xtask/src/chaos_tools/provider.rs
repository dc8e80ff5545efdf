//! The provider: it acts, and writes down under which key. It lives through everything that is done to the server.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::Head;

/// How long it takes to act.
const ACT: Duration = Duration::from_millis(3);

/// How often something was done under each key.
pub(super) type Ledger = BTreeMap<String, u32>;

/// The provider, listening until this program ends.
pub(super) struct Provider {
    pub(super) url: String,
    ledger: Arc<Mutex<Ledger>>,
}

impl Provider {
    pub(super) fn listen() -> anyhow::Result<Provider> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let ledger = Arc::new(Mutex::new(Ledger::new()));
        let shared = ledger.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let ledger = shared.clone();
                std::thread::spawn(move || drop(serve(stream, &ledger)));
            }
        });
        Ok(Provider { url, ledger })
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: TcpStream, ledger: &Mutex<Ledger>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    while let Some(head) = Head::read(&mut connection)? {
        let body = head.body(&mut connection)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let key = head.header("idempotency-key").unwrap_or_default().to_owned();
        let path = head.first_line.split(' ').nth(1).unwrap_or("/").to_owned();
        let (status, said) = answer(&path, &key, &body, ledger);
        let said = said.to_string();
        let text = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        connection.get_mut().write_all(text.as_bytes())?;
    }
    Ok(())
}

fn answer(path: &str, key: &str, body: &Value, ledger: &Mutex<Ledger>) -> (u16, Value) {
    let locked = || ledger.lock().unwrap_or_else(PoisonError::into_inner);
    match path {
        "/probe" => {
            let asked = body["key"].as_str().unwrap_or_default();
            match locked().get(asked) {
                Some(_) => (200, json!({ "state": "done", "result": { "key": asked } })),
                None => (200, json!({ "state": "not_done" })),
            }
        }
        "/look" => (200, json!({ "seen": true })),
        "/full" => (422, json!({ "why": "full" })),
        // Those that take a key seriously do a thing once; the others do what they are told.
        "/once" => {
            std::thread::sleep(ACT);
            locked().entry(key.to_owned()).or_insert(1);
            (200, json!({ "key": key }))
        }
        _ => {
            std::thread::sleep(ACT);
            *locked().entry(key.to_owned()).or_insert(0) += 1;
            (200, json!({ "key": key }))
        }
    }
}
