//! Requests passed on to another node, and bodies that can be sent once more or cut.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::uri::{Authority, PathAndQuery, Scheme, Uri};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Set on what was passed on, so that it is not passed on again.
pub(crate) const HOP: HeaderName = HeaderName::from_static("mainspring-hop");
/// Set on the answer of a node that does not have the partition. Nothing was done.
pub(crate) const ELSEWHERE: HeaderName = HeaderName::from_static("mainspring-elsewhere");

/// Bytes of a body that are remembered, so that it can be sent to another node. More than any call may have.
const REMEMBERED_MAX: usize = 20 * 1024 * 1024;
/// How long a connection to a peer may take.
const CONNECT: Duration = Duration::from_secs(1);
/// A peer that does not answer a ping is taken for gone: it is frozen, or the network is.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// Headers that are about one connection only.
const OF_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Connections to the other nodes: one each, over which all requests go. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    client: Client<HttpConnector, Body>,
}

impl Peers {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_PATIENCE)
            .build(connector);
        Peers { client }
    }

    /// Passes a request on and gives the answer.
    pub(crate) async fn pass_on(&self, address: &str, parts: &Parts, body: Replay) -> Result<Response<Body>, Error> {
        let mut request = Request::new(Body::new(body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = at(address, parts.uri.path_and_query().cloned());
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = without_hops(parts.headers.clone());
        // What the client calls the server, which pages compare with where a form came from.
        if !request.headers().contains_key(header::HOST)
            && let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        request.headers_mut().insert(HOP, HeaderValue::from_static("1"));
        let response = self.client.request(request).await?;
        let (mut head, body) = response.into_parts();
        head.headers = without_hops(head.headers);
        Ok(Response::from_parts(head, Body::new(body)))
    }

    /// Tells a node something that needs no answer.
    pub(crate) async fn tell(&self, address: &str, path: &'static str) -> Result<(), Error> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = at(address, Some(PathAndQuery::from_static(path)));
        self.client.request(request).await.map(drop)
    }
}

fn at(address: &str, path: Option<PathAndQuery>) -> Uri {
    let mut parts = axum::http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    // Checked when the node was configured; one that is not an authority can't be connected to either.
    parts.authority = Authority::try_from(address).ok().or_else(|| Some(Authority::from_static("invalid.invalid")));
    parts.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}

fn without_hops(mut headers: HeaderMap) -> HeaderMap {
    for name in OF_CONNECTION {
        headers.remove(name);
    }
    headers
}

/// A request's body that remembers what was read of it, so that it can be sent once more.
#[derive(Debug)]
pub(crate) struct Replay {
    read: Arc<Mutex<Read>>,
    /// Which reading this is: only the latest may go on.
    reading: u64,
    at: usize,
}

#[derive(Debug)]
struct Read {
    source: Body,
    pieces: Vec<Bytes>,
    bytes: usize,
    /// Some of it was too much to remember.
    forgot: bool,
    ended: bool,
    readings: u64,
}

impl Replay {
    pub(crate) fn new(source: Body) -> Self {
        let read = Read { source, pieces: Vec::new(), bytes: 0, forgot: false, ended: false, readings: 0 };
        Replay { read: Arc::new(Mutex::new(read)), reading: 0, at: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body from its beginning, if it can be had. Whoever read it before reads no more.
    pub(crate) fn again(&self) -> Option<Replay> {
        let mut read = self.lock();
        if read.forgot {
            return None;
        }
        read.readings += 1;
        let reading = read.readings;
        drop(read);
        Some(Replay { read: self.read.clone(), reading, at: 0 })
    }
}

impl HttpBody for Replay {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let mut read = this.read.lock().unwrap_or_else(PoisonError::into_inner);
        if this.reading != read.readings {
            return Poll::Ready(Some(Err(axum::Error::new("the request was sent elsewhere"))));
        }
        if let Some(piece) = read.pieces.get(this.at).cloned() {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if read.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut read.source).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(piece) = frame.data_ref() {
                    let piece = piece.clone();
                    if read.bytes + piece.len() <= REMEMBERED_MAX && !read.forgot {
                        read.bytes += piece.len();
                        read.pieces.push(piece);
                        this.at += 1;
                    } else {
                        read.forgot = true;
                        read.pieces.clear();
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                read.ended = true;
                Poll::Ready(None)
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        let read = self.lock();
        let all_read = self.at >= read.pieces.len();
        all_read && (read.ended || read.source.is_end_stream())
    }
}

/// How a body ends that is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CutAs {
    /// As if there were no more: who listens to events connects again.
    End,
    /// With the trailers of gRPC that say so.
    Unavailable,
    /// As broken, so that nobody takes a part for the whole.
    Broken,
}

/// A body that goes on until something happens.
pub(crate) struct Cut {
    inner: Body,
    until: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    cut_as: CutAs,
}

/// Lets an answer's body go on until `until`. One that has its length, or ends at once, is let through as it is.
pub(crate) fn cut(response: Response<Body>, until: impl Future<Output = ()> + Send + 'static) -> Response<Body> {
    if response.body().is_end_stream() || response.body().size_hint().exact().is_some() {
        return response;
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let cut_as = match content_type {
        Some(kind) if kind.starts_with("text/event-stream") => CutAs::End,
        Some(kind) if kind.starts_with("application/grpc") => CutAs::Unavailable,
        _ => CutAs::Broken,
    };
    let (head, inner) = response.into_parts();
    Response::from_parts(head, Body::new(Cut { inner, until: Some(Box::pin(until)), cut_as }))
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let Some(until) = &mut this.until else { return Poll::Ready(None) };
        if until.as_mut().poll(cx).is_pending() {
            return Pin::new(&mut this.inner).poll_frame(cx);
        }
        // What is ready is sent before.
        if let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut this.inner).poll_frame(cx) {
            // Polled anew next time, when it is over at once.
            this.until = Some(Box::pin(std::future::ready(())));
            return Poll::Ready(Some(Ok(frame)));
        }
        this.until = None;
        this.inner = Body::empty();
        match this.cut_as {
            CutAs::End => Poll::Ready(None),
            CutAs::Unavailable => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("14"));
                trailers.insert("grpc-message", HeaderValue::from_static("the partition moves; connect again"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            CutAs::Broken => Poll::Ready(Some(Err(axum::Error::new("the partition moves; ask again")))),
        }
    }
}
