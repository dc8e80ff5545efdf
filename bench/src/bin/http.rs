//! Open-loop load of messages over HTTP: how long a message takes to be accepted, durably.
//!
//! Messages leave by a timetable that does not wait for answers, and latency counts from the time in the timetable, not
//! from when the request really left: a server that stalls is charged for everybody who would have come meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Parser;
use mainspring_bench::server::release_binary;
use mainspring_bench::{Latencies, Machine, Place, Server};
use mainspring_flows::settings::Secret;
use mainspring_flows::sign;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::json;
use tokio::sync::mpsc;

/// Short settings, so that turns and agents really work beside the load.
const ENVIRONMENT: [(&str, &str); 2] = [("MAINSPRING_DEV_QUIET_MS", "200"), ("MAINSPRING_DEV_TOOL_MS", "10")];
/// The configuration with which webhooks of a platform come in. Nobody answers: their turns fail beside the load.
const INCOMING: &str = r#"
[[agents]]
name = "orders"
tenant = "default"
kind = "http"
url = "http://127.0.0.1:9/turn"
attempts_max = 1
protection = { session_messages_per_minute = 0 }

[[integrations]]
id = "bench"
tenant = "default"
agent = "orders"
kind = "generic"
channel = "sms"
secret_env = "BENCH_SECRET"
"#;
const SECRET: &str = "the bench signs what it sends";
/// A request without an answer for this long is an error.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Not counted: connections are opened, the log's first small segments are passed.
const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
#[command(about = "Open-loop load of messages over HTTP")]
struct Args {
    /// Messages per second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds counted.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Sessions the messages are spread over.
    #[arg(long, default_value_t = 200)]
    sessions: u64,
    /// Send them as a platform's webhooks (`/v1/incoming/bench`, signed), rather than as messages.
    #[arg(long, conflicts_with = "url")]
    incoming: bool,
    /// Running servers, each asked in turn; without any, `mainspring dev` is started on a fresh directory.
    #[arg(long, requires = "token", value_delimiter = ',')]
    url: Vec<String>,
    /// Tokens for them, each used in turn.
    #[arg(long, requires = "url", value_delimiter = ',')]
    token: Vec<String>,
    /// The agent the messages are for.
    #[arg(long, default_value = "orders")]
    agent: String,
    /// Where the server's directory is made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The server to start [default: the release build beside this program].
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// What came of one message.
struct Answered {
    latency: Duration,
    late: Duration,
    outcome: String,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.rate == 0 || args.sessions == 0 {
        bail!("--rate and --sessions must be at least 1");
    }
    let place = Place::below(args.dir.as_deref())?;
    println!("machine: {}", Machine::measure(place.path())?);
    let own = match args.url.as_slice() {
        [_, ..] => None,
        [] => {
            let binary = args.binary.clone().map_or_else(release_binary, Ok)?;
            let dir = place.path().join("http");
            Some(if args.incoming {
                let config = place.path().join("mainspring.toml");
                std::fs::write(&config, INCOMING)?;
                Server::serve(&config, &binary, &dir, &[("BENCH_SECRET", SECRET)])?
            } else {
                Server::start(&binary, &dir, &ENVIRONMENT)?
            })
        }
    };
    let (urls, tokens) = match &own {
        Some(server) => (vec![server.url.clone()], vec![server.token()?]),
        None => (args.url.iter().map(|url| url.trim_end_matches('/').to_owned()).collect(), args.token.clone()),
    };
    println!(
        "{} messages/s for {} s over {} sessions, from the time they were due; keep-alive connections to {}",
        args.rate,
        args.seconds,
        args.sessions,
        urls.join(", ")
    );
    let answered = drive(&args, &urls, &tokens)?;
    report(&answered, args.seconds);
    if let Some(server) = &own {
        println!("server resident afterwards: {:.1} MB", server.resident_kib()? as f64 * 1024.0 / 1e6);
    }
    Ok(())
}

fn drive(args: &Args, urls: &[String], tokens: &[String]) -> anyhow::Result<Vec<Answered>> {
    // The workspace's HTTP client brings no cryptography of its own, also for plain addresses.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bearers = tokens.iter().map(|token| {
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {token}")).context("a token is not one line of text")?;
        bearer.set_sensitive(true);
        Ok(bearer)
    });
    let bearers = bearers.collect::<anyhow::Result<Vec<_>>>()?;
    let http = reqwest::Client::builder().http1_only().timeout(ANSWER_MAX).build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (report, mut reports) = mpsc::unbounded_channel();

    // Paced by a thread of its own: the runtime's timers have a resolution of a millisecond, which is more than a
    // message should take.
    let interval = Duration::from_secs(1) / args.rate;
    let warm_up = (WARM_UP.as_secs_f64() * f64::from(args.rate)) as u64;
    let count = warm_up + args.seconds * u64::from(args.rate);
    let begun = Instant::now();
    for nth in 0..count {
        let due = begun + interval.mul_f64(nth as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let session = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) % args.sessions;
        let text = format!("where is order 1042? {nth}");
        // Every token comes to every server, whatever their numbers.
        let (url, bearer) = (&urls[nth as usize % urls.len()], &bearers[nth as usize / urls.len() % bearers.len()]);
        let request = if args.incoming {
            let id = format!("bench-{nth}");
            let said = json!({ "sender": format!("+49{session}"), "text": text, "message_id": id }).to_string();
            let now_ms = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
            let headers = sign::headers(&[Secret(SECRET.to_owned())], &id, now_ms, said.as_bytes());
            let request = http.post(format!("{url}/v1/incoming/bench")).body(said);
            headers.into_iter().fold(request, |request, (name, value)| request.header(name, value))
        } else {
            let address = format!("{url}/v1/sessions/{}/bench-{session}/load/messages", args.agent);
            http.post(address).header("Idempotency-Key", format!("bench-{nth}")).json(&json!({ "text": text }))
        };
        let request = request.header(AUTHORIZATION, bearer.clone());
        let report = (nth >= warm_up).then(|| report.clone());
        runtime.spawn(async move {
            let late = due.elapsed();
            let outcome = match request.send().await {
                // The answer is whole when its body is: only then may the next request use the connection.
                Ok(response) => {
                    let status = response.status();
                    response.bytes().await.map_or_else(|error| error.to_string(), |_| status.to_string())
                }
                Err(error) if error.is_timeout() => "no answer in time".to_owned(),
                Err(error) => error.to_string(),
            };
            if let Some(report) = report {
                let _ = report.send(Answered { latency: due.elapsed(), late, outcome });
            }
        });
    }
    drop(report);
    Ok(runtime.block_on(async {
        let mut answered = Vec::new();
        while let Some(one) = reports.recv().await {
            answered.push(one);
        }
        answered
    }))
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn report(answered: &[Answered], seconds: u64) {
    let (mut accepted, mut late) = (Latencies::default(), Latencies::default());
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for one in answered {
        late.add(one.late);
        *outcomes.entry(&one.outcome).or_default() += 1;
        if one.outcome.starts_with('2') {
            accepted.add(one.latency);
        }
    }
    let [p50, p90, p99, max] = [50.0, 90.0, 99.0, 100.0].map(|percent| accepted.percentile_ms(percent));
    println!(
        "accepted {} ({:.0}/s): p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, max {max:.2} ms",
        accepted.count(),
        accepted.count() as f64 / seconds as f64
    );
    println!("errors {} of {}", answered.len() - accepted.count(), answered.len());
    for (outcome, count) in outcomes.iter().filter(|(outcome, _)| !outcome.starts_with('2')) {
        println!("  {count} x {outcome}");
    }
    let [p50, p99] = [50.0, 99.0].map(|percent| late.percentile_ms(percent));
    println!("of that, this program's own lateness in sending: p50 {p50:.2} ms, p99 {p99:.2} ms");
}
