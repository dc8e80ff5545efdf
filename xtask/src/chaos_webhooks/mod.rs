//! `chaos-webhooks`: a real server delivers events to an endpoint that misbehaves in every way it knows, and is killed
//! again and again meanwhile; then the endpoint's ledger and the server's own books are compared.
//!
//! The promises: every event accepted is delivered or kept as a dead letter, to each subscription that wants it; order is
//! kept where it is asked for; a repeat has the same id and body; every request is signed, which the published libraries
//! of Standard Webhooks check (Python's and npm's).

mod check;
mod receiver;
mod tls;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use self::check::Owed;
use self::receiver::Receiver;
use crate::dice::{self, Dice};
use crate::http::Http;
use crate::server::Place;
use crate::tools::{self, NODE, Tool};
use crate::workspace::Workspace;

const PYTHON: Tool = Tool { names: &["python3"], package: "python3-venv" };
const NPM: Tool = Tool { names: &["npm"], package: "npm" };

/// How long a server lives after it was ready, in milliseconds.
const LIFE_MS: (u64, u64) = (1_000, 6_000);
/// Sessions the events are of.
const SESSIONS: u64 = 20;
/// The kind of subscription whose endpoint is behind TLS.
const SECURE: &str = "secure";
/// How long everything owed may take to arrive after the last event, while the endpoint behaves.
const FINISH_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long events are told and the server is killed, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Events told in a second.
    #[arg(long, default_value_t = 40)]
    rate: u64,
    /// Chance, for a run like an earlier one [default: from the clock].
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Deserialize)]
struct Made {
    id: String,
    secret: String,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(dice::seed_by_clock);
    let binary = workspace.server_binary()?;
    let parent = workspace.scratch("chaos")?;
    let dir = tempfile::Builder::new().prefix(&format!("webhooks-{seed}-")).tempdir_in(&parent)?.keep();
    println!("{} s, seed {seed}, in {}", args.seconds, dir.display());
    let violations = chaos(workspace, &binary, &dir, args, seed)
        .with_context(|| format!("chaos-webhooks could not finish; everything is in {}", dir.display()))?;
    for violation in violations.iter().take(30) {
        println!("VIOLATION     {violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations (seed {seed}); everything is in {}", violations.len(), dir.display());
    }
    let _ = std::fs::remove_dir_all(&dir);
    println!("no violation");
    Ok(())
}

