//! Where a server is and what it is shown, checked when it is written down.

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

/// Bytes an address may have.
const URL_BYTES_MAX: usize = 2_048;
/// Headers a server may be sent.
const HEADERS_MAX: usize = 16;
/// Bytes one header's value may have.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// What the protocol and HTTP say themselves.
const RESERVED: [&str; 11] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "last-event-id",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// An MCP server: its address, and the headers it is sent, such as `Authorization`.
///
/// The tenant is part of it so that no connection is ever shared by two.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Server {
    pub(super) tenant: String,
    pub(super) url: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Server {
    /// A server of a tenant, at its MCP endpoint.
    ///
    /// # Errors
    /// [`BadServer`] if the address is not plain `http` or `https`.
    pub fn new(tenant: impl Into<String>, url: &str) -> Result<Self, BadServer> {
        if url.len() > URL_BYTES_MAX {
            return Err(BadServer::Url(format!("it has {} bytes, at most {URL_BYTES_MAX}", url.len())));
        }
        let parsed = Url::parse(url).map_err(|error| BadServer::Url(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(BadServer::Url("it has to begin with http:// or https:// and a host".to_owned()));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            // Addresses are shown and logged.
            return Err(BadServer::Url("it has a password in it: send it as a header instead".to_owned()));
        }
        Ok(Server { tenant: tenant.into(), url: parsed.into(), headers: Vec::new() })
    }

    /// The same with one more header. Its value is never logged or shown.
    ///
    /// # Errors
    /// [`BadServer`] names the header, and not its value.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, BadServer> {
        let bad = |why: &str| BadServer::Header { name: name.chars().take(64).collect(), why: why.to_owned() };
        let key: HeaderName = name.parse().map_err(|_| bad("this is not a header's name"))?;
        if RESERVED.contains(&key.as_str()) || key.as_str().starts_with("mcp-") {
            return Err(bad("the protocol says this itself"));
        }
        if self.headers.iter().any(|(there, _)| *there == key) {
            return Err(bad("it is given twice"));
        }
        if self.headers.len() == HEADERS_MAX {
            return Err(bad(&format!("at most {HEADERS_MAX} headers are sent")));
        }
        if value.len() > HEADER_BYTES_MAX {
            return Err(bad(&format!("its value has more than {HEADER_BYTES_MAX} bytes")));
        }
        let mut value: HeaderValue = value.parse().map_err(|_| bad("its value has characters a header can't have"))?;
        value.set_sensitive(true);
        self.headers.push((key, value));
        // In order, so that the same server is found again however it was put together.
        self.headers.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        Ok(self)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let Server { tenant, url, .. } = self;
        f.debug_struct("Server").field("tenant", tenant).field("url", url).field("headers", &names).finish()
    }
}

/// A server that can't be talked to as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadServer {
    /// Its address.
    #[error("the MCP server's address can't be used: {0}")]
    Url(String),
    /// One of its headers.
    #[error("the header {name:?} for the MCP server can't be used: {why}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_be_used_says_why() {
        let url = |url: &str| Server::new("t", url).unwrap_err().to_string();
        assert!(url("ftp://x/mcp").ends_with("it has to begin with http:// or https:// and a host"));
        assert!(url("https://me:pw@x/mcp").ends_with("it has a password in it: send it as a header instead"));
        assert!(url("nonsense").contains("relative URL without a base"));
        assert!(url(&format!("http://x/{}", "a".repeat(2_048))).contains("at most 2048"));
        let server = Server::new("t", "http://x/mcp").unwrap();
        let header = |name, value| server.clone().with_header(name, value).unwrap_err().to_string();
        assert!(header("Mcp-Session-Id", "1").contains("the protocol says this itself"));
        assert!(header("Idempotency-Key", "1").contains("the protocol says this itself"));
        assert!(header("a b", "1").contains("not a header's name"));
        let said = header("x-key", "geheim\n");
        assert!(said.contains("x-key") && !said.contains("geheim"), "{said}");
    }

    #[test]
    fn secrets_are_not_shown_and_order_does_not_matter() {
        let server = || Server::new("t", "http://x/mcp").unwrap();
        let one = server().with_header("Authorization", "Bearer geheim").unwrap().with_header("X-A", "1").unwrap();
        let other = server().with_header("x-a", "1").unwrap().with_header("authorization", "Bearer geheim").unwrap();
        assert_eq!(one, other);
        assert_eq!(
            format!("{one:?}"),
            r#"Server { tenant: "t", url: "http://x/mcp", headers: ["authorization", "x-a"] }"#
        );
        assert_ne!(one, server());
    }
}
