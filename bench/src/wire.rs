//! The client's end of the wire Hatchet's SDKs speak: connections that carry a token.

use std::net::ToSocketAddrs;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Streams of one connection that are open at once, as many as servers usually allow.
pub const CALLS_PER_CHANNEL: usize = 100;

/// Puts a token on every call.
#[derive(Debug, Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    /// With this token.
    ///
    /// # Errors
    /// When it is not one line of text.
    pub fn new(token: &str) -> anyhow::Result<Bearer> {
        // Not marked as sensitive: it would go out whole with each call, where the SDKs' libraries send it once and refer to
        // it from then on.
        Ok(Bearer(format!("bearer {token}").parse()?))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A connection that carries a token.
pub type Wire = InterceptedService<Channel, Bearer>;

/// Opens one.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(url: &str, bearer: &Bearer) -> anyhow::Result<Wire> {
    let channel = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect().await?;
    Ok(InterceptedService::new(channel, bearer.clone()))
}

/// The address in a URL such as `http://127.0.0.1:4711`.
///
/// # Errors
/// When there is none in it.
pub fn address_of(url: &str) -> anyhow::Result<std::net::SocketAddr> {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let found = host.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| anyhow::anyhow!("{url} has no address: write http://HOST:PORT"))
}
