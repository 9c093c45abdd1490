//! Starting, listening and stopping.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use peerloom_core::accept::{self, Accepting};
use peerloom_core::pace::{Pace, Paced};
use peerloom_core::{Error, ErrorKind, Result, private};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::connections::{Caller, Connections};
use crate::state::State;
use crate::{RegistryConfig, TlsFiles, api, housekeeping};

/// How long a connection serves requests before it is closed, so that nobody keeps one for good by not
/// reading an answer. WebSockets have their own rules.
const AGE: Duration = Duration::from_secs(5 * 60);
/// How long what is going on may take to end, when the connection or the registry is closed.
const GRACE: Duration = Duration::from_secs(5);
/// Of so many files that the process may open, one is for a connection: the others are for the store.
const FILES_SHARE: usize = 2;
/// Longest head of a request, in bytes.
const HEAD: usize = 16 * 1024;
/// Most header fields of a request.
const HEADERS: usize = 64;

/// A running registry. Dropping it stops it, without waiting.
pub struct Registry {
    state: Arc<State>,
    local_addr: SocketAddr,
}

impl Registry {
    /// Opens the store, binds, and begins to serve on the current Tokio runtime.
    pub async fn start(config: RegistryConfig) -> Result<Self> {
        config.validate()?;
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let cannot = |e: std::io::Error| {
            let kind = match e.kind() {
                std::io::ErrorKind::AddrInUse => ErrorKind::InUse,
                _ => ErrorKind::Invalid,
            };
            let advice = format!("can't listen on {}; choose another address or port", config.listen);
            Error::new(kind, "registry", "listen", advice).with_source(e)
        };
        let listener = TcpListener::bind(&config.listen).await.map_err(cannot)?;
        let local_addr = listener.local_addr().map_err(cannot)?;
        let state = Arc::new(State::open(config, local_addr)?);
        let router = api::router(state.clone());
        let most = accept::connections(state.config.limits.connections, FILES_SHARE);
        // One address takes half of them at most.
        let per_address = match state.config.trust_forwarded {
            true => usize::MAX,
            false => state.config.limits.connections_per_address.min(most.div_ceil(2)),
        };
        let connections = Connections::new(most, per_address);
        info!(address = %local_addr, names = ?state.names(), tls = tls.is_some(), "the registry listens");
        let elsewhere = local_addr.ip().is_unspecified() || state.config.trust_forwarded;
        if state.config.names.is_empty() && elsewhere {
            let name = state.name_for(None);
            warn!(name, "no client calls the registry by this name, and none connects: set its name");
        }
        state.tasks.spawn(housekeeping::run(state.clone()));
        state.tasks.spawn(accept(state.clone(), listener, router, tls, connections));
        Ok(Self { state, local_addr })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The names by which it may be called; the first is the one for whoever calls it by another.
    pub fn names(&self) -> &[String] {
        self.state.names()
    }

    /// Accepts nothing more, closes the sockets, and waits some seconds for requests to end.
    pub async fn shutdown(self) {
        self.stop();
        if tokio::time::timeout(GRACE, self.state.tasks.wait()).await.is_err() {
            warn!("some connections didn't end in time");
        }
        info!(address = %self.local_addr, "the registry has stopped");
    }

    fn stop(&self) {
        self.state.closing.cancel();
        self.state.hub.close();
        self.state.tasks.close();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let invalid = |path: &std::path::Path, what: &str| {
        let message = format!("{}: not {what} in PEM that can be read", path.display());
        Error::new(ErrorKind::Invalid, "registry", "configure", message)
    };
    let unusable = |e: rustls::Error| {
        let message = "the TLS certificate and key can't be used together";
        Error::new(ErrorKind::Invalid, "registry", "configure", message).with_source(e)
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .map_err(|e| invalid(&files.certificate, "a certificate").with_source(e))?;
    let key = private::read_secret(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|e| invalid(&files.key, "a private key").with_source(e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    state: Arc<State>,
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    connections: Arc<Connections>,
) {
    let mut accepting = Accepting::new("registry");
    loop {
        let (stream, from) = tokio::select! {
            () = state.closing.cancelled() => return,
            accepted = accepting.next(|| listener.accept()) => accepted,
        };
        let Some(place) = connections.admit(from.ip()) else {
            state.metrics.refuse("connections");
            debug!(%from, "too many connections");
            continue;
        };
        let limits = &state.config.limits;
        let pace = Pace::new(limits.socket_bytes_per_second, limits.socket_bytes_burst);
        let caller = Caller { address: from.ip(), place: Arc::new(place), pace };
        state.tasks.spawn(serve_stream(state.clone(), stream, router.clone(), tls.clone(), caller));
    }
}

async fn serve_stream(state: Arc<State>, stream: TcpStream, router: Router, tls: Option<TlsAcceptor>, caller: Caller) {
    let _counted = state.metrics.connection();
    // Fails only on a dead connection, which shows soon enough.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return serve(&state, stream, router, caller).await };
    match tokio::time::timeout(state.config.times.head, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve(&state, stream, router, caller).await,
        Ok(Err(error)) => debug!(from = %caller.address, %error, "no TLS"),
        Err(_) => state.metrics.refuse("slow"),
    }
}

/// Serves requests on one connection until it ends, or becomes a WebSocket.
async fn serve<S>(state: &State, stream: S, router: Router, caller: Caller)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let from = caller.address;
    let stream = Paced::new(stream, caller.pace.clone());
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(state.config.times.head).max_buf_size(HEAD).max_headers(HEADERS);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = state.closing.cancelled() => None,
        () = tokio::time::sleep(AGE) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return state.metrics.refuse("slow"),
            }
        }
    };
    if let Err(error) = ended {
        if error.is_timeout() {
            state.metrics.refuse("slow");
        }
        debug!(%from, %error, "a connection ended");
    }
}
