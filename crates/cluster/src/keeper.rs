//! Keeps the lease, looks at the roster, and has done what follows from it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mainspring_postgres::Nodes;
use tokio::sync::Semaphore;

use crate::board::{Board, Part, Stop};
use crate::front::LOOK_PATH;
use crate::plan::plan;
use crate::relay::Peers;

/// Rounds per lease, so that a few may fail, and one that has ended is noticed soon.
const ROUNDS_PER_LEASE: u32 = 10;
/// After the database was away, the part of a lease that nodes get to renew theirs before anybody relieves them: several of
/// their tries. Too little would only move partitions needlessly.
const STEADY_PART: u32 = 4;
/// Between two rounds at least, however often somebody asks.
const ROUND_GAP: Duration = Duration::from_millis(50);
/// The same while the database does not answer.
const FAILED_GAP: Duration = Duration::from_millis(250);
/// Partitions opened, or handed over, at the same time.
const AT_ONCE: usize = 8;
/// How long requests that are under way get to finish before their partition is closed. Most take milliseconds, and those
/// that wait for something are asked again where the partition has gone.
const DRAIN: Duration = Duration::from_millis(500);
/// How long peers are waited for when they are told to look.
const TELL: Duration = Duration::from_secs(1);

/// A partition on its way to being open, or why it can't be.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Arc<dyn Part>, String>> + Send + 'a>>;

/// Who opens partitions on this node.
pub trait Host: Send + Sync {
    /// Opens a partition in this node's name.
    fn open(&self, partition: u16) -> Opening<'_>;
}

/// The one who keeps the board.
pub struct Keeper {
    nodes: Arc<Nodes>,
    board: Board,
    host: Arc<dyn Host>,
    peers: Peers,
    at_once: Arc<Semaphore>,
    /// A partition changed hands: the others should look.
    news: Arc<AtomicBool>,
    /// Since when the database has answered without a break.
    steady_since: Option<Instant>,
    /// Whether it answered the last time.
    answers: bool,
}

