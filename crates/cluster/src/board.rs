//! What a node has in hand at the moment, and whom it believes to have the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Router;
use mainspring_postgres::{NodeId, Roster};
use serde::Serialize;
use tokio::sync::{Notify, watch};

/// How a partition is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// What was accepted is finished first; the next node finds everything done.
    HandOver,
    /// Another node has it, or may have it: nothing more can be done, and nobody waits.
    Abandon,
}

/// A partition that is open on this node.
pub trait Part: Send + Sync {
    /// Answers requests of its tenants.
    fn router(&self) -> Router;

    /// Whether it goes on. One that does not is given up and opened anew, here or elsewhere.
    fn is_well(&self) -> bool;

    /// Ends it. After a hand-over nothing of it is at work any more.
    fn stop(&self, how: Stop) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// How far an open partition has come in its life. Only ever goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    /// It finishes what is under way and takes no more. Streams, which never finish, are ended.
    Draining,
    Ended,
}

/// An open partition as requests see it.
pub(crate) struct Place {
    pub(crate) part: Arc<dyn Part>,
    router: Router,
    stage: watch::Sender<Stage>,
    busy: AtomicUsize,
    left: Notify,
    since: Instant,
}

impl Place {
    fn new(part: Arc<dyn Part>) -> Self {
        let router = part.router();
        let (stage, busy) = (watch::Sender::new(Stage::Open), AtomicUsize::new(0));
        Place { part, router, stage, busy, left: Notify::new(), since: Instant::now() }
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// One more request is at work here until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    pub(crate) fn drain(&self) {
        self.stage.send_if_modified(|stage| std::mem::replace(stage, Stage::Draining.max(*stage)) < Stage::Draining);
    }

    pub(crate) fn end(&self) {
        self.stage.send_replace(Stage::Ended);
    }

    /// Waits until no request is at work here.
    pub(crate) async fn quiet(&self) {
        loop {
            let left = self.left.notified();
            if self.busy.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.stage.borrow() > Stage::Open
    }

    /// When streams from here must end.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        reached(self.stage.subscribe(), Stage::Draining)
    }

    /// When nothing here answers any more.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        reached(self.stage.subscribe(), Stage::Ended)
    }
}

async fn reached(mut stage: watch::Receiver<Stage>, wanted: Stage) {
    // A place that is gone has reached everything.
    let _ = stage.wait_for(|stage| *stage >= wanted).await;
}

/// A request at work.
pub(crate) struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

enum Slot {
    Opening,
    Open(Arc<Place>),
    Closing,
}

/// Where a partition is, as far as this node knows.
pub(crate) enum Where {
    /// Here.
    Here(Arc<Place>),
    /// With another node, reached at this address.
    There(NodeId, String),
    /// With this node, which is not ready yet, or can't be sure of its lease.
    HereSoon,
    /// With nobody who lives.
    Nowhere,
}

struct Inner {
    slots: BTreeMap<u16, Slot>,
    roster: Roster,
    lease_until: Instant,
}

/// Shared by all who ask and the one who keeps it. Cheap to clone.
#[derive(Clone)]
pub struct Board {
    me: NodeId,
    inner: Arc<Mutex<Inner>>,
    /// Grows with each change.
    changes: watch::Sender<u64>,
    look: Arc<Notify>,
    pub(crate) forwarded: Arc<AtomicU64>,
    pub(crate) waiting: Arc<AtomicUsize>,
}

/// A node, as pages and operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// Its release.
    pub release: String,
    /// `alive`, `leaving` or `gone`.
    pub state: &'static str,
    /// Whether it is the one that answers.
    pub this: bool,
    /// The partitions it holds.
    pub partitions: Vec<u16>,
}

/// The cluster, as pages and operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterView {
    /// All nodes heard of in the last hour.
    pub nodes: Vec<NodeView>,
    /// Partitions nobody who lives holds.
    pub free: Vec<u16>,
    /// Whether the lease of the node that answers stands.
    pub lease_stands: bool,
}

