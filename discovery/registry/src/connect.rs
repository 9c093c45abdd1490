//! Streams to the registry: TCP, and TLS over it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use peerloom_core::names::{Resolver, race};
use peerloom_core::{Error, ErrorKind, Result, private};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::endpoint::Endpoint;

/// Look-ups of the registry's name at once: calls and the socket, and what the system hasn't given up yet.
const LOOKUPS: usize = 8;

/// A stream to the registry.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to one registry.
pub(crate) struct Connector {
    endpoint: Endpoint,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    resolver: Resolver,
}

impl Connector {
    /// Reads the certificates to trust, where the registry speaks TLS.
    pub(crate) fn new(endpoint: Endpoint, ca: Option<&Path>) -> Result<Self> {
        let tls = if endpoint.tls { Some((tls(ca)?, server_name(&endpoint)?)) } else { None };
        Ok(Self { endpoint, tls, resolver: Resolver::new(LOOKUPS) })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Makes a connection, with the first of the registry's addresses that answers.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>> {
        let Endpoint { host, port, name, .. } = &self.endpoint;
        let unknown = || {
            let advice = format!("the registry's name {name} leads to no address; is the URL right?");
            Error::new(ErrorKind::Unreachable, "registry", "connect", advice)
        };
        let addresses = self.resolver.lookup(host, *port).await.map_err(|e| unknown().with_source(e))?;
        self.connect_any(addresses).await.unwrap_or_else(|| Err(unknown()))
    }

    /// `None` where there is no address.
    async fn connect_any(&self, addresses: Vec<SocketAddr>) -> Option<Result<Box<dyn Stream>>> {
        race(addresses, |address| self.connect_to(address)).await
    }

    /// With TLS: an address that takes connections and speaks none is as dead as one that is silent.
    async fn connect_to(&self, address: SocketAddr) -> Result<Box<dyn Stream>> {
        let name = &self.endpoint.name;
        let unreachable = |e: std::io::Error| {
            let advice = format!("the registry {name} can't be reached; is it running, is the URL right?");
            Error::new(ErrorKind::Unreachable, "registry", "connect", advice).with_source(e)
        };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        // Fails only on a dead connection, which shows soon enough.
        let _ = stream.set_nodelay(true);
        let Some((connector, server)) = &self.tls else { return Ok(Box::new(stream)) };
        let stream = connector.connect(server.clone(), stream).await.map_err(|e| {
            let advice = format!(
                "no TLS with the registry {name}; if its certificate is a private one, set `ca`, \
                 and if it speaks plain HTTP, use http:// in `url`"
            );
            Error::new(ErrorKind::Unreachable, "registry", "connect", advice).with_source(e)
        })?;
        Ok(Box::new(stream))
    }
}

fn server_name(endpoint: &Endpoint) -> Result<ServerName<'static>> {
    ServerName::try_from(endpoint.host.clone()).map_err(|e| {
        let message = format!("url: {} is no name that a certificate can have", endpoint.host);
        Error::new(ErrorKind::Invalid, "registry", "configure", message).with_source(e)
    })
}

fn tls(ca: Option<&Path>) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        debug!(%error, "a certificate of the system can't be read");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca {
        let unusable = |why: String| {
            let message = format!("ca: {}: {why}", path.display());
            Error::new(ErrorKind::Invalid, "registry", "configure", message)
        };
        // Who could change it could put another registry in this one's place.
        let text = private::read_shared(path)?.text;
        let file = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = file.map_err(|e| unusable(format!("no certificates in PEM ({e})")))?;
        if certificates.is_empty() {
            return Err(unusable("no certificates in PEM".into()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|e| unusable(format!("a certificate can't be used ({e})")))?;
        }
    }
    let failed =
        |e: rustls::Error| Error::new(ErrorKind::Internal, "registry", "configure", "no TLS versions").with_source(e);
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::CertifiedKey;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn addresses_that_are_dead_keep_nobody_from_the_next() {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["reg.example".into()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, cert.pem()).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();

        // One takes connections and says nothing, one refuses them, one is the registry.
        let (_silent, silent) = listener().await;
        let refusing = listener().await.1;
        let (live, registry) = listener().await;
        let acceptor = TlsAcceptor::from(Arc::new(server));
        tokio::spawn(async move {
            let (stream, _) = live.accept().await.unwrap();
            let served = acceptor.accept(stream).await;
            tokio::time::sleep(Duration::from_secs(3600)).await;
            drop(served);
        });
        let connector = Connector::new("https://reg.example".parse().unwrap(), Some(&ca)).unwrap();
        let connected = connector.connect_any(vec![silent, silent, refusing, registry]).await.unwrap();
        connected.map(drop).unwrap();
        let refused = connector.connect_any(vec![refusing]).await.unwrap();
        assert_eq!(refused.map(drop).unwrap_err().kind(), ErrorKind::Unreachable);
    }
}
