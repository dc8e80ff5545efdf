//! Two nodes in one process, each with its board and its front, and parts that count what they are asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;

use axum::Router;
use axum::body::to_bytes;
use axum::http::Uri;
use axum::response::Html;
use axum::routing::{get, post};
use futures_util::StreamExt;
use mainspring_postgres::{NodeRow, PartitionRow, Roster};
use tokio::net::TcpListener;

use super::*;
use crate::board::{Part, Stop};

/// A part that says where it is and what it was sent.
#[derive(Default)]
struct Echo {
    name: &'static str,
    asked: Arc<AtomicUsize>,
}

impl Part for Echo {
    fn router(&self) -> Router {
        let (name, asked) = (self.name, self.asked.clone());
        let events = || async {
            let stream = futures_util::stream::once(async { Ok::<_, std::convert::Infallible>("data: first\n\n") });
            let body = Body::from_stream(stream.chain(futures_util::stream::pending()));
            ([("content-type", "text/event-stream")], body)
        };
        let never = || async {
            std::future::pending::<()>().await;
            Html("never")
        };
        let count = asked.clone();
        let say = move |body: String| async move {
            asked.fetch_add(1, Ordering::Relaxed);
            format!("{name}: {body}")
        };
        let stuck = move || {
            count.fetch_add(1, Ordering::Relaxed);
            never()
        };
        Router::new().route("/say", post(say)).route("/events", get(events)).route("/stuck", post(stuck))
    }

    fn is_well(&self) -> bool {
        true
    }

    fn stop(&self, _: Stop) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

struct TestNode {
    id: NodeId,
    board: Board,
    front: Front,
    address: String,
    asked: Arc<AtomicUsize>,
}

fn refused(_: &Parts, why: Unserved) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why:?}")).into_response()
}

impl TestNode {
    async fn start(id: u128) -> TestNode {
        let board = Board::new(NodeId(id));
        let options = FrontOptions { patience: Duration::from_millis(400), ..FrontOptions::default() };
        // Partition 0, whatever is asked.
        let front = Front::new(board.clone(), Arc::new(|_| Some(0)), refused, options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = front.clone();
        let routes = Router::new().fallback(move |request: Request| {
            let front = serving.clone();
            async move { front.serve(request).await }
        });
        tokio::spawn(async move { axum::serve(listener, routes).await });
        TestNode { id: NodeId(id), board, front, address, asked: Arc::default() }
    }

    fn open(&self, name: &'static str) {
        self.board.opening(0);
        self.board.opened(0, Arc::new(Echo { name, asked: self.asked.clone() }));
    }

    async fn ask(&self, method: Method, path: &'static str, key: bool, body: &'static str) -> (StatusCode, String) {
        let response = self.front.serve(request(method, path, key, body)).await;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }
}

fn request(method: Method, path: &'static str, key: bool, body: &'static str) -> Request {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_static(path);
    if key {
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    }
    request
}

/// Both know both, and who holds the partition.
fn introduce(nodes: [&TestNode; 2], holder: Option<&TestNode>) {
    let row = |node: &TestNode| NodeRow {
        id: node.id,
        name: String::new(),
        address: node.address.clone(),
        release: String::new(),
        alive: true,
        leaving: false,
    };
    let partitions = vec![PartitionRow { number: 0, node: holder.map(|node| node.id), epoch: 1 }];
    let roster = Roster { nodes: nodes.iter().map(|node| row(node)).collect(), partitions };
    for node in nodes {
        node.board.learn(roster.clone(), Instant::now() + Duration::from_secs(60));
    }
}

#[tokio::test]
async fn a_request_goes_where_its_partition_is() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    introduce([&one, &two], Some(&two));
    two.open("two");
    assert_eq!(one.ask(Method::POST, "/say", false, "hello").await, (StatusCode::OK, "two: hello".to_owned()));
    assert_eq!(two.ask(Method::POST, "/say", false, "again").await, (StatusCode::OK, "two: again".to_owned()));
    assert_eq!(one.board.counts().0, 1, "and only one was passed on");
}

#[tokio::test]
async fn a_request_waits_for_a_partition_that_moves() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    // The first believes the second to have it, which does not know of that: it says so, and nothing was done.
    introduce([&one, &two], Some(&two));
    introduce([&two, &two], None);
    let asking = one.ask(Method::POST, "/say", false, "whole");
    let moving = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        introduce([&one, &two], Some(&one));
        one.open("one");
    };
    let (answer, ()) = tokio::join!(asking, moving);
    assert_eq!(answer, (StatusCode::OK, "one: whole".to_owned()), "the body is sent once more from its beginning");
    assert_eq!(two.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_was_opened_since_is_not_taken_for_lost() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    let asked = Instant::now();
    one.open("one");
    // The answer to what was asked before it was opened.
    introduce([&one, &two], None);
    assert!(one.board.open(asked)[0].2, "it says nothing about it");
    assert!(!one.board.open(Instant::now())[0].2, "a later one does");
}

#[tokio::test]
async fn patience_ends() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    introduce([&one, &two], None);
    let (status, why) = one.ask(Method::POST, "/say", false, "").await;
    assert_eq!((status, why.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "Away"));
    assert_eq!(one.board.counts().1, 0, "nobody waits any more");
}

#[tokio::test]
async fn without_a_lease_nothing_is_answered_from_here() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    introduce([&one, &two], Some(&one));
    one.open("one");
    let roster =
        Roster { nodes: Vec::new(), partitions: vec![PartitionRow { number: 0, node: Some(one.id), epoch: 1 }] };
    one.board.learn(roster, Instant::now());
    assert_eq!(one.ask(Method::POST, "/say", false, "").await.1, "Away");
    assert_eq!(one.asked.load(Ordering::Relaxed), 0, "others may have taken it");
}

#[tokio::test]
async fn what_was_lost_on_the_way_is_repeated_only_if_it_may_be() {
    for key in [false, true] {
        let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
        introduce([&one, &two], Some(&two));
        two.open("two");
        let asking = one.ask(Method::POST, "/stuck", key, "x");
        let failing = async {
            while two.asked.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The second is relieved while it works on the request.
            introduce([&one, &two], Some(&one));
        };
        let ((status, why), ()) = tokio::join!(asking, failing);
        let expected = if key { "Away" } else { "Unknown" };
        assert_eq!((status, why.as_str()), (StatusCode::SERVICE_UNAVAILABLE, expected), "with a key: {key}");
    }
}

#[tokio::test]
async fn streams_end_where_a_partition_closes() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    introduce([&one, &two], Some(&two));
    two.open("two");
    for node in [&two, &one] {
        let response = node.front.serve(request(Method::GET, "/events", false, "")).await;
        let mut frames = response.into_body().into_data_stream();
        assert_eq!(frames.next().await.unwrap().unwrap(), "data: first\n\n");
        if node.id == two.id {
            let place = two.board.open(Instant::now()).remove(0).1;
            place.drain();
            assert!(frames.next().await.is_none(), "it ends as if there were no more");
            two.open("two");
        } else {
            introduce([&one, &two], Some(&one));
            assert!(frames.next().await.is_none(), "also where it was passed on to");
        }
    }
}
