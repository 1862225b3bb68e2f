//! A certificate authority of the test's own, for servers and clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What a server asks of its clients, and which protocols it offers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Server {
    pub(crate) demands_certificate: bool,
    pub(crate) protocols: &'static [&'static [u8]],
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.into(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes the authority's certificate for somebody to trust.
    pub(crate) fn write(&self, directory: &Path) -> PathBuf {
        write(directory, "ca.pem", &self.pem)
    }

    /// A server that calls itself `name`.
    pub(crate) fn server(&self, name: &str, server: Server) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap().into();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = if server.demands_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            config.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = config.with_single_cert(vec![leaf], key).unwrap();
        config.alpn_protocols = server.protocols.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// Writes a client's certificate and, as PKCS#8, its key.
    pub(crate) fn client(&self, directory: &Path, key: &KeyPair) -> (PathBuf, PathBuf) {
        let leaf = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        let leaf = leaf.signed_by(key, &self.issuer).unwrap();
        let chain = write(directory, "client.pem", &(leaf.pem() + &self.pem));
        (chain, write(directory, "client.key", &key.serialize_pem()))
    }
}

pub(crate) fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
