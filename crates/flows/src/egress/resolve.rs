//! What a name stands for, asked and judged at the moment a connection is made. The connection goes to the very
//! addresses that were judged, so a name that changes its answer in between (DNS rebinding) gains nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::policy::Policy;

/// How long one question to one name server may take, and how often it is asked.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const QUERY_TRIES: usize = 2;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Names whose answers are remembered for as long as these say.
const CACHE_NAMES: u64 = 4_096;
/// The longest an answer is remembered, whatever it says itself.
const CACHE_MAX: Duration = Duration::from_secs(300);

/// A resolver that gives no address the policy refuses.
///
/// It asks name servers itself, without a thread per question as the system's own call would take: a thousand names whose
/// servers don't answer must not take the threads that others need.
pub(super) struct Judged {
    resolver: TokioResolver,
    policy: Arc<Policy>,
}

impl Judged {
    /// One that asks these name servers, or those of the system if there are none.
    pub(super) fn new(policy: Arc<Policy>, name_servers: &[SocketAddr]) -> Result<Self, String> {
        let builder = if name_servers.is_empty() {
            TokioResolver::builder_tokio().unwrap_or_else(|error| {
                // Not a reason to end: addresses can be called without a name, and most of us is for something else.
                tracing::warn!(%error, "the system's DNS settings can't be read: no name can be called (egress.name_servers)");
                TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
            })
        } else {
            let servers = name_servers.iter().map(|server| {
                let mut one = NameServerConfig::udp_and_tcp(server.ip());
                one.connections.iter_mut().for_each(|connection| connection.port = server.port());
                one
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let resolver = configured(builder).build().map_err(|error| format!("no resolver could be made: {error}"))?;
        Ok(Judged { resolver, policy })
    }
}

fn configured(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> ResolverBuilder<TokioRuntimeProvider> {
    let options = builder.options_mut();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = QUERY_TRIES;
    options.cache_size = CACHE_NAMES;
    options.positive_max_ttl = Some(CACHE_MAX);
    options.negative_max_ttl = Some(Duration::from_secs(5));
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, policy) = (self.resolver.clone(), self.policy.clone());
        Box::pin(async move {
            let host = name.as_str();
            // As a full name: search domains are for people at a terminal, and would make a stranger's name an inner one.
            let full = format!("{}.", host.trim_end_matches('.'));
            let found = resolver.lookup_ip(full).await?;
            let mut judged = Vec::new();
            for address in found.iter().take(ADDRESSES_MAX) {
                if let Err(refused) = policy.check_address(host, address) {
                    tracing::warn!(host, %address, "a name leads where nothing may be called");
                    return Err(refused.into());
                }
                judged.push(SocketAddr::new(address, 0));
            }
            Ok(Box::new(judged.into_iter()) as Addrs)
        })
    }
}
