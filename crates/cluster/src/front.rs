//! Where requests come in: carried out here, passed on to where their partition is, or held back until that is known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use mainspring_postgres::NodeId;
use tower_service::Service;

use crate::board::{Board, Place, Where};
use crate::relay::{ELSEWHERE, HOP, Peers, Replay, cut};

/// Where a node is told to look at the roster.
pub const LOOK_PATH: &str = "/cluster/look";

/// Which partition a request is about; `None` if any will do.
pub type Whose = Arc<dyn Fn(&Parts) -> Option<u16> + Send + Sync>;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// No node has its partition, for longer than patience lasts. It was not carried out.
    Away,
    /// Too many wait already. It was not carried out.
    Busy,
    /// Whoever worked on it is gone. It was carried out or not, and it may not be repeated without being asked.
    Unknown,
}

/// Says that in the words of the protocol a request speaks.
pub type Refuse = fn(&Parts, Unserved) -> Response;

/// How long a request is tried again if nothing changes meanwhile.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// How requests are let in.
#[derive(Debug, Clone)]
pub struct FrontOptions {
    /// How long a request is held back at most while its partition is on the way.
    pub patience: Duration,
    /// How many requests are held back at most.
    pub waiting_max: usize,
}

impl Default for FrontOptions {
    fn default() -> Self {
        FrontOptions { patience: Duration::from_secs(15), waiting_max: 10_000 }
    }
}

/// Lets requests in. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    board: Board,
    whose: Whose,
    refuse: Refuse,
    peers: Peers,
    options: FrontOptions,
}

/// What became of one try.
enum Tried {
    Answered(Response),
    /// Nothing was done, or it may be done twice.
    Again,
    /// No answer came, and it may not be done twice.
    Unknown,
}

impl Front {
    /// With a board, a way to tell whose a request is, and one to say no.
    pub fn new(board: Board, whose: Whose, refuse: Refuse, options: FrontOptions) -> Self {
        Front { board, whose, refuse, peers: Peers::new(), options }
    }

    /// Answers a request.
    pub async fn serve(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let partition = (self.whose)(&parts);
        let hopped = parts.headers.contains_key(HOP);
        let (body, until) = (Replay::new(body), Instant::now() + self.options.patience);
        loop {
            // Before it is looked at, so that no change is missed.
            let mut changes = self.board.changes();
            let place = partition.map_or_else(|| self.board.anybody(), |number| self.board.place(number));
            // What is too long to be kept is sent on once.
            let Some(copy) = body.again() else { return (self.refuse)(&parts, Unserved::Unknown) };
            let tried = match place {
                Where::Here(place) => here(&place, &parts, copy).await,
                Where::There(..) | Where::Nowhere if hopped => return elsewhere(),
                Where::There(node, address) => self.there(partition, node, &address, &parts, copy).await,
                Where::HereSoon | Where::Nowhere => Tried::Again,
            };
            match tried {
                Tried::Answered(response) => return response,
                Tried::Unknown => return (self.refuse)(&parts, Unserved::Unknown),
                Tried::Again => {}
            }
            let Some(_waits) = Waits::begin(&self.board, self.options.waiting_max) else {
                return (self.refuse)(&parts, Unserved::Busy);
            };
            self.board.ask_to_look();
            if Instant::now() >= until {
                return (self.refuse)(&parts, Unserved::Away);
            }
            let _ = tokio::time::timeout(TRY_AGAIN, changes.changed()).await;
        }
    }

    async fn there(&self, partition: Option<u16>, node: NodeId, address: &str, parts: &Parts, body: Replay) -> Tried {
        self.board.forwarded.fetch_add(1, Ordering::Relaxed);
        let moved = {
            let board = self.board.clone();
            async move {
                match partition {
                    Some(number) => board.moved(number, node).await,
                    None => std::future::pending().await,
                }
            }
        };
        let mut moved = Box::pin(moved);
        let answer = tokio::select! {
            answer = self.peers.pass_on(address, parts, body) => answer,
            () = &mut moved => return in_doubt(parts),
        };
        match answer {
            Ok(response) if response.headers().contains_key(ELSEWHERE) => Tried::Again,
            Ok(response) => Tried::Answered(cut(response, moved)),
            Err(error) if error.is_connect() => Tried::Again,
            Err(_) => in_doubt(parts),
        }
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("board", &self.board).finish_non_exhaustive()
    }
}

async fn here(place: &Arc<Place>, parts: &Parts, body: Replay) -> Tried {
    let busy = place.enter();
    if place.is_ending() {
        return Tried::Again;
    }
    let request = Request::from_parts(parts.clone(), Body::new(body));
    let response = tokio::select! {
        response = async { place.router().call(request).await } => match response {
            Ok(response) => response,
            Err(never) => match never {},
        },
        () = place.ended() => return in_doubt(parts),
    };
    drop(busy);
    // What was refused because the partition closes is asked again where it goes.
    if response.status() == StatusCode::SERVICE_UNAVAILABLE && place.is_ending() && may_be_repeated(parts) {
        return Tried::Again;
    }
    Tried::Answered(cut(response, place.draining()))
}

/// No answer came from where the request was sent.
fn in_doubt(parts: &Parts) -> Tried {
    if may_be_repeated(parts) { Tried::Again } else { Tried::Unknown }
}

/// Whether a request may be carried out twice: it only reads, says what shall be rather than what shall be done, or has a
/// key by which it is recognised.
fn may_be_repeated(parts: &Parts) -> bool {
    let by_method = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(&parts.method);
    by_method || parts.headers.contains_key("idempotency-key")
}

/// The answer to a peer that believes the partition to be here.
fn elsewhere() -> Response {
    (StatusCode::MISDIRECTED_REQUEST, [(ELSEWHERE, "1")]).into_response()
}

/// A request that is held back.
struct Waits<'a>(&'a Board);

impl<'a> Waits<'a> {
    fn begin(board: &'a Board, waiting_max: usize) -> Option<Self> {
        let before = board.waiting.fetch_add(1, Ordering::AcqRel);
        let waits = Waits(board);
        (before < waiting_max).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
