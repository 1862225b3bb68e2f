//! Whom a route trusts, and who we are to a backend that asks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::super::destination::{Route, Signal};

/// Why a PEM file cannot be used. `variable` is where the file is named.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// It cannot be read, or it holds no certificate.
    #[error("failed to read certificates from {path} ({variable})")]
    Certificates {
        /// As given.
        path: PathBuf,
        /// Where it is named.
        variable: String,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// It cannot be read, or it holds no key that we can read.
    #[error(
        "failed to read a private key without a passphrase (PKCS#8, PKCS#1 or SEC1) from {path} ({variable})"
    )]
    Key {
        /// As given.
        path: PathBuf,
        /// Where it is named.
        variable: String,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The key is of a kind that we cannot sign with, or belongs to another certificate.
    #[error(
        "the private key in {path} ({variable}) does not fit the client certificate in {certificate}"
    )]
    Pair {
        /// The key's.
        path: PathBuf,
        /// Where it is named.
        variable: String,
        /// The certificate's.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: Box<rustls::Error>,
    },
}

/// What a route's PEM files hold, read at the start, when a mistake can still be mended.
#[derive(Debug, Clone, Default)]
pub(super) struct Credentials {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Arc<SingleCertAndKey>>,
}

impl Credentials {
    pub(super) fn read(route: &Route) -> Result<Self, TlsFileError> {
        let mut credentials = Self::default();
        if let Some(path) = &route.tls.authorities {
            credentials.authorities = certificates(path, &variable(route.signal, "CERTIFICATE"))?;
        }
        if let Some((chain, key)) = &route.tls.identity {
            credentials.identity = Some(Arc::new(identity(route.signal, chain, key)?));
        }
        Ok(credentials)
    }

    /// Reading the system's certificates takes milliseconds, so this is done when there is something to send.
    pub(super) fn client(&self, encrypted: bool) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore::empty();
        if encrypted {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            // An image without certificates, or with broken ones, is no reason to distrust the rest.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots.add_parsable_certificates(self.authorities.iter().cloned());
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match &self.identity {
            Some(identity) => config.with_client_cert_resolver(Arc::clone(identity) as Arc<_>),
            None => config.with_no_client_auth(),
        })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Both variables that may have named a file: which of them did is not kept.
fn variable(signal: Signal, what: &str) -> String {
    let signal = match signal {
        Signal::Traces => "TRACES",
        Signal::Metrics => "METRICS",
        Signal::Logs => "LOGS",
    };
    format!("OTEL_EXPORTER_OTLP_{signal}_{what} or OTEL_EXPORTER_OTLP_{what}")
}

fn certificates(path: &Path, variable: &str) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.and_then(|found| match found.as_slice() {
        [] => Err(pem::Error::NoItemsFound),
        _ => Ok(found),
    });
    certificates.map_err(|source| TlsFileError::Certificates {
        path: path.to_owned(),
        variable: variable.to_owned(),
        source,
    })
}

fn identity(signal: Signal, chain: &Path, key: &Path) -> Result<SingleCertAndKey, TlsFileError> {
    let certificates = certificates(chain, &variable(signal, "CLIENT_CERTIFICATE"))?;
    let variable = variable(signal, "CLIENT_KEY");
    let private = match PrivateKeyDer::from_pem_file(key) {
        Ok(private) => private,
        Err(source) => {
            return Err(TlsFileError::Key {
                path: key.to_owned(),
                variable,
                source,
            });
        }
    };
    let pair = CertifiedKey::from_der(certificates, private, &provider());
    pair.map(SingleCertAndKey::from)
        .map_err(|source| TlsFileError::Pair {
            path: key.to_owned(),
            variable,
            certificate: chain.to_owned(),
            source: Box::new(source),
        })
}
