//! Calls over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::policy::{Policy, Refused, header_is_free};
use super::resolve::Judged;
use super::trust::tls;
use super::{
    ANSWER_HEADER_BYTES_MAX, Answer, BodyEnd, CallLimits, Egress, Fault, REQUEST_BYTES_MAX, REQUEST_HEADER_BYTES_MAX,
    Request,
};
use crate::outside::{Calling, root_of};

/// How long the name, the connection and TLS may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Unused connections that are kept to one host.
const IDLE_PER_HOST_MAX: usize = 16;
/// Headers an answer may have.
const ANSWER_HEADERS_MAX: usize = 64;

/// What calls are made with.
#[derive(Debug, Clone, Default)]
pub struct EgressOptions {
    /// What may be called.
    pub policy: Policy,
    /// Whom to ask for names. Empty takes the system's own name servers.
    pub name_servers: Vec<SocketAddr>,
    /// Certificates that are trusted beside the system's, in PEM.
    pub extra_roots: Vec<Bytes>,
}

/// Calls over HTTP. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct HttpEgress {
    client: reqwest::Client,
    policy: Arc<Policy>,
}

impl HttpEgress {
    /// One that calls what the options allow.
    ///
    /// # Errors
    /// A sentence that says which option can't be used.
    pub fn new(options: EgressOptions) -> Result<Self, String> {
        let policy = Arc::new(options.policy);
        let resolver = Judged::new(policy.clone(), &options.name_servers)?;
        let builder = reqwest::Client::builder()
            .dns_resolver(resolver)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Whether a repeat is harmless is for whoever asked to say.
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .http1_max_headers(ANSWER_HEADERS_MAX)
            .http2_max_header_list_size(ANSWER_HEADER_BYTES_MAX as u32)
            .user_agent(concat!("Mainspring/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls(&options.extra_roots)?);
        let client = builder.build().map_err(|error| format!("no HTTP client could be made: {}", root_of(&error)))?;
        Ok(HttpEgress { client, policy })
    }

    /// The client it calls with: names are judged by it; addresses that are written out are for [`Egress::check`].
    pub fn client(&self) -> reqwest::Client {
        self.client.clone()
    }

    /// What may be called.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    fn prepare(&self, request: Request) -> Result<reqwest::Request, Refused> {
        let url = self.policy.check_url(&request.url)?;
        if request.body.len() > REQUEST_BYTES_MAX {
            let found = request.body.len();
            return Err(Refused::TooLarge { what: "body", found, max: REQUEST_BYTES_MAX });
        }
        let found = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if found > REQUEST_HEADER_BYTES_MAX {
            return Err(Refused::TooLarge { what: "headers", found, max: REQUEST_HEADER_BYTES_MAX });
        }
        let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| Refused::NotAUrl)?;
        let mut prepared = reqwest::Request::new(method, url);
        for (name, value) in &request.headers {
            let bad = || Refused::Header(name.clone());
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            if !header_is_free(name) {
                return Err(bad());
            }
            value.set_sensitive(true);
            prepared.headers_mut().append(parsed, value);
        }
        *prepared.body_mut() = Some(request.body.into());
        Ok(prepared)
    }

    async fn carry_out(
        &self,
        request: Request,
        limits: CallLimits,
        heard: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<Answer, Fault> {
        let prepared = self.prepare(request)?;
        let began = Instant::now();
        let until = began + limits.time;
        let elapsed_ms = || crate::settings::millis(began.elapsed());
        let late = || Fault::Unanswered(format!("no answer came within {} ms", limits.time.as_millis()));
        let sent = tokio::time::timeout_at(until, self.client.execute(prepared));
        let mut response = sent.await.map_err(|_| late())?.map_err(fault)?;
        let answered_ms = elapsed_ms();
        let (mut body, mut end) = (Vec::new(), BodyEnd::Whole);
        loop {
            match tokio::time::timeout_at(until, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    let room = limits.body_bytes_max - body.len();
                    let kept = &chunk[..chunk.len().min(room)];
                    body.extend_from_slice(kept);
                    let goes_on = heard(kept);
                    if chunk.len() > room || !goes_on {
                        end = BodyEnd::Cut;
                        break;
                    }
                }
                Ok(Ok(None)) => break,
                Ok(Err(_)) | Err(_) => {
                    end = BodyEnd::Broken;
                    break;
                }
            }
        }
        Ok(Answer {
            status: response.status().as_u16(),
            headers: headers(response.headers()),
            body: body.into(),
            end,
            answered_ms,
            took_ms: elapsed_ms(),
            remote: response.remote_addr(),
        })
    }
}

impl Egress for HttpEgress {
    fn check(&self, url: &str) -> Result<(), Refused> {
        self.policy.check_url(url).map(drop)
    }

    fn call_hearing<'a>(
        &'a self,
        request: Request,
        limits: CallLimits,
        heard: &'a mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Calling<'a, Result<Answer, Fault>> {
        Box::pin(self.carry_out(request, limits, heard))
    }
}

/// Headers as text, as many as there is room for.
fn headers(found: &HeaderMap) -> Vec<(String, String)> {
    let mut room = ANSWER_HEADER_BYTES_MAX;
    let mut headers = Vec::with_capacity(found.len());
    for (name, value) in found {
        let Some(left) = room.checked_sub(name.as_str().len() + value.len()) else { break };
        room = left;
        headers.push((name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    headers
}

/// What an error of the client says about where the request is.
fn fault(error: reqwest::Error) -> Fault {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(one) = cause {
        if let Some(refused) = one.downcast_ref::<Refused>() {
            return Fault::Refused(refused.clone());
        }
        cause = one.source();
    }
    let root = root_of(&error);
    if error.is_connect() {
        let what = if error.is_timeout() { "no connection was made in time" } else { "no connection was made" };
        Fault::Unreached(format!("{what}: {root}"))
    } else {
        Fault::Unanswered(format!("the connection was lost before the answer: {root}"))
    }
}
