//! What may be called: a URL as it is written, and each address its name stands for. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::address;

/// Bytes a URL may have.
pub const URL_BYTES_MAX: usize = 2_048;

/// What may be called. The default is what suits addresses that strangers choose: HTTPS to the public internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether `http://` is allowed beside `https://`.
    pub http: bool,
    /// Ports that may be called. Empty allows all.
    pub ports: Vec<u16>,
    /// Networks that may be called although they are not public.
    pub allow: Vec<IpNet>,
    /// Names that may be called whatever they stand for: `hooks.example` itself, `.example` all below it.
    pub allow_hosts: Vec<String>,
    /// Networks that may not be called although they are public, or a name is allowed.
    pub deny: Vec<IpNet>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { http: false, ports: vec![443, 8443], allow: Vec::new(), allow_hosts: Vec::new(), deny: Vec::new() }
    }
}

/// Why something may not be called. It was not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no URL.
    #[error("the address is not a URL: write it as https://host/path, of at most {URL_BYTES_MAX} bytes")]
    NotAUrl,
    /// Another scheme.
    #[error("the scheme {0:?} is not allowed: use https")]
    Scheme(String),
    /// It carries a name and a password.
    #[error("the address carries a user name or password: leave them out, and send a header instead")]
    UserInfo,
    /// Another port.
    #[error("port {port} is not allowed: use {}, or have it allowed in the configuration", listed(allowed))]
    Port {
        /// The one asked for.
        port: u16,
        /// Those that are.
        allowed: Vec<u16>,
    },
    /// It leads to a place that is not public. The address itself is not told: it may be a secret of the network.
    #[error(
        "{host:?} leads to an address that may not be called ({why}): use one on the public internet, or have the \
         network allowed in the configuration"
    )]
    Address {
        /// The host, as the URL has it.
        host: String,
        /// What the address is.
        why: &'static str,
    },
    /// A header that is not the caller's to set, or not a header.
    #[error("the header {0:?} can't be sent: it is not a valid header, or not yours to set")]
    Header(String),
    /// Too much of something is to be sent.
    #[error("the request's {what} have {found} bytes, at most {max} are sent")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// The limit.
        max: usize,
    },
}

impl Policy {
    /// Everything: for addresses that only whoever operates this deployment chooses.
    pub fn open() -> Self {
        let all = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|net| net.parse::<IpNet>().ok()).collect();
        Policy { http: true, ports: Vec::new(), allow: all, ..Policy::default() }
    }

    /// Everything on this machine's loopback, beside what is public: for development and tests.
    #[must_use]
    pub fn with_loopback(mut self) -> Self {
        self.http = true;
        self.ports = Vec::new();
        self.allow.extend(["127.0.0.0/8", "::1/128"].into_iter().filter_map(|net| net.parse::<IpNet>().ok()));
        self
    }

    /// Checks a URL as it is written. What its name stands for is checked by [`Policy::check_address`] whenever a
    /// connection is made, because the answer may be another by then.
    ///
    /// # Errors
    /// [`Refused`] says what to change.
    pub fn check_url(&self, text: &str) -> Result<Url, Refused> {
        // The parser would drop these silently, and two readers of one URL would see two.
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
        if text.len() > URL_BYTES_MAX || text.chars().any(odd) {
            return Err(Refused::NotAUrl);
        }
        let url = Url::parse(text).map_err(|_| Refused::NotAUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if self.http => {}
            other => return Err(Refused::Scheme(other.to_owned())),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::UserInfo);
        }
        let port = url.port_or_known_default().ok_or(Refused::NotAUrl)?;
        if !self.ports.is_empty() && !self.ports.contains(&port) {
            return Err(Refused::Port { port, allowed: self.ports.clone() });
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Refused::NotAUrl)?;
        // An address needs no resolver, so nobody else would check it. The parser has undone its odd spellings.
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            self.check_address(host, address)?;
        }
        Ok(url)
    }

    /// Checks an address that a host stands for at this moment.
    ///
    /// # Errors
    /// [`Refused::Address`].
    pub fn check_address(&self, host: &str, found: IpAddr) -> Result<(), Refused> {
        let plain = address::plain(found);
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&plain) || net.contains(&found));
        let refused = |why| Err(Refused::Address { host: host.to_owned(), why });
        if within(&self.deny) {
            return refused("denied by configuration");
        }
        if within(&self.allow) || self.allows_host(host) {
            return Ok(());
        }
        match address::special(found) {
            Some(why) => refused(why),
            None => Ok(()),
        }
    }

    fn allows_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.allow_hosts.iter().any(|allowed| match allowed.strip_prefix('.') {
            Some(parent) => {
                let below = host.len().checked_sub(parent.len() + 1);
                below.is_some_and(|at| host.is_char_boundary(at) && host[at..].eq_ignore_ascii_case(allowed))
            }
            None => host.eq_ignore_ascii_case(allowed),
        })
    }
}

/// Whether a header is for whoever wrote the request rather than for the connection that carries it.
pub fn header_is_free(name: &str) -> bool {
    const KEPT: [&str; 9] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let lower = name.to_ascii_lowercase();
    !KEPT.contains(&lower.as_str()) && !lower.starts_with("proxy-")
}

fn listed(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")
}
