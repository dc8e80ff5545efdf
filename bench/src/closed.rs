//! A closed loop: so many callers, each with a connection of its own, each asking again as soon as it is answered.
//!
//! All of them are on one thread, so that the load takes one core at most of those it shares with what it measures.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Latencies;
use crate::http1::Connection;

/// How long callers may take to be answered after the end, before they are left alone.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// Writes a caller's next request: caller, how many it has sent, the request's bytes.
pub type Requests = Arc<dyn Fn(usize, u64, &mut Vec<u8>) + Send + Sync>;

/// What is asked, and how.
pub struct Closed {
    /// Whom.
    pub address: SocketAddr,
    /// How many callers.
    pub callers: usize,
    /// Not counted: connections are opened, caches filled.
    pub warm: Duration,
    /// Counted; with `each`, the most it may take.
    pub counted: Duration,
    /// Requests of each caller, if not as many as there is time for. Then the time counted ends with the last answer.
    pub each: Option<u64>,
    /// What each asks.
    pub requests: Requests,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Answers {
    /// Of every answer within the time counted that was a success.
    pub latencies: Latencies,
    /// Answers that were none, by what they were.
    pub errors: BTreeMap<String, u64>,
    /// How long was counted.
    pub seconds: f64,
    /// Successes of the whole load, the warm-up and what ended late included.
    pub accepted: u64,
}

impl Closed {
    /// Runs the load on this thread. `look` is called when counting begins and when it ends.
    ///
    /// # Errors
    /// When no connection can be opened.
    pub fn run<T>(&self, mut look: impl FnMut() -> T) -> anyhow::Result<(Answers, T, T)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let begin = Instant::now() + self.warm;
            let end = begin + self.counted;
            let mut callers = JoinSet::new();
            for caller in 0..self.callers {
                let connection = Connection::open(self.address).await?;
                let most = self.each.unwrap_or(u64::MAX);
                callers.spawn(call(connection, self.requests.clone(), caller, most, begin..end));
            }
            tokio::time::sleep_until(begin.into()).await;
            let before = look();
            let mut answers = Answers::default();
            if self.each.is_some() {
                let _ = tokio::time::timeout_at(end.into(), answers.gather(&mut callers)).await;
            } else {
                tokio::time::sleep_until(end.into()).await;
            }
            let after = look();
            answers.seconds = begin.elapsed().as_secs_f64();
            if tokio::time::timeout(LAST_ANSWERS, answers.gather(&mut callers)).await.is_err() {
                *answers.errors.entry("no answer".to_owned()).or_default() += callers.len() as u64;
            }
            Ok((answers, before, after))
        })
    }
}

impl Answers {
    /// Takes over what callers were answered, until none is left.
    async fn gather(&mut self, callers: &mut JoinSet<Answers>) {
        while let Some(Ok(one)) = callers.join_next().await {
            self.latencies.merge(one.latencies);
            self.accepted += one.accepted;
            for (error, count) in one.errors {
                *self.errors.entry(error).or_default() += count;
            }
        }
    }
}

async fn call(
    mut connection: Connection,
    requests: Requests,
    caller: usize,
    most: u64,
    counted: Range<Instant>,
) -> Answers {
    let (mut answers, mut request) = (Answers::default(), Vec::with_capacity(512));
    let mut nth = 0;
    loop {
        request.clear();
        requests(caller, nth, &mut request);
        let sent = Instant::now();
        if sent >= counted.end || nth >= most {
            return answers;
        }
        let answer = connection.ask(&request).await;
        let now = Instant::now();
        nth += 1;
        match answer {
            Ok(200..=299) => {
                answers.accepted += 1;
                if counted.contains(&now) {
                    answers.latencies.add(now - sent);
                }
            }
            Ok(status) => {
                let text = String::from_utf8_lossy(connection.body()).chars().take(200).collect::<String>();
                *answers.errors.entry(format!("{status} {text}")).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => {
                *answers.errors.entry(error.to_string()).or_default() += 1;
                return answers;
            }
        }
    }
}
