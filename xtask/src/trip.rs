//! `trip`: the example of `examples/trip`, as a person would run it: its agent and providers, the server, and a `kill -9`
//! of the server while it undoes a trip. What was really done is read from the providers' own book.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::http::Http;
use crate::server::Place;
use crate::tools::{self, PYTHON};
use crate::workspace::Workspace;

/// Undoing takes this long, so that the server can be killed in its middle.
const UNDO_MS: u64 = 1_500;
/// What is waited for comes long before this.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let python = tools::find(&[PYTHON])?.remove(0);
    let binary = workspace.server_binary()?;
    let dir = tempfile::Builder::new().prefix("trip-").tempdir_in(workspace.scratch("trip")?)?;
    let script = workspace.root.join("examples/trip/trip.py");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let outside = Outside::start(&python, &script, dir.path(), port)?;

    let mut place = Place::new(&binary, dir.path(), &[])?;
    let config = fs::read_to_string(workspace.root.join("examples/trip/mainspring.toml"))?;
    let own = dir.path().join("mainspring.toml");
    fs::write(&own, config.replace("9100", &port.to_string()))?;
    place.config = Some(own);
    let server = place.start()?;
    let token = place.command(&["token", "create", "--name", "xtask", "--scopes", "admin", "--quiet"])?;
    let token = token.trim().to_owned();
    let book = |to: &str, traveller: &str| -> anyhow::Result<String> {
        let mut booking = Command::new(&python);
        booking.arg(&script).args(["book", to, "--traveller", traveller, "--providers", &outside.url]);
        let printed = booking.env("MAINSPRING_URL", place.url()).env("MAINSPRING_TOKEN", &token).output()?;
        let text = String::from_utf8_lossy(&printed.stdout).into_owned();
        ensure!(printed.status.success(), "trip.py book: {text}{}", String::from_utf8_lossy(&printed.stderr));
        let turn = text.split("/turns/").nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(turn.with_context(|| format!("no turn is named in {text}"))?.to_owned())
    };

    let lisbon = book("Lisbon", "anna")?;
    let reply = replied(&place, &token, &lisbon)?;
    ensure!(reply.starts_with("Booked: flight F-1"), "the trip to Lisbon should be booked: {reply}");
    ensure!(outside.acts()? == ["flight", "payment", "hotel"], "what was done for Lisbon: {:?}", outside.acts()?);

    // No room in Atlantis: payment and flight are undone, and the server is killed while it undoes the first of them.
    let atlantis = book("Atlantis", "ben")?;
    until("undoing to begin", || Ok(!outside.book()?["undoing"].as_array().context("a list")?.is_empty()))?;
    server.kill()?;
    let acts = outside.acts()?;
    ensure!(!acts.contains(&"undo flight".to_owned()), "it was killed too late to show anything: {acts:?}");
    let server = place.start()?;
    let reply = replied(&place, &token, &atlantis)?;
    ensure!(reply.contains("everything is undone: flight compensated, payment compensated, hotel failed"), "{reply}");
    let wanted = ["flight", "payment", "undo payment", "undo flight"];
    ensure!(outside.acts()?[3..] == wanted, "each is undone once, the last first: {:?}", outside.acts()?);
    let asked = outside.book()?["undoing"].as_array().map_or(0, Vec::len);
    ensure!(asked >= 3, "the undoing that was cut off should have been asked for again, it was asked {asked} times");
    let executions: Value = Http::new(&place.url(), &token).get("/v1/tool-executions?tool=trip.book")?;
    let found: Vec<&str> = list(&executions["executions"]).iter().filter_map(|one| one["status"].as_str()).collect();
    ensure!(found == ["compensated", "done"], "one execution for each trip, the newest first: {found:?}");

    // Nobody knows what the hotel in Limbo did, until a person says that it is not done: then the rest is undone.
    let limbo = book("Limbo", "carla")?;
    let asked = waiting(&place, &token, "unknown")?;
    ensure!(outside.acts()?.last().is_some_and(|act| act == "hotel"), "the hotel was booked, without an answer");
    let (run, step) = (asked["run_id"].as_str().unwrap_or_default(), asked["step"].as_str().unwrap_or_default());
    let path = format!("/v1/attention/{run}/{step}/settle");
    let settled = Http::new(&place.url(), &token).ask("POST", &path, &[], br#"{"verb": "compensate"}"#)?;
    ensure!(settled.status == 202, "settling answered {}", settled.status);
    let reply = replied(&place, &token, &limbo)?;
    ensure!(reply.contains("everything is undone") || reply.contains("looking after it"), "{reply}");
    until("the trip to Limbo to be undone", || Ok(outside.acts()?.ends_with(&["undo flight".to_owned()])))?;
    let acts = outside.acts()?;
    ensure!(acts[acts.len() - 3..] == ["undo hotel", "undo payment", "undo flight"], "the last first: {acts:?}");
    drop(server);
    println!("booked; undone over a kill -9 in the middle of undoing, each once; unknown until a person said so");
    Ok(())
}

/// The reply of a turn, once it has one.
fn replied(place: &Place, token: &str, turn: &str) -> anyhow::Result<String> {
    let mut reply = String::new();
    until("a reply", || {
        let turn: Value = Http::new(&place.url(), token).get(&format!("/v1/turns/{turn}"))?;
        let state = turn["state"].as_str().unwrap_or_default();
        ensure!(!matches!(state, "failed" | "cancelled"), "the turn {state}: {}", turn["error"]);
        reply = turn["reply"]["text"].as_str().unwrap_or_default().to_owned();
        Ok(state == "completed")
    })?;
    Ok(reply)
}

/// What waits for a person, of one kind.
fn waiting(place: &Place, token: &str, kind: &str) -> anyhow::Result<Value> {
    let mut found = Value::Null;
    until(&format!("something {kind} to wait for a person"), || {
        let all: Value = Http::new(&place.url(), token).get("/v1/attention")?;
        found = list(&all["attention"]).iter().find(|one| one["kind"] == kind).cloned().unwrap_or_default();
        Ok(!found.is_null())
    })?;
    Ok(found)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The example's agent and providers. Dropping it ends them.
struct Outside {
    child: Child,
    url: String,
}

impl Outside {
    fn start(python: &Path, script: &Path, dir: &Path, port: u16) -> anyhow::Result<Outside> {
        let mut command = Command::new(python);
        command.arg(script).args(["serve", "--port", &port.to_string(), "--undo-ms", &UNDO_MS.to_string(), "--ledger"]);
        command.arg(dir.join("ledger.jsonl")).stdin(Stdio::null()).stdout(fs::File::create(dir.join("providers.log"))?);
        let outside = Outside { child: command.spawn()?, url: format!("http://127.0.0.1:{port}") };
        until("the example's providers", || Ok(outside.book().is_ok()))?;
        Ok(outside)
    }

    /// What they did, and what they were asked to undo.
    fn book(&self) -> anyhow::Result<Value> {
        Http::new(&self.url, "").get("/")
    }

    /// What they did, in order, by its names.
    fn acts(&self) -> anyhow::Result<Vec<String>> {
        let book = self.book()?;
        Ok(list(&book["ledger"]).iter().filter_map(|line| line["what"].as_str().map(str::to_owned)).collect())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
