//! The real binary as a process of a test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_mainspring");
/// How long it may take until it says where it listens.
const READY_MAX: Duration = Duration::from_secs(120);

/// A server, ended as trouble would end it (`kill -9`), so that nothing is put in order.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
    pub(crate) dir: PathBuf,
    pub(crate) http: reqwest::Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts it on a directory and waits until it has said there where it listens.
    pub(crate) async fn start(mut command: Command, dir: &Path) -> Server {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let _ = std::fs::remove_file(dir.join("server.json"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server is started");
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < READY_MAX, "waited for the server to say where it listens");
            tokio::time::sleep(Duration::from_millis(10)).await;
            let Ok(text) = std::fs::read(dir.join("server.json")) else { continue };
            let running: Value = serde_json::from_slice(&text).expect("server.json is JSON");
            let url = running["url"].as_str().expect("a url").to_owned();
            return Server { process, url, dir: dir.to_owned(), http: reqwest::Client::new() };
        }
    }

    /// Starts `mainspring serve` with the `mainspring.toml` that lies in the directory.
    pub(crate) async fn serve(dir: &Path) -> Server {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(dir.join("mainspring.toml"));
        command.arg("--dir").arg(dir);
        Server::start(command, dir).await
    }

    /// Makes a token with the binary's own command.
    pub(crate) fn token(&self, tenant: &str) -> String {
        let mut command = Command::new(BINARY);
        command.args(["token", "create", "--quiet", "--tenant", tenant, "--dir"]).arg(&self.dir);
        let made = command.output().expect("the command runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("text").trim().to_owned()
    }
    /// Asks with a token; gives the status and what was said, `null` where that is no JSON.
    pub(crate) async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        answer(self.http.get(format!("{}{path}", self.url)).bearer_auth(token)).await
    }

    /// The same with a body.
    pub(crate) async fn post(&self, token: &str, path: &str, body: &Value) -> (u16, Value) {
        answer(self.http.post(format!("{}{path}", self.url)).bearer_auth(token).json(body)).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}