fn chaos(workspace: &Workspace, binary: &Path, dir: &Path, args: &Args, seed: u64) -> anyhow::Result<Vec<String>> {
    let receiver = Receiver::listen(seed)?;
    let mut place = Place::new(binary, dir, &[])?;
    let (trusted, config) = (dir.join("authority.pem"), dir.join("mainspring.toml"));
    std::fs::write(&trusted, receiver.authority())?;
    std::fs::write(&config, settings(&trusted))?;
    place.config = Some(config);
    let mut server = place.start()?;
    let token = place.token()?;
    let mut http = Http::new(&place.url(), &token);
    receiver.behave();
    let waits: Vec<u64> = vec![100, 300, 1_000, 1_000, 2_000, 2_000, 3_000, 3_000, 5_000, 5_000];
    let common = json!({ "waits_ms": waits, "timeout_ms": 1_000, "rate_per_minute": 0, "events": ["step"] });
    let kinds = [
        ("parallel", json!({ "order": "parallel", "concurrency": 8 })),
        ("session", json!({ "order": "session", "concurrency": 4 })),
        ("endpoint", json!({ "order": "endpoint" })),
        ("filtered", json!({ "filter": "input.n % 3 == 0", "order": "parallel" })),
        (SECURE, json!({ "order": "parallel", "concurrency": 8 })),
    ];
    let mut hooks = Vec::new();
    for (kind, choices) in kinds {
        let mut body = common.clone();
        merge(&mut body, &choices);
        body["name"] = kind.into();
        body["url"] = if kind == SECURE { receiver.secure_url(kind) } else { receiver.url(kind) }.into();
        let made: Made = post(&mut http, "/v1/webhooks", &body)?;
        let _: Value = post(&mut http, &format!("/v1/webhooks/{}/verify", made.id), &json!({}))?;
        hooks.push((kind, made));
    }
    receiver.misbehave();

    let (mut dice, begun) = (Dice::new(seed, 0), Instant::now());
    let (mut owed, mut n, mut kills) = (Vec::new(), 0_u64, 0_u32);
    let mut die_at = Instant::now() + Duration::from_millis(dice.between(LIFE_MS.0, LIFE_MS.1));
    while begun.elapsed() < Duration::from_secs(args.seconds) {
        if let Some(status) = server.ended()? {
            bail!("the server ended by itself ({status}):\n{}", place.last_words());
        }
        if Instant::now() > die_at {
            server.kill()?;
            kills += 1;
            server = place.start().with_context(|| format!("restart {kills}"))?;
            die_at = Instant::now() + Duration::from_millis(dice.between(LIFE_MS.0, LIFE_MS.1));
        }
        let session = n % SESSIONS;
        let event = json!({ "name": "step", "scope": format!("s{session}"), "data": { "n": n, "session": session } });
        if let Ok(answer) = http.ask("POST", "/v1/events", &[], event.to_string().as_bytes())
            && answer.status == 202
        {
            let said: Value = serde_json::from_slice(&answer.body)?;
            owed.push(Owed { seq: said["seq"].as_u64().context("an event without its number")?, n, session });
        }
        n += 1;
        std::thread::sleep(Duration::from_micros(1_000_000 / args.rate.max(1)));
    }
    println!("told          {} events in {:.0} s, {kills} kills", owed.len(), begun.elapsed().as_secs_f64());

    // It behaves again; whatever was given up on it meanwhile is a dead letter, and the rest arrives.
    receiver.behave();
    for (_, made) in &hooks {
        let _: Value = post(&mut http, &format!("/v1/webhooks/{}/resume", made.id), &json!({}))?;
    }
    let finishing = Instant::now();
    let missing = loop {
        let dead = check::dead_letters(&mut http, hooks.iter().map(|(_, made)| made.id.as_str()))?;
        let missing = check::missing(&hooks_of(&hooks), &owed, &receiver.taken(), &dead);
        if missing.is_empty() || finishing.elapsed() > FINISH_MAX {
            println!("dead letters  {}", dead.len());
            break missing;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    println!("arrived       all that is owed {:.1} s after the last event", finishing.elapsed().as_secs_f64());
    let taken = receiver.taken();
    println!(
        "requests      {}, of which {} were answered 2xx; {}",
        taken.len(),
        taken.iter().filter(|one| one.ok).count(),
        receiver.told()
    );
    let mut violations = missing;
    violations.extend(check::repeats(&taken));
    violations.extend(check::order(&hooks_of(&hooks), &taken));
    violations.extend(signatures(workspace, dir, &hooks, &taken)?);
    Ok(violations)
}

/// A server that may call this machine, and trusts one more authority.
fn settings(trusted: &Path) -> String {
    format!(
        r#"
[[agents]]
name = "nobody"
tenant = "default"
kind = "http"
url = "http://127.0.0.1:9/turn"

[egress]
http = true
ports = []
allow = ["127.0.0.0/8"]
trust = [{trusted:?}]
"#
    )
}

fn hooks_of(hooks: &[(&'static str, Made)]) -> Vec<(&'static str, String)> {
    hooks.iter().map(|(kind, made)| (*kind, made.id.clone())).collect()
}

fn merge(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        into.extend(from.clone());
    }
}

fn post<T: serde::de::DeserializeOwned>(http: &mut Http, path: &str, body: &Value) -> anyhow::Result<T> {
    let answer = http.ask("POST", path, &[], body.to_string().as_bytes())?;
    if !(200..300).contains(&answer.status) {
        bail!("POST {path} answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    serde_json::from_slice(&answer.body).with_context(|| format!("POST {path} answered an unexpected shape"))
}

/// Has the published libraries verify every request, as of the time it was signed at.
fn signatures(
    workspace: &Workspace,
    dir: &Path,
    hooks: &[(&'static str, Made)],
    taken: &[receiver::Taken],
) -> anyhow::Result<Vec<String>> {
    let requests = dir.join("requests.jsonl");
    let mut lines = String::new();
    for one in taken {
        let secret = hooks.iter().find(|(_, made)| one.id.contains(&made.id)).map(|(_, made)| &made.secret);
        let Some(secret) = secret else { continue };
        let headers =
            json!({ "webhook-id": one.id, "webhook-timestamp": one.timestamp, "webhook-signature": one.signature });
        lines.push_str(&json!({ "secret": secret, "headers": headers, "body": one.body }).to_string());
        lines.push('\n');
    }
    std::fs::write(&requests, lines)?;
    let here = workspace.root.join("tests/webhooks");
    let found = tools::find(&[PYTHON, NODE, NPM])?;
    let venv = workspace.target_dir.join("webhooks-python");
    if !venv.join("bin/python").exists() {
        carried_out(Command::new(&found[0]).args(["-m", "venv"]).arg(&venv))?;
    }
    carried_out(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "standardwebhooks==1.1.0"]))?;
    let packages = workspace.scratch("webhooks-node")?;
    if !packages.join("node_modules/standardwebhooks").exists() {
        let mut npm = Command::new(&found[2]);
        carried_out(npm.args(["install", "--silent", "--prefix"]).arg(&packages).arg("standardwebhooks@1.1.1"))?;
    }
    let mut violations = Vec::new();
    let mut python = Command::new(venv.join("bin/python"));
    python.arg(here.join("verify.py")).arg(&requests);
    let mut node = Command::new(&found[1]);
    node.arg(here.join("verify.mjs")).arg(&requests).arg(&packages);
    for (language, mut command) in [("Python", python), ("JavaScript", node)] {
        let ran = command.output()?;
        let said = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
        println!("signatures    {language}: {said}");
        if !ran.status.success() {
            violations.push(format!("{language}: {said} {}", String::from_utf8_lossy(&ran.stderr)));
        }
    }
    Ok(violations)
}

fn carried_out(command: &mut Command) -> anyhow::Result<()> {
    let ended = command.status().with_context(|| format!("{command:?} could not be started"))?;
    if ended.success() { Ok(()) } else { bail!("{command:?} ended with {ended}") }
}
