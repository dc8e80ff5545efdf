//! A connection whose calls block, and the one thread that tends all of them.
//!
//! The client library is async and the traits of a store are not, and their callers are threads of the engine as well as
//! of async runtimes, in which no second runtime may be driven. So a thread of our own drives the sockets, and whoever
//! calls waits for it, with an end to its patience.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::trouble::Trouble;

/// Values for the parameters of a statement.
pub(crate) type Params<'a> = [&'a (dyn ToSql + Sync)];

/// A statement that is to be carried out with others.
pub(crate) struct Later<'a> {
    pub(crate) sql: String,
    pub(crate) params: Vec<Box<dyn ToSql + Sync + 'a>>,
}

/// Where connections come from: the thread ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Link {
    handle: Handle,
    _stop: Arc<oneshot::Sender<()>>,
    config: Config,
    tls: MakeRustlsConnect,
    /// What each connection begins with.
    greeting: String,
    patience: Duration,
}

impl Link {
    pub(crate) fn new(
        config: Config,
        tls: MakeRustlsConnect,
        greeting: String,
        patience: Duration,
    ) -> std::io::Result<Link> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("mainspring-postgres".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Link { handle, _stop: Arc::new(stop), config, tls, greeting, patience })
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Makes a connection.
    pub(crate) fn connect(&self) -> Result<Connection, Trouble> {
        let (config, tls) = (self.config.clone(), self.tls.clone());
        let connecting = self.handle.spawn(async move {
            let (client, connection) = config.connect(tls).await?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to PostgreSQL ended");
                }
            });
            Ok::<Client, tokio_postgres::Error>(client)
        });
        let client = match wait(self.patience, connecting) {
            Some(Ok(connected)) => connected?,
            Some(Err(_)) => return Err(Trouble::Lost { cause: "the connection's thread has ended".to_owned() }),
            None => return Err(Trouble::Lost { cause: "no connection was made in time".to_owned() }),
        };
        let mut connection = Connection { client, statements: HashMap::new(), spoiled: false, patience: self.patience };
        connection.run(&self.greeting)?;
        Ok(connection)
    }
}

/// One connection. Each call blocks until it is answered, or patience ends.
pub(crate) struct Connection {
    client: Client,
    statements: HashMap<String, Statement>,
    /// Something was not answered: what it would answer next is not known.
    spoiled: bool,
    patience: Duration,
}

impl Connection {
    /// Whether it can be used again.
    pub(crate) fn is_well(&self) -> bool {
        !self.spoiled && !self.client.is_closed()
    }

    /// Carries statements out that have no parameters and give no rows.
    pub(crate) fn run(&mut self, sql: &str) -> Result<(), Trouble> {
        let answer = answered(self.patience, self.client.batch_execute(sql));
        self.heard(answer)
    }

    /// Carries a statement out and answers how many rows it touched.
    pub(crate) fn execute(&mut self, sql: &str, params: &Params<'_>) -> Result<u64, Trouble> {
        let statement = self.prepared(sql)?;
        let answer = answered(self.patience, self.client.execute(&statement, params));
        self.heard(answer)
    }

    /// Carries statements out in their order, without waiting for one before the next is sent: many cost one round trip.
    /// For within a transaction, where after an error nothing counts.
    pub(crate) fn all(&mut self, statements: &[Later<'_>]) -> Result<(), Trouble> {
        let prepared = statements.iter().map(|later| self.prepared(&later.sql)).collect::<Result<Vec<_>, _>>()?;
        let client = &self.client;
        let sending = prepared.iter().zip(statements).map(|(statement, later)| {
            // Each is sent when it is polled first.
            Box::pin(client.execute_raw(statement, later.params.iter().map(|param| &**param)))
        });
        let mut sending: Vec<_> = sending.map(Some).collect();
        let answer = answered(
            self.patience,
            poll_fn(|context| {
                for one in &mut sending {
                    match one.as_mut().map(|one| one.as_mut().poll(context)) {
                        Some(Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
                        Some(Poll::Ready(Ok(_))) => *one = None,
                        Some(Poll::Pending) | None => {}
                    }
                }
                if sending.iter().any(Option::is_some) { Poll::Pending } else { Poll::Ready(Ok(())) }
            }),
        );
        drop(sending);
        self.heard(answer)
    }

    /// The rows a statement gives.
    pub(crate) fn query(&mut self, sql: &str, params: &Params<'_>) -> Result<Vec<Row>, Trouble> {
        let statement = self.prepared(sql)?;
        let answer = answered(self.patience, self.client.query(&statement, params));
        self.heard(answer)
    }

    /// The one row a statement gives, if it does.
    pub(crate) fn query_one(&mut self, sql: &str, params: &Params<'_>) -> Result<Option<Row>, Trouble> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// Shows the rows a statement gives one by one, without holding more of them than are on the wire.
    pub(crate) fn each(&mut self, sql: &str, params: &Params<'_>, each: &mut dyn FnMut(&Row)) -> Result<(), Trouble> {
        let statement = self.prepared(sql)?;
        let begun = answered(self.patience, self.client.query_raw(&statement, params.iter().copied()));
        let mut rows = pin!(self.heard(begun)?);
        loop {
            let next = answered(self.patience, async { next(rows.as_mut()).await.transpose() });
            match self.heard(next)? {
                Some(row) => each(&row),
                None => return Ok(()),
            }
        }
    }

    /// Carries `work` out as one transaction: all of it when it is answered with success; after an error nothing, unless
    /// that is [`Trouble::Lost`], when it is not known.
    pub(crate) fn transaction<T, E: From<Trouble>>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run("BEGIN")?;
        match work(self) {
            Ok(done) => {
                self.run("COMMIT")?;
                Ok(done)
            }
            Err(error) => {
                if self.is_well() && self.run("ROLLBACK").is_err() {
                    self.spoiled = true;
                }
                Err(error)
            }
        }
    }

    fn prepared(&mut self, sql: &str) -> Result<Statement, Trouble> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let answer = answered(self.patience, self.client.prepare(sql));
        let statement = self.heard(answer)?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn heard<T>(&mut self, answer: Result<T, Trouble>) -> Result<T, Trouble> {
        if let Err(trouble) = &answer {
            self.spoiled |= trouble.spoils();
        }
        answer
    }
}

async fn next<S: Stream + Unpin>(mut stream: S) -> Option<S::Item> {
    stream.next().await
}

fn answered<T>(
    patience: Duration,
    asking: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Trouble> {
    match wait(patience, asking) {
        Some(answer) => Ok(answer?),
        None => Err(Trouble::Lost { cause: format!("no answer within {} ms", patience.as_millis()) }),
    }
}

/// Blocks this thread until a future is done, or `None` when patience ends. Only for futures that another thread wakes.
fn wait<F: Future>(patience: Duration, future: F) -> Option<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    // The caller may be within a task of a runtime, whose budget would else be spent by asking again.
    let mut future = pin!(tokio::task::unconstrained(future));
    let end = Instant::now() + patience;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}
