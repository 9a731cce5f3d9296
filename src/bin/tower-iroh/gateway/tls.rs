//! TLS at the gateway's TCP addresses, for clients on other machines.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::failure::Failure;

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsOptions {
    /// Speak TLS at the TCP addresses, with this certificate and its chain in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Take only clients with a certificate of one of these authorities, in PEM. Other machines may then call without a token.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
}

impl TlsOptions {
    /// Whether there is TLS at all.
    pub(super) fn encrypts(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Whether a client must have a certificate.
    pub(super) fn proves_clients(&self) -> bool {
        self.client_ca.is_some()
    }

    /// `None` without a certificate.
    pub(super) fn acceptor(&self) -> Result<Option<TlsAcceptor>, Failure> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(Failure::failed)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut authorities = RootCertStore::empty();
                for authority in certificates(file)? {
                    authorities.add(authority).map_err(wrong(file))?;
                }
                let authorities = Arc::new(authorities);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(authorities, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(wrong(file))?)
            }
        };
        let key = PrivateKeyDer::from_pem_file(key).map_err(wrong(key))?;
        let config = builder.with_single_cert(certificates(cert)?, key);
        let mut config = config.map_err(wrong(cert))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(file).map_err(wrong(file))?;
    let found: Vec<_> = read.collect::<Result<_, _>>().map_err(wrong(file))?;
    match found.is_empty() {
        true => Err(wrong(file)("it has no certificate in PEM")),
        false => Ok(found),
    }
}

fn wrong<E: fmt::Display>(file: &Path) -> impl Fn(E) -> Failure {
    move |error| Failure::usage(format!("{}: {error}", file.display()))
}
