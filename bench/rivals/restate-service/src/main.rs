//! What the comparison has Restate call: the same functions as ours, written with Restate's SDK.
//!
//! `restate-service PORT TALLY` serves them on this port of loopback, and keeps in the file TALLY how many no-ops and
//! sleeps were done. Nothing is logged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use restate_sdk::prelude::*;

static DONE: AtomicU64 = AtomicU64::new(0);

struct Bench;

#[service]
impl Bench {
    /// Does nothing.
    #[handler]
    async fn noop(&self, _ctx: Context<'_>) -> Result<(), TerminalError> {
        DONE.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Three steps that do nothing, each recorded before the next begins.
    #[handler]
    async fn steps(&self, ctx: Context<'_>) -> Result<u64, TerminalError> {
        let mut sum = 0;
        for step in 1..=3_u64 {
            sum += ctx.run(move || async move { Ok(step) }).name("step").await?;
        }
        Ok(sum)
    }

    /// Calls `children` of the first kind at once and waits for all of them.
    #[handler]
    async fn fan_out(&self, ctx: Context<'_>, children: u64) -> Result<u64, TerminalError> {
        let calls: Vec<_> = (0..children).map(|_| ctx.service_client::<BenchClient>().noop().call()).collect();
        for call in calls {
            call.await?;
        }
        Ok(children)
    }

    /// Sleeps for so many milliseconds, durably.
    #[handler]
    async fn sleep(&self, ctx: Context<'_>, ms: u64) -> Result<(), TerminalError> {
        ctx.sleep(Duration::from_millis(ms)).await?;
        DONE.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Counter;

#[object]
impl Counter {
    /// Adds to the counter of this key and tells what it is then.
    #[handler]
    async fn add(&self, ctx: ObjectContext<'_>, more: u64) -> Result<u64, TerminalError> {
        let sum = ctx.get::<u64>("count").await?.unwrap_or(0) + more;
        ctx.set("count", sum);
        Ok(sum)
    }
}

struct Session;

#[object]
impl Session {
    /// A message to the session of this key: its state is read, the agent is asked in a step, which answers at once, and
    /// what it leaves of the state is written. What comes back is the reply.
    #[handler]
    async fn message(&self, ctx: ObjectContext<'_>, text: String) -> Result<String, TerminalError> {
        let turns = ctx.get::<u64>("turns").await?.unwrap_or(0);
        let asked = move || async move { Ok(if text.is_empty() { String::new() } else { "It is on its way.".to_owned() }) };
        let reply = ctx.run(asked).name("agent").await?;
        ctx.set("turns", turns + 1);
        Ok(reply)
    }
}

/// Writes the number down now and then while it changes, renamed into place so that a reader finds a whole one.
fn keep_tally(path: String) {
    let mut written = None;
    loop {
        let now = DONE.load(Ordering::Relaxed);
        let next = format!("{path}.next");
        let put = || std::fs::write(&next, now.to_string()).and_then(|()| std::fs::rename(&next, &path));
        if written != Some(now) && put().is_ok() {
            written = Some(now);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(Ok(port)), Some(tally)) = (args.next().map(|port| port.parse::<u16>()), args.next()) else {
        eprintln!("usage: restate-service PORT TALLY");
        std::process::exit(2);
    };
    std::thread::spawn(|| keep_tally(tally));
    let endpoint = Endpoint::builder().bind(Bench).bind(Counter).bind(Session).build();
    HttpServer::new(endpoint).listen_and_serve(SocketAddr::from(([127, 0, 0, 1], port))).await;
}
