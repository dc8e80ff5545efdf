//! A server-sent event stream, as a client without a library reads it.

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use super::in_time;

/// A stream.
pub(crate) struct Stream {
    response: Response,
    pending: Vec<u8>,
}

/// An event of it.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// The `id:` line.
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Heard {
    pub(crate) fn turn(&self) -> &str {
        self.data["turn_id"].as_str().unwrap_or_default()
    }
}

impl Stream {
    pub(crate) async fn open(request: RequestBuilder) -> Stream {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let content_type = response.headers()["content-type"].to_str().expect("text");
        assert!(content_type.starts_with("text/event-stream"), "{content_type}");
        Stream { response, pending: Vec::new() }
    }

    /// The next event; `None` when the stream ends.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        in_time("the stream says something", async {
            loop {
                if let Some(end) = self.pending.windows(2).position(|two| two == b"\n\n") {
                    let block: Vec<u8> = self.pending.drain(..end + 2).collect();
                    if let Some(heard) = parse(std::str::from_utf8(&block).expect("UTF-8")) {
                        return Some(heard);
                    }
                    continue;
                }
                match self.response.chunk().await {
                    Ok(Some(chunk)) => self.pending.extend_from_slice(&chunk),
                    // Ended, in order or not.
                    Ok(None) | Err(_) => return None,
                }
            }
        })
        .await
    }

    /// All events up to and with the first of this name and turn.
    pub(crate) async fn until(&mut self, name: &str, turn: &str) -> Vec<Heard> {
        let mut all = Vec::new();
        loop {
            let heard = self.next().await.unwrap_or_else(|| panic!("ended before {name}, after {all:#?}"));
            let last = heard.name == name && heard.turn() == turn;
            all.push(heard);
            if last {
                return all;
            }
        }
    }
}

/// One block; `None` for a comment.
fn parse(block: &str) -> Option<Heard> {
    let (mut id, mut name, mut data) = (None, String::new(), None);
    for line in block.lines() {
        match line.split_once(": ").or_else(|| line.split_once(':')) {
            Some(("id", value)) => id = Some(value.parse().expect("a number")),
            Some(("event", value)) => name = value.to_owned(),
            Some(("data", value)) => {
                assert!(data.is_none(), "two data lines in {block:?}");
                data = Some(serde_json::from_str::<Value>(value).expect("JSON"));
            }
            _ => {}
        }
    }
    let data = data?;
    assert_eq!(data["name"], name.as_str());
    assert_eq!(data["seq"].as_u64(), id, "the id line and the data agree");
    Some(Heard { id, name, data })
}
