//! Whom calls over TLS trust: the machine's authorities, and those a configuration names beside them.
//!
//! A machine has some 140 of them. They are read when the first call needs them, once for all clients: a server that
//! calls nobody, or takes over dozens of partitions at once, has better things to do.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// What TLS goes by, with these certificates (PEM) trusted beside the machine's.
///
/// # Errors
/// A sentence that says which can't be used.
pub(crate) fn tls(extra: &[Bytes]) -> Result<ClientConfig, String> {
    let mut named = RootCertStore::empty();
    for pem in extra {
        let bad = |error: &dyn std::fmt::Display| format!("not a certificate: {error}");
        for found in CertificateDer::pem_slice_iter(pem) {
            named.add(found.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
        }
        if named.is_empty() {
            return Err(bad(&"there is none in it"));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusted = Trusted { named, provider: provider.clone(), verifier: OnceLock::new() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS can't be used: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trusted))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The machine's authorities.
fn machine() -> &'static RootCertStore {
    static MACHINE: OnceLock<RootCertStore> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the machine's certificates can't be read");
        }
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

/// The verifier of `rustls`, made when it is first asked.
#[derive(Debug)]
struct Trusted {
    named: RootCertStore,
    provider: Arc<CryptoProvider>,
    verifier: OnceLock<Result<Arc<WebPkiServerVerifier>, Error>>,
}

impl Trusted {
    fn verifier(&self) -> Result<&WebPkiServerVerifier, Error> {
        let made = self.verifier.get_or_init(|| {
            let mut roots = machine().clone();
            roots.extend(self.named.roots.iter().cloned());
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|error| Error::General(format!("{error}: install this machine's ca-certificates")))
        });
        made.as_deref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verifier()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    use super::*;

    /// What becomes of a client that trusts these and a server that has the certificate, in memory.
    fn greet(extra: &[Bytes], made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Result<(), Error> {
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server");
        let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
        let name = ServerName::try_from("agent.example").expect("a name");
        let mut client = ClientConnection::new(Arc::new(tls(extra).expect("certificates")), name).expect("a client");
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("memory");
            server.read_tls(&mut bytes.as_slice()).expect("memory");
            server.process_new_packets()?;
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).expect("memory");
            client.read_tls(&mut bytes.as_slice()).expect("memory");
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_named_certificate_is_trusted_and_no_other() {
        let made = rcgen::generate_simple_self_signed(["agent.example".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["agent.example".to_owned()]).expect("a certificate");
        let pem = |made: &rcgen::CertifiedKey<rcgen::KeyPair>| Bytes::from(made.cert.pem());
        greet(&[pem(&other), pem(&made)], &made).expect("it is named");
        let both = format!("{}{}", other.cert.pem(), made.cert.pem());
        greet(&[Bytes::from(both)], &made).expect("it is the second of its file");
        for extra in [vec![], vec![pem(&other)]] {
            let refused = greet(&extra, &made).expect_err("nobody named it");
            assert!(matches!(refused, Error::InvalidCertificate(_)), "{refused}");
        }
        for nonsense in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let refused = tls(&[Bytes::from_static(nonsense.as_bytes())]).expect_err("that is no certificate");
            assert!(refused.starts_with("not a certificate: "), "{refused}");
        }
    }
}
