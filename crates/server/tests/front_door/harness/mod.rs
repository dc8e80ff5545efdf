//! What every test uses: a server, users of it, event streams, and agents with a script.

mod agent;
mod history;
mod server;
mod stream;
mod user;

pub(crate) use agent::{Agent, Asked, Desk, Gate, answer, ndjson, reply, status, stream_of};
pub(crate) use history::Segment;
pub(crate) use server::{Server, Setup, TENANT_A, TENANT_B, http, workflow};
pub(crate) use stream::{Heard, Stream};
pub(crate) use user::{Answer, Session, User, texts_of};

use std::time::{Duration, Instant};

/// How long a test waits for something that should take milliseconds. Only a defect reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Looks again and again until there is something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "it never happened: {what}");
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

/// Waits for a future that must complete.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("it never completed: {what}"),
    }
}
