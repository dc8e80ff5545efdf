//! Lists and calls tools of an MCP server, as told by lines of JSON: `cargo run --example remote -- URL`.
//!
//! A line is `{"list": true}` or `{"tool": .., "arguments": {..}, "key": .., "timeout_ms": ..}`; each is answered by one
//! line, in the order in which they end. `{"tool": .., "tag": ..}` gets its tag back.
#![expect(clippy::print_stdout, reason = "answering on standard output is what this program is for")]

use std::time::Duration;

use anyhow::Context;
use mainspring_mcp::{Call, Outcome, Remote, RemoteLimits, Server};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    list: bool,
    #[serde(default)]
    tool: String,
    #[serde(default)]
    arguments: Map<String, Value>,
    #[serde(default)]
    key: String,
    #[serde(default = "ten_seconds")]
    timeout_ms: u64,
    #[serde(default)]
    tag: Value,
}

fn ten_seconds() -> u64 {
    10_000
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = std::env::args().nth(1).context("the server's URL is missing")?;
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .build()?;
    let remote = Remote::new(http, RemoteLimits { answer_bytes_max: 256 * 1024, ..RemoteLimits::default() });
    let mut server = Server::new("example", &url)?;
    if let Ok(token) = std::env::var("TOKEN") {
        server = server.with_header("authorization", &format!("Bearer {token}"))?;
    }
    // Reading blocks, so it has a thread of its own.
    let (lines, mut to_do) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let mut calls = tokio::task::JoinSet::new();
    while let Some(line) = to_do.recv().await {
        let line: Line = serde_json::from_str(&line).with_context(|| line.clone())?;
        let (remote, server) = (remote.clone(), server.clone());
        calls.spawn(async move {
            let mut answer = carry_out(&remote, &server, &line).await;
            answer["tag"] = line.tag;
            println!("{answer}");
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended?;
    }
    Ok(())
}

async fn carry_out(remote: &Remote, server: &Server, line: &Line) -> Value {
    let timeout = Duration::from_millis(line.timeout_ms);
    if line.list {
        return match remote.list_tools(server, timeout).await {
            Ok(tools) => json!({ "outcome": "listed", "tools": tools }),
            Err(why) => json!({ "outcome": "not_done", "cause": format!("{:?}", why.cause), "detail": why.detail }),
        };
    }
    let call = Call {
        tool: &line.tool,
        arguments: &line.arguments,
        idempotency_key: &line.key,
        correlation_id: Some("example:1"),
        timeout,
    };
    match remote.call_tool(server, &call).await {
        Outcome::Succeeded(answer) => json!({ "outcome": "succeeded", "answer": answer }),
        Outcome::ToolError(answer) => json!({ "outcome": "tool_error", "answer": answer }),
        Outcome::NotDone(why) => {
            json!({ "outcome": "not_done", "cause": format!("{:?}", why.cause), "detail": why.detail })
        }
        Outcome::InDoubt(doubt) => {
            json!({ "outcome": "in_doubt", "doubt": format!("{doubt:?}"), "detail": doubt.to_string() })
        }
    }
}
