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
    let (server, client) = sides(secret, provider(require_post_quantum))?;
    let suite = |_| Error::General("QUIC needs TLS13_AES_128_GCM_SHA256".into());
    Ok((
        Arc::new(QuicServerConfig::try_from(server).map_err(suite)?),
        Arc::new(QuicClientConfig::try_from(client).map_err(suite)?),
    ))
}

fn sides(
    secret: &DeviceSecret,
    provider: Arc<CryptoProvider>,
) -> Result<(rustls::ServerConfig, rustls::ClientConfig), Error> {
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
    Ok((server, client))
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
/// key is never shown to another device.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use peerloom_crypto_primitives::SigningKey;
    use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
    use rustls::{
        ClientConfig, ClientConnection, Connection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
        ServerConnection,
    };

    use super::*;

    fn side(number: u8, post_quantum: bool) -> (ServerConfig, ClientConfig) {
        sides(&DeviceSecret::new([number; 32]), provider(post_quantum)).unwrap()
    }

    fn key(number: u8) -> PublicKey {
        SigningKey::from_seed(&[number; 32]).public().clone()
    }

    /// Both ends after a handshake in memory, and how it went.
    struct Met {
        client: Connection,
        server: Connection,
        outcome: Result<(), Error>,
    }

    /// A client dials and expects a key, or any.
    fn meet(client: ClientConfig, server: ServerConfig, expected: Option<&PublicKey>) -> Met {
        let name = ServerName::try_from(server_name(expected)).unwrap();
        let mut client = Connection::from(ClientConnection::new(Arc::new(client), name).unwrap());
        let mut server = Connection::from(ServerConnection::new(Arc::new(server)).unwrap());
        let mut outcome = Ok(());
        for _ in 0..10 {
            let carried = pump(&mut client, &mut server);
            outcome = outcome.and(carried).and(pump(&mut server, &mut client));
        }
        Met { client, server, outcome }
    }

    fn pump(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            to.read_tls(&mut bytes).unwrap();
            to.process_new_packets()?;
        }
        Ok(())
    }

    /// Counts the tickets that a client is given.
    #[derive(Debug, Default)]
    struct Tickets(AtomicUsize);

    impl ClientSessionStore for Tickets {
        fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
        fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
            None
        }
        fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
        fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
            None
        }
        fn remove_tls12_session(&self, _: &ServerName<'static>) {}
        fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
            None
        }
    }

    #[test]
    fn both_sides_prove_their_device_keys_over_tls_1_3_and_nothing_is_resumed() {
        let tickets = Arc::new(Tickets::default());
        for _ in 0..2 {
            let mut client = side(2, false).1;
            // One that would take tickets.
            client.resumption = Resumption::store(tickets.clone());
            let met = meet(client, side(1, false).0, Some(&key(1)));
            met.outcome.unwrap();
            assert_eq!(met.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            assert_eq!(met.client.handshake_kind(), Some(HandshakeKind::Full));
            let shown = |keys: Option<&[CertificateDer<'_>]>| raw_key(&keys.unwrap()[0]);
            assert_eq!(shown(met.client.peer_certificates()), Some(key(1)));
            assert_eq!(shown(met.server.peer_certificates()), Some(key(2)));
            let Connection::Server(server) = &met.server else { unreachable!("it is the server") };
            assert_eq!(server.server_name(), None, "the expected key isn't sent as a name");
        }
        assert_eq!(tickets.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_dialer_shows_its_key_to_the_device_it_expects_alone() {
        let met = meet(side(2, false).1, side(3, false).0, Some(&key(1)));
        assert!(met.outcome.is_err() && met.server.peer_certificates().is_none());
    }

    #[test]
    fn who_shows_no_key_or_speaks_something_else_is_refused() {
        let (server, mut client) = side(1, false);
        let mut silent = ClientConfig::builder_with_provider(provider(false))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(KeyVerifier {
                algorithms: provider(false).signature_verification_algorithms,
            }))
            .with_no_client_auth();
        silent.alpn_protocols = vec![ALPN.to_vec()];
        assert!(meet(silent, server.clone(), None).outcome.is_err());
        client.alpn_protocols = vec![b"h3".to_vec()];
        assert!(meet(client, server, None).outcome.is_err());
    }

    #[test]
    fn the_key_exchange_is_post_quantum_where_both_sides_can_and_where_it_is_required() {
        let mut classical = CryptoProvider::clone(&provider(false));
        classical.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let old = || sides(&DeviceSecret::new([9; 32]), Arc::new(classical.clone())).unwrap();
        let group = |client: ClientConfig, server: ServerConfig| {
            let met = meet(client, server, None);
            met.outcome.ok().and_then(|()| met.client.negotiated_key_exchange_group()).map(|group| group.name())
        };
        for (client, server) in [(false, false), (true, false), (false, true), (true, true)] {
            assert_eq!(group(side(1, client).1, side(2, server).0), Some(NamedGroup::X25519MLKEM768));
        }
        assert_eq!(group(side(1, false).1, old().0), Some(NamedGroup::X25519));
        assert_eq!(group(old().1, side(2, false).0), Some(NamedGroup::X25519));
        assert_eq!(group(side(1, true).1, old().0), None);
        assert_eq!(group(old().1, side(2, true).0), None);
    }
}
