//! TLS 1.3 in which both sides prove the key that they have as their iroh identity, as raw public keys (RFC 7250).
//!
//! Signing and checking are iroh's own, so that a key counts here exactly if it counts over QUIC.

use std::{fmt, sync::Arc};

use iroh::{EndpointId, SecretKey, Signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible,
    ServerConfig, SignatureAlgorithm, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime, alg_id},
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, Signer, SigningKey, public_key_to_spki},
    version::TLS13,
};

/// What runs inside: HTTP/2 and nothing else (RFC 9113, section 3.2). It is not the ALPN that QUIC connections have, so that no handshake of one
/// transport can be passed off as one of the other.
pub(super) const ALPN: &[u8] = b"h2";

/// A key, ready to be proved.
#[derive(Clone)]
pub(super) struct TlsIdentity {
    id: EndpointId,
    certified: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl TlsIdentity {
    pub(super) fn new(key: SecretKey) -> Self {
        let id = key.public();
        let spki = CertificateDer::from(spki(id).to_vec());
        Self {
            id,
            certified: Arc::new(CertifiedKey::new(vec![spki], Arc::new(Key(key)))),
            provider: Arc::new(ring::default_provider()),
        }
    }

    pub(super) fn id(&self) -> EndpointId {
        self.id
    }

    /// For a client that talks to `peer` and to nobody else.
    pub(super) fn client(&self, peer: EndpointId) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(peer)))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session proves no key again; connections here live long, so there is little to gain.
        config.resumption = Resumption::disabled();
        // Whom we look for is nobody else's business.
        config.enable_sni = false;
        Ok(config)
    }

    /// For a server that accepts every caller that proves a key.
    pub(super) fn server(&self) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(AnyKey))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsIdentity").field(&self.id).finish()
    }
}

/// Whose key it is that the other side has proved.
pub(super) fn proved(connection: &rustls::CommonState) -> Option<EndpointId> {
    match connection.peer_certificates()? {
        [only] => id_of(only),
        _ => None,
    }
}

fn spki(id: EndpointId) -> SubjectPublicKeyInfoDer<'static> {
    public_key_to_spki(&alg_id::ED25519, id.as_bytes())
}

/// The key in a SubjectPublicKeyInfo, if it is written as we write it.
fn id_of(certificate: &CertificateDer<'_>) -> Option<EndpointId> {
    let (_, key) = certificate.split_last_chunk::<{ EndpointId::LENGTH }>()?;
    let id = EndpointId::from_bytes(key).ok()?;
    // The bytes before the key say that it is one for Ed25519.
    (spki(id).as_ref() == certificate.as_ref()).then_some(id)
}

/// Signs as iroh does.
#[derive(Clone, Debug)]
struct Key(SecretKey);

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = offered.contains(&SignatureScheme::ED25519);
        ours.then(|| Box::new(self.clone()) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki(self.0.public()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

fn check_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let bad = || rustls::Error::InvalidCertificate(CertificateError::BadSignature);
    let id = id_of(certificate).ok_or_else(bad)?;
    let signature = <&[u8; Signature::LENGTH]>::try_from(signed.signature()).map_err(|_| bad())?;
    if signed.scheme != SignatureScheme::ED25519 {
        return Err(bad());
    }
    id.verify(message, &Signature::from_bytes(signature))
        .map_err(|_| bad())?;
    Ok(HandshakeSignatureValid::assertion())
}

/// Exactly one key, which is the peer's or anybody's.
fn check_key(
    certificate: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<EndpointId, rustls::Error> {
    let key = id_of(certificate).filter(|_| others.is_empty());
    key.ok_or(rustls::Error::InvalidCertificate(
        CertificateError::BadEncoding,
    ))
}

fn no_tls12() -> rustls::Error {
    rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

/// The server must be this one.
#[derive(Debug)]
struct Pinned(EndpointId);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if check_key(end_entity, intermediates)? != self.0 {
            let other = CertificateError::ApplicationVerificationFailure;
            return Err(rustls::Error::InvalidCertificate(other));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Any client that proves a key; what it may do is for a policy to say.
#[derive(Debug)]
struct AnyKey;

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_key(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_read_back_and_nothing_else_is_one() {
        let id = SecretKey::from_bytes(&[5; 32]).public();
        let written = CertificateDer::from(spki(id).to_vec());
        assert_eq!(id_of(&written), Some(id));
        for at in 0..written.len() {
            let mut other = written.to_vec();
            other[at] ^= 1;
            assert_ne!(id_of(&CertificateDer::from(other)), Some(id), "byte {at}");
        }
        let longer = [written.as_ref(), &[0]].concat();
        assert_eq!(id_of(&CertificateDer::from(longer)), None);
        assert_eq!(id_of(&CertificateDer::from(written[1..].to_vec())), None);
        let twice = [written.clone()];
        check_key(&written, &[]).expect("one key");
        check_key(&written, &twice).expect_err("two");
    }

    proptest! {
        #[test]
        fn no_certificate_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = id_of(&CertificateDer::from(bytes));
        }
    }
}
