//! TLS 1.3 with Ed25519 device keys as raw public keys (RFC 7250), and nothing else.

use std::sync::Arc;

use peerloom_core::DeviceSecret;
use peerloom_core::wire::{ALPN, PublicKey};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use zeroize::Zeroizing;

/// What precedes an Ed25519 seed in PKCS #8 (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What precedes an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Server name of a dial that expects no particular key.
const ANY: &str = "peerloom";

/// Both sides' TLS configurations.
pub(crate) fn configs(
    secret: &DeviceSecret,
    require_post_quantum: bool,
) -> Result<(Arc<QuicServerConfig>, Arc<QuicClientConfig>), Error> {
    let provider = provider(require_post_quantum);
    let key = certified_key(secret)?;
    let verifier = Arc::new(KeyVerifier { algorithms: provider.signature_verification_algorithms });

    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.clone())
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(key.clone())));
    server.alpn_protocols = vec![ALPN.to_vec()];
    // No resumption: links are few and long, and tickets would outlive a removed contact.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});

    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(key)));
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    // The name carries the expected key to the verifier; it is nobody else's business.
    client.enable_sni = false;

    let suite = |_| Error::General("QUIC needs TLS13_AES_128_GCM_SHA256".into());
    Ok((
        Arc::new(QuicServerConfig::try_from(server).map_err(suite)?),
        Arc::new(QuicClientConfig::try_from(client).map_err(suite)?),
    ))
}

fn provider(require_post_quantum: bool) -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite as cs, kx_group as kx};
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites =
        vec![cs::TLS13_AES_128_GCM_SHA256, cs::TLS13_AES_256_GCM_SHA384, cs::TLS13_CHACHA20_POLY1305_SHA256];
    provider.kx_groups = vec![kx::X25519MLKEM768];
    if !require_post_quantum {
        provider.kx_groups.push(kx::X25519);
    }
    Arc::new(provider)
}

fn certified_key(secret: &DeviceSecret) -> Result<Arc<CertifiedKey>, Error> {
    let der = Zeroizing::new([&PKCS8_PREFIX[..], secret.expose()].concat());
    let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der.as_slice()))?;
    let spki = key.public_key().ok_or_else(|| Error::General("the device key has no public half".into()))?;
    let certificate = CertificateDer::from(spki.as_ref().to_vec());
    Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
}

/// The key in a raw-public-key "certificate".
fn raw_key(spki: &[u8]) -> Option<PublicKey> {
    Some(PublicKey::ed25519(spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?))
}

/// The key with which the other side of a connection authenticated.
pub(crate) fn remote_key(connection: &quinn::Connection) -> Option<PublicKey> {
    let keys = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match keys.as_slice() {
        [key] => raw_key(key),
        _ => None,
    }
}

/// The server name with which to dial: it tells the verifier which key to accept, so that our own
/// key is never shown to somebody else.
pub(crate) fn server_name(expected: Option<&PublicKey>) -> String {
    let Some(key) = expected else {
        return ANY.into();
    };
    let hex: String = key.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    // A DNS label has at most 63 characters.
    let (a, b) = hex.split_at(hex.len() / 2);
    format!("{a}.{b}.{ANY}")
}

#[derive(Debug)]
struct KeyVerifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl KeyVerifier {
    fn key(certificate: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<PublicKey, Error> {
        let key = raw_key(certificate).filter(|_| more.is_empty());
        key.ok_or_else(|| CertificateError::BadEncoding.into())
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(CertificateError::BadSignature.into());
        }
        let key = SubjectPublicKeyInfoDer::from(certificate.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = Self::key(certificate, more)?;
        let name = name.to_str();
        if name == ANY || name == server_name(Some(&key)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Any device may knock; the engine's handshake decides who comes in.
        Self::key(certificate, more).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
