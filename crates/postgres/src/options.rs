//! How the database is reached, checked once.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainspring_store::StoreError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::nodes::NodeId;

/// Less, and the server's own limits, which are parts of it, would come to nothing.
const PATIENCE_MIN: Duration = Duration::from_millis(100);

/// Which database, and how long to wait for it.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host/database`, or words as `host=... dbname=...`. Over a network TLS is used where the
    /// server offers it, and always checked; `sslmode=require` or `disable` says so in the URL.
    pub url: String,
    /// The schema that everything is in; it is created if need be. Lower-case letters, digits and `_`.
    pub schema: String,
    /// The name of this cluster, recorded in the schema: one of another name is refused.
    pub cluster: String,
    /// Certificates to trust besides the machine's, as PEM.
    pub ca: Option<PathBuf>,
    /// Largest batch in bytes. PostgreSQL takes no value of a gigabyte.
    pub batch_bytes_max: usize,
    /// Connections that append, at most.
    pub log_connections_max: usize,
    /// Connections that apply and read, at most; one for each at least.
    pub table_connections_max: usize,
    /// How long one answer may take before the connection is given up.
    pub patience: Duration,
    /// Which node this is, if it is one of several: partitions are taken in its name.
    pub node: Option<NodeId>,
}

impl PostgresOptions {
    /// Defaults for a database: schema and cluster `mainspring`, ten seconds of patience, 24 connections.
    pub fn new(url: impl Into<String>) -> Self {
        PostgresOptions {
            url: url.into(),
            schema: "mainspring".to_owned(),
            cluster: "mainspring".to_owned(),
            ca: None,
            // Below the gigabyte, with room for the rest of the message.
            batch_bytes_max: 960 << 20,
            log_connections_max: 8,
            table_connections_max: 16,
            patience: Duration::from_secs(10),
            node: None,
        }
    }

    /// What the database and the schema are called in what people read: without user and password.
    pub(crate) fn name(&self) -> String {
        let config: Config = self.url.parse().unwrap_or_default();
        let hosts = config.get_hosts().iter().enumerate().map(|(nth, host)| {
            let ports = config.get_ports();
            let port = ports.get(nth).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        });
        let hosts: Vec<String> = hosts.collect();
        let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
        format!("postgres://{}/{database} (schema {})", hosts.join(","), self.schema)
    }

    /// What the client library wants to know.
    pub(crate) fn checked(&self) -> Result<(Config, MakeRustlsConnect), StoreError> {
        let fail = |cause: String| Err(StoreError::Unusable { cause });
        let mut config: Config = match self.url.parse() {
            Ok(config) => config,
            // The library's words name the option that is wrong, and never its value.
            Err(error) => {
                let why = WithCause(&error);
                return fail(format!("the URL of the database can't be read: {why}; write postgres://user@host/name"));
            }
        };
        let well_named = |name: &str| {
            let words = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            words && !name.is_empty() && name.len() <= 63 && !name.starts_with("pg_")
        };
        if !well_named(&self.schema) {
            return fail(format!(
                "{:?} can't be the schema: use at most 63 lower-case letters, digits and _",
                self.schema
            ));
        }
        if self.log_connections_max == 0 || self.table_connections_max == 0 {
            return fail("the store needs at least one connection for its log and one for its tables".to_owned());
        }
        if self.patience < PATIENCE_MIN {
            return fail(format!("patience with the database must be {} ms at least", PATIENCE_MIN.as_millis()));
        }
        let is_here = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
        };
        if config.get_ssl_mode() == SslMode::Prefer && config.get_hosts().iter().all(is_here) {
            config.ssl_mode(SslMode::Disable);
        }
        if let Some(node) = self.node {
            // Whoever relieves the node finds its connections by that.
            config.application_name(application_name(&node.to_string()));
        } else if config.get_application_name().is_none() {
            config.application_name("mainspring");
        }
        config.connect_timeout(self.patience);
        config.tcp_user_timeout(self.patience);
        // The system counts these in whole seconds, and takes no 0.
        config.keepalives_idle(self.patience.max(Duration::from_secs(1)));
        let tls = self.tls(config.get_ssl_mode() == SslMode::Disable)?;
        Ok((config, tls))
    }

    fn tls(&self, unused: bool) -> Result<MakeRustlsConnect, StoreError> {
        let mut roots = rustls::RootCertStore::empty();
        if !unused {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if let Some(path) = &self.ca {
                let fail = |why: String| StoreError::Unusable {
                    cause: format!("the certificates in {} can't be used: {why}", path.display()),
                };
                for one in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))? {
                    let one = one.map_err(|error| fail(error.to_string()))?;
                    roots.add(one).map_err(|error| fail(error.to_string()))?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.map_err(|error| StoreError::Unusable { cause: format!("TLS can't be used: {error}") })?;
        Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// What the connections of a node are called in the database.
pub(crate) fn application_name(node: &str) -> String {
    format!("mainspring {node}")
}

/// An error with what caused it.
struct WithCause<'a>(&'a dyn std::error::Error);

impl fmt::Display for WithCause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        self.0.source().map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl fmt::Debug for PostgresOptions {
    // Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("schema", &self.schema)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}
