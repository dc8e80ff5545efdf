//! Certificates of the endpoint: a good one, and those that nobody should trust.

use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What the endpoint shows, by what is wrong with it.
pub(super) struct Tls {
    authority: String,
    good: Arc<ServerConfig>,
    bad: [(&'static str, Arc<ServerConfig>); 3],
}

impl Tls {
    pub(super) fn new() -> anyhow::Result<Tls> {
        let (ours, authority) = issuer("the endpoint's authority")?;
        let (others, _) = issuer("somebody else's authority")?;
        let here = "127.0.0.1";
        let bad = [
            ("wrong authority", config(here, &others, false)?),
            ("wrong name", config("192.0.2.1", &ours, false)?),
            ("expired", config(here, &ours, true)?),
        ];
        Ok(Tls { authority, good: config(here, &ours, false)?, bad })
    }

    /// The authority to trust, in PEM.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn good(&self) -> Arc<ServerConfig> {
        self.good.clone()
    }

    pub(super) fn bad(&self, manner: &str) -> Arc<ServerConfig> {
        let found = self.bad.iter().find(|(name, _)| *name == manner);
        found.map_or_else(|| self.good(), |(_, config)| config.clone())
    }
}

fn issuer(name: &str) -> anyhow::Result<(Issuer<'static, KeyPair>, String)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), pem))
}

fn config(address: &str, issuer: &Issuer<'_, KeyPair>, expired: bool) -> anyhow::Result<Arc<ServerConfig>> {
    let mut params = CertificateParams::new(vec![address.to_owned()])?;
    if expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate()?;
    let certificate: CertificateDer<'static> = params.signed_by(&key, issuer)?.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .context("a certificate of the endpoint can't be used")?;
    Ok(Arc::new(config))
}
