//! The agent: it says back what it was told, line by line.

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use serde_json::Value;

use crate::http::Head;

/// Listens, and answers where.
pub(crate) fn listen() -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("http://{}/turn", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks, breaks with the server that was killed.
            std::thread::spawn(move || drop(serve(stream)));
        }
    });
    Ok(url)
}

fn serve(stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    while let Some(head) = Head::read(&mut connection)? {
        let asked: Value = serde_json::from_slice(&head.body(&mut connection)?)?;
        let messages = asked["messages"].as_array().cloned().unwrap_or_default();
        let texts: Vec<&str> = messages.iter().filter_map(|message| message["text"].as_str()).collect();
        let answer = serde_json::json!({ "text": texts.join("\n") }).to_string();
        write!(
            connection.get_mut(),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
    Ok(())
}
