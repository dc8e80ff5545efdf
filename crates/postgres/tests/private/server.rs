//! A private PostgreSQL that can be killed and started again, with a schema for each store. Nothing of it is kept.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use mainspring_postgres::PostgresOptions;
use mainspring_store::conformance::BATCH_BYTES_MAX;
use tempfile::TempDir;

use crate::process::Process;

/// Durable, as it is where it matters.
const SETTINGS: [&str; 3] = ["fsync=on", "shared_buffers=32MB", "max_connections=60"];

pub(crate) struct Server {
    process: Process,
    pub(crate) port: u16,
    schemas: AtomicU32,
    _dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> Server {
        // Below the builds: /tmp is memory on many machines.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let process = Process::start(dir.path(), &SETTINGS).unwrap();
        Server { port: process.port, process, schemas: AtomicU32::new(0), _dir: dir }
    }

    /// Starts it again, with what is in its directory.
    pub(crate) fn run(&self) {
        self.process.run().unwrap();
    }

    /// All of it ends at once.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    pub(crate) fn url(&self) -> String {
        self.process.url()
    }

    pub(crate) fn url_at(&self, port: u16) -> String {
        Process::url_at(port)
    }

    /// Options for a store of its own.
    pub(crate) fn options(&self) -> PostgresOptions {
        self.options_of(&format!("store_{}", self.schemas.fetch_add(1, Ordering::Relaxed)))
    }

    /// Options for the store in this schema.
    pub(crate) fn options_of(&self, schema: &str) -> PostgresOptions {
        let schema = schema.to_owned();
        PostgresOptions { schema, batch_bytes_max: BATCH_BYTES_MAX, ..PostgresOptions::new(self.url()) }
    }

    /// The first value of the first row, as text, as any other program would ask.
    pub(crate) fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap()
    }

    /// Does something in a transaction that stays as it is until what this answers is dropped.
    pub(crate) fn hold(&self, sql: &str) -> Holding {
        let (url, sql) = (self.url(), format!("BEGIN; {sql}"));
        let ((let_go, until), (held, holds)) = (channel::<()>(), channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let (client, connection) = runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
            runtime.spawn(connection);
            runtime.block_on(client.batch_execute(&sql)).unwrap();
            held.send(()).unwrap();
            let _ = until.recv();
        });
        holds.recv().expect("it could not be held");
        Holding { let_go: Some(let_go), thread: Some(thread) }
    }

    fn try_ask(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        // On a thread of its own: a test may be in a runtime already.
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await?;
                let connection = tokio::spawn(connection);
                let answer = client.simple_query(sql).await?;
                drop(client);
                let _ = connection.await;
                let first = answer.iter().find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                Ok(first.unwrap_or_default())
            })
        };
        std::thread::scope(|scope| scope.spawn(ask).join().unwrap())
    }
}

/// A transaction that is not ended.
pub(crate) struct Holding {
    let_go: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.let_go.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
