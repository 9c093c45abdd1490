//! The ceiling: raw `quinn` between two processes, nothing durable, nothing sealed end to end.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use peerloom::{Error, ErrorKind, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_eddsa_type};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{Setup, failed};
use crate::output::say;
use crate::process::program;

const MESSAGES: usize = 300_000;
const SIZE: usize = 1024;

pub(super) async fn measure(setup: &mut Setup) -> Result<Map<String, Value>> {
    setup.progress.set("raw quinn");
    let mut child = program()?
        .args(["bench-peer", "raw-quic"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(broken)?;
    let mut line = String::new();
    let stdout = child.stdout.take().ok_or_else(|| failed(ErrorKind::System, "the child has no output"))?;
    BufReader::new(stdout).read_line(&mut line).await.map_err(broken)?;
    let address: SocketAddr = line.trim().parse().map_err(broken)?;

    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyKey))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"raw".to_vec()];
    let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).map_err(broken)?;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(broken)?));
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(address, "raw").map_err(broken)?.await.map_err(broken)?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(broken)?;
    let frame = [[0, 0, 4, 0].as_slice(), &[7; SIZE]].concat();
    let begin = Instant::now();
    for _ in 0..MESSAGES {
        send.write_all(&frame).await.map_err(broken)?;
    }
    send.finish().map_err(broken)?;
    // One byte back says that everything arrived.
    receive.read_exact(&mut [0]).await.map_err(broken)?;
    let rate = MESSAGES as f64 / begin.elapsed().as_secs_f64();
    connection.close(VarInt::from_u32(0), b"done");
    endpoint.wait_idle().await;
    Ok(Map::from_iter([("raw_quinn_messages_per_s".to_owned(), json!(rate))]))
}

/// The other process: prints its address and swallows one stream.
pub(super) async fn serve() -> Result<()> {
    // RFC 8410: an Ed25519 key in PKCS #8; raw public keys need no certificate.
    let seed = [7; 32];
    let pkcs8 = [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20][..], &seed].concat();
    let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice())).map_err(broken)?;
    let spki = key.public_key().ok_or_else(|| failed(ErrorKind::Internal, "the key has no public half"))?;
    let certified = CertifiedKey::new(vec![CertificateDer::from(spki.as_ref().to_vec())], key);
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified))));
    tls.alpn_protocols = vec![b"raw".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(broken)?));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).map_err(broken)?;
    say(&endpoint.local_addr().map_err(broken)?.to_string());
    let incoming = endpoint.accept().await.ok_or_else(|| failed(ErrorKind::Closed, "nobody came"))?;
    let connection = incoming.await.map_err(broken)?;
    let (mut send, mut receive) = connection.accept_bi().await.map_err(broken)?;
    while receive.read_chunk(usize::MAX, true).await.map_err(broken)?.is_some() {}
    send.write_all(&[1]).await.map_err(broken)?;
    connection.closed().await;
    Ok(())
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    failed(ErrorKind::Closed, "raw QUIC fails").with_source(error)
}

/// The ceiling needs no identity.
#[derive(Debug)]
struct AnyKey;

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
