//! A server killed with many live runs, and how long it takes until it answers again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mainspring_bench::closed::Requests;

use crate::measure::{ask_once, begin};
use crate::plan::{Contender, Workload};
use crate::results::Recovery;
use crate::running::{Door, Parts, Running};

/// How long the beginning of so many may take.
const BEGIN_MAX: Duration = Duration::from_secs(1_800);
/// How long a server may take to answer again.
const ANSWER_MAX: Duration = Duration::from_secs(600);

/// Begins sleepers, kills the server, and waits for an answer.
///
/// # Errors
/// When not all could be begun, or nothing answers.
pub(crate) fn measure(contender: Contender, parts: &Parts, dir: &Path, live_runs: u64) -> anyhow::Result<Recovery> {
    let mut running = Running::start(contender, parts, dir)?;
    let Door::Http { address, requests } = &running.door else { bail!("sleepers are begun over HTTP") };
    let address = *address;
    let noop = one_request(&requests(Workload::A));
    let begun = Instant::now();
    let answers = begin(address, requests(Workload::Live), live_runs, BEGIN_MAX)?;
    let begun_in_seconds = begun.elapsed().as_secs_f64();
    if answers.accepted < live_runs {
        bail!("only {} of {live_runs} runs could be begun: {:?}", answers.accepted, answers.errors);
    }
    let server_bytes = running.usage().0.resident_bytes;
    let server = running.servers.first_mut().context("no server")?;
    server.kill();
    let again = Instant::now();
    server.start_again()?;
    while !ask_once(address, &noop).is_ok_and(|status| status == 200) {
        if again.elapsed() > ANSWER_MAX {
            bail!("no answer {} s after the kill", ANSWER_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let answered_after_seconds = again.elapsed().as_secs_f64();
    Ok(Recovery { contender, live_runs, begun_in_seconds, server_bytes, answered_after_seconds })
}

fn one_request(requests: &Requests) -> Vec<u8> {
    let mut bytes = Vec::new();
    requests(0, 0, &mut bytes);
    bytes
}