impl Keeper {
    /// For a node that has joined.
    pub fn new(nodes: Arc<Nodes>, board: Board, host: Arc<dyn Host>) -> Self {
        Keeper {
            nodes,
            board,
            host,
            peers: Peers::new(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            news: Arc::default(),
            steady_since: None,
            answers: true,
        }
    }

    /// Goes round until `stop` is done, then hands everything over and leaves the roster.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) {
        let every = self.nodes.lease() / ROUNDS_PER_LEASE;
        let mut stop = std::pin::pin!(stop);
        loop {
            let gap = if self.round(false).await { ROUND_GAP } else { FAILED_GAP };
            tokio::time::sleep(gap).await;
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(every) => {}
                () = self.board.asked_to_look() => {}
            }
        }
        self.leave(every).await;
    }

    /// Answers whether the database did.
    async fn round(&mut self, leaving: bool) -> bool {
        let (nodes, begun) = (self.nodes.clone(), Instant::now());
        let seen = tokio::task::spawn_blocking(move || nodes.round(leaving)).await;
        let roster = match seen {
            Ok(Ok(roster)) => roster,
            Ok(Err(error)) => {
                if self.answers {
                    tracing::warn!(%error, "the lease could not be renewed; trying until it is");
                }
                self.answers = false;
                self.steady_since = None;
                return false;
            }
            Err(_) => return false,
        };
        if !self.answers {
            tracing::info!("the lease is renewed again");
            self.answers = true;
        }
        let lease = self.nodes.lease();
        let steady = self.steady_since.get_or_insert(begun).elapsed() >= lease / STEADY_PART;
        let lease_until = begun + lease;
        self.board.learn(roster.clone(), lease_until);
        for (number, place, mine) in self.board.open(begun) {
            if !mine {
                tracing::warn!(partition = number, "another node has taken this partition over");
                self.abandon(number);
            } else if !place.part.is_well() {
                tracing::warn!(partition = number, "this partition does not go on; it is opened anew");
                self.abandon(number);
            }
        }
        if !leaving {
            let next = plan(self.nodes.id(), &roster, &self.board.holding(), steady);
            for number in next.disown {
                tracing::warn!(partition = number, "this node's name is taken off a partition it does not have");
                let nodes = self.nodes.clone();
                // Waited for, so that it can't come after the partition was taken after all.
                let _ = tokio::task::spawn_blocking(move || nodes.release(number)).await;
                self.news.store(true, Ordering::Release);
            }
            next.take.into_iter().for_each(|number| self.take(number));
            next.release.into_iter().for_each(|number| drop(tokio::spawn(self.release(number))));
        }
        if self.news.swap(false, Ordering::AcqRel) {
            self.tell();
        }
        true
    }

    fn take(&self, number: u16) {
        self.board.opening(number);
        let (board, host, at_once, nodes) =
            (self.board.clone(), self.host.clone(), self.at_once.clone(), self.nodes.clone());
        let news = self.news.clone();
        tokio::spawn(async move {
            let _permit = at_once.acquire().await;
            let begun = Instant::now();
            match host.open(number).await {
                Ok(part) => {
                    let took_ms = begun.elapsed().as_millis() as u64;
                    tracing::info!(partition = number, took_ms, "the partition is open on this node");
                    board.opened(number, part);
                    news.store(true, Ordering::Release);
                }
                Err(cause) => {
                    tracing::warn!(partition = number, %cause, "the partition could not be opened; trying again");
                    // It may be in this node's name by now, and then nobody else would try.
                    let _ = tokio::task::spawn_blocking(move || nodes.release(number)).await;
                    board.closed(number);
                }
            }
            board.ask_to_look();
        });
    }

    /// Hands a partition over to whoever takes it next.
    fn release(&self, number: u16) -> impl Future<Output = ()> + Send + use<> {
        let (board, at_once, nodes, news) =
            (self.board.clone(), self.at_once.clone(), self.nodes.clone(), self.news.clone());
        async move {
            let _permit = at_once.acquire().await;
            let begun = Instant::now();
            let Some(place) = board.closing(number) else { return };
            place.drain();
            let _ = tokio::time::timeout(DRAIN, place.quiet()).await;
            place.part.stop(Stop::HandOver).await;
            place.end();
            let released = tokio::task::spawn_blocking(move || nodes.release(number)).await;
            if let Ok(Err(error)) = released {
                tracing::warn!(partition = number, %error, "the partition is closed, and free once this node's lease ends");
            }
            board.closed(number);
            let took_ms = begun.elapsed().as_millis() as u64;
            tracing::info!(partition = number, took_ms, "the partition was handed over");
            news.store(true, Ordering::Release);
            board.ask_to_look();
        }
    }

    /// Stops what is not this node's any more, or does not go on. Nobody waits for that.
    fn abandon(&self, number: u16) {
        let Some(place) = self.board.closing(number) else { return };
        place.drain();
        place.end();
        let (board, nodes) = (self.board.clone(), self.nodes.clone());
        tokio::spawn(async move {
            place.part.stop(Stop::Abandon).await;
            // In case it is still in this node's name.
            let _ = tokio::task::spawn_blocking(move || nodes.release(number)).await;
            board.closed(number);
            board.ask_to_look();
        });
    }

    /// Tells the others to look at the roster. They do so anyway, a little later.
    fn tell(&self) {
        for address in self.board.peers() {
            let peers = self.peers.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(TELL, peers.tell(&address, LOOK_PATH)).await;
            });
        }
    }

    async fn leave(mut self, every: Duration) {
        let begun = Instant::now();
        self.round(true).await;
        loop {
            let open: Vec<_> = self.board.open(begun).into_iter().map(|(number, ..)| self.release(number)).collect();
            let handing_over = futures_util::future::join_all(open);
            let mut handing_over = std::pin::pin!(handing_over);
            loop {
                tokio::select! {
                    _ = &mut handing_over => break,
                    () = tokio::time::sleep(every) => drop(self.round(true).await),
                }
            }
            self.round(true).await;
            // What was being opened when it was told to stop is handed over as well.
            if self.board.holding().is_empty() || begun.elapsed() > 4 * self.nodes.lease() {
                break;
            }
            tokio::time::sleep(ROUND_GAP).await;
        }
        let nodes = self.nodes.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || nodes.leave()).await {
            tracing::warn!(%error, "the others will notice that this node has left when its lease ends");
        }
        self.tell();
        // For what was told a moment ago.
        tokio::time::sleep(ROUND_GAP).await;
        tracing::info!(took_ms = begun.elapsed().as_millis() as u64, "this node has left the cluster");
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("board", &self.board).finish_non_exhaustive()
    }
}