impl Board {
    /// An empty one for a node.
    pub fn new(me: NodeId) -> Self {
        let inner = Inner { slots: BTreeMap::new(), roster: Roster::default(), lease_until: Instant::now() };
        Board {
            me,
            inner: Arc::new(Mutex::new(inner)),
            changes: watch::Sender::new(0),
            look: Arc::default(),
            forwarded: Arc::default(),
            waiting: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is complete before it unlocks, so a panic elsewhere does not make it wrong.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// To be woken at each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Asks the keeper to look at the roster soon. May be lost: it looks once in a while anyway.
    pub fn ask_to_look(&self) {
        self.look.notify_one();
    }

    pub(crate) async fn asked_to_look(&self) {
        self.look.notified().await;
    }

    /// The roster is known as it was at some time after which the lease lasts until `lease_until`.
    pub(crate) fn learn(&self, roster: Roster, lease_until: Instant) {
        let mut inner = self.lock();
        let news = inner.roster != roster || inner.lease_until < Instant::now();
        inner.roster = roster;
        inner.lease_until = lease_until;
        drop(inner);
        if news {
            self.changed();
        }
    }

    /// Partitions that are in this node's hands, open or on the way.
    pub(crate) fn holding(&self) -> BTreeSet<u16> {
        self.lock().slots.keys().copied().collect()
    }

    /// Open partitions, and whether the roster, which was asked for at `asked`, gives them to this node.
    pub(crate) fn open(&self, asked: Instant) -> Vec<(u16, Arc<Place>, bool)> {
        let inner = self.lock();
        let open = inner.slots.iter().filter_map(|(number, slot)| match slot {
            Slot::Open(place) => Some((*number, place.clone())),
            Slot::Opening | Slot::Closing => None,
        });
        let mine =
            |number: u16| inner.roster.partitions.get(usize::from(number)).is_some_and(|one| one.node == Some(self.me));
        // Of one that was opened since, an answer to what was asked before says nothing.
        open.map(|(number, place)| (number, place.clone(), place.since >= asked || mine(number))).collect()
    }

    pub(crate) fn opening(&self, number: u16) {
        self.lock().slots.insert(number, Slot::Opening);
    }

    pub(crate) fn opened(&self, number: u16, part: Arc<dyn Part>) {
        let mut inner = self.lock();
        inner.slots.insert(number, Slot::Open(Arc::new(Place::new(part))));
        // The roster will say so as well, at the next look.
        if let Some(one) = inner.roster.partitions.get_mut(usize::from(number)) {
            one.node = Some(self.me);
        }
        drop(inner);
        self.changed();
    }

    /// Takes an open partition from the board; nobody finds it here from now on.
    pub(crate) fn closing(&self, number: u16) -> Option<Arc<Place>> {
        let mut inner = self.lock();
        let slot = inner.slots.get_mut(&number)?;
        let Slot::Open(place) = slot else { return None };
        let place = place.clone();
        *slot = Slot::Closing;
        drop(inner);
        self.changed();
        Some(place)
    }

    pub(crate) fn closed(&self, number: u16) {
        let mut inner = self.lock();
        inner.slots.remove(&number);
        if let Some(one) = inner.roster.partitions.get_mut(usize::from(number)).filter(|one| one.node == Some(self.me))
        {
            one.node = None;
        }
        drop(inner);
        self.changed();
    }

    /// Where a partition is.
    pub(crate) fn place(&self, number: u16) -> Where {
        let inner = self.lock();
        let lease_stands = Instant::now() < inner.lease_until;
        match inner.slots.get(&number) {
            Some(Slot::Open(place)) if lease_stands && !place.is_ending() => return Where::Here(place.clone()),
            Some(Slot::Open(_) | Slot::Opening) => return Where::HereSoon,
            Some(Slot::Closing) | None => {}
        }
        let holder = inner.roster.partitions.get(usize::from(number)).and_then(|one| one.node);
        match holder {
            Some(holder) if holder == self.me => Where::HereSoon,
            Some(holder) => match inner.roster.nodes.iter().find(|node| node.id == holder) {
                Some(node) if node.alive => Where::There(holder, node.address.clone()),
                _ => Where::Nowhere,
            },
            None => Where::Nowhere,
        }
    }

    /// Somebody who can answer what belongs to no partition.
    pub(crate) fn anybody(&self) -> Where {
        let inner = self.lock();
        let open = inner.slots.values().find_map(|slot| match slot {
            Slot::Open(place) if !place.is_ending() => Some(place.clone()),
            Slot::Open(_) | Slot::Opening | Slot::Closing => None,
        });
        if let Some(place) = open {
            return Where::Here(place);
        }
        let peer = inner.roster.nodes.iter().find(|node| node.alive && !node.leaving && node.id != self.me);
        peer.map_or(Where::Nowhere, |node| Where::There(node.id, node.address.clone()))
    }

    /// Waits until a partition is no longer with a node.
    pub(crate) async fn moved(&self, number: u16, from: NodeId) {
        let mut changes = self.changes();
        loop {
            match self.place(number) {
                Where::There(node, _) if node == from => {}
                Where::Here(_) | Where::There(..) | Where::HereSoon | Where::Nowhere => return,
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The addresses of the other nodes that live.
    pub(crate) fn peers(&self) -> Vec<String> {
        let inner = self.lock();
        let peers = inner.roster.nodes.iter().filter(|node| node.alive && node.id != self.me);
        peers.map(|node| node.address.clone()).collect()
    }

    /// Whether the lease stands, and how many partitions are open here.
    pub fn standing(&self) -> (bool, usize) {
        let inner = self.lock();
        let open = inner.slots.values().filter(|slot| matches!(slot, Slot::Open(_))).count();
        (Instant::now() < inner.lease_until, open)
    }

    /// Requests that were passed on, and those that wait for a partition now.
    pub fn counts(&self) -> (u64, usize) {
        (self.forwarded.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed))
    }

    /// The cluster as this node sees it.
    pub fn view(&self) -> ClusterView {
        let inner = self.lock();
        let nodes = inner.roster.nodes.iter().map(|node| NodeView {
            id: node.id.to_string(),
            name: node.name.clone(),
            address: node.address.clone(),
            release: node.release.clone(),
            state: match (node.alive, node.leaving) {
                (true, false) => "alive",
                (true, true) => "leaving",
                (false, _) => "gone",
            },
            this: node.id == self.me,
            partitions: inner
                .roster
                .partitions
                .iter()
                .filter(|one| one.node == Some(node.id))
                .map(|one| one.number)
                .collect(),
        });
        let lives = |id: NodeId| inner.roster.nodes.iter().any(|node| node.id == id && node.alive);
        let free = inner.roster.partitions.iter().filter(|one| !one.node.is_some_and(lives));
        ClusterView {
            nodes: nodes.collect(),
            free: free.map(|one| one.number).collect(),
            lease_stands: Instant::now() < inner.lease_until,
        }
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("me", &self.me).finish_non_exhaustive()
    }
}
