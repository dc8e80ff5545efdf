//! Where replies are delivered: a small HTTP server that writes down all it is sent.

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use serde::Deserialize;

use crate::http::Head;

/// One delivery, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    /// From the header by which an endpoint recognises a repeat.
    pub(crate) header_id: String,
    pub(crate) reply_id: String,
    pub(crate) turn_id: String,
    pub(crate) session: String,
    pub(crate) text: String,
}

#[derive(Deserialize)]
struct Body {
    reply_id: String,
    turn_id: String,
    session: String,
    text: String,
}

/// The endpoint, listening until this program ends.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) url: String,
    taken: Arc<Mutex<Vec<Delivered>>>,
}

impl Sink {
    pub(crate) fn listen() -> anyhow::Result<Sink> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}/replies", listener.local_addr()?);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let shared = taken.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = shared.clone();
                // A connection that breaks, breaks with the server that was killed.
                std::thread::spawn(move || drop(serve(stream, &taken)));
            }
        });
        Ok(Sink { url, taken })
    }

    /// How many deliveries came so far.
    pub(crate) fn count(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All deliveries so far, in the order they came.
    pub(crate) fn taken(&self) -> Vec<Delivered> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: TcpStream, taken: &Mutex<Vec<Delivered>>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    while let Some(head) = Head::read(&mut connection)? {
        let body: Body = serde_json::from_slice(&head.body(&mut connection)?)?;
        let header_id = head.header("mainspring-reply-id").context("a delivery without its id")?.to_owned();
        let Body { reply_id, turn_id, session, text } = body;
        // Written down before it is answered: what was answered is certainly here.
        let delivered = Delivered { header_id, reply_id, turn_id, session, text };
        taken.lock().unwrap_or_else(PoisonError::into_inner).push(delivered);
        connection.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
    Ok(())
}
