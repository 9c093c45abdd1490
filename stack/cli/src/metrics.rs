//! The node's figures over HTTP, for Prometheus.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use peerloom::core::accept::{self, Accepting};
use peerloom::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::debug;

/// Connections at once, and one in how many of the process's files is for one.
const CONNECTIONS: usize = 32;
const FILES_SHARE: usize = 8;
/// How long a connection may take for its request, and with the answer: those who say nothing make room soon.
const REQUEST: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request, in bytes.
const HEAD: usize = 16 * 1024;
/// How often recorded times are sorted into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);
/// The buckets of times, in seconds.
const BUCKETS: [f64; 9] = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

fn failed(message: String) -> Error {
    Error::new(ErrorKind::Invalid, "metrics", "listen", message)
}

/// The address to serve figures at is taken before there is a node, which an address that can't be used would end.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let taken = |e| failed(format!("{address} can't be used; give --metrics another one")).with_source(e);
    TcpListener::bind(address).await.map_err(taken)
}

/// Serves the figures, whatever the path, until the process ends.
pub(crate) fn serve(listener: TcpListener) -> Result<()> {
    let figures = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|e| failed("the figures can't be collected".into()).with_source(e))?;
    peerloom::describe_metrics();
    let upkeep = figures.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    tokio::spawn(accept(listener, figures));
    Ok(())
}

async fn accept(listener: TcpListener, figures: PrometheusHandle) {
    let places = Arc::new(Semaphore::new(accept::connections(CONNECTIONS, FILES_SHARE)));
    let mut accepting = Accepting::new("metrics");
    loop {
        // Others wait in the system's queue, for as long as one connection may take.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, from) = accepting.next(|| listener.accept()).await;
        let answering = tokio::time::timeout(TIMEOUT, answer(stream, figures.clone()));
        tokio::spawn(async move {
            if !matches!(answering.await, Ok(Ok(()))) {
                debug!(%from, "a request for figures came to nothing");
            }
            drop(place);
        });
    }
}

/// One request, one answer.
async fn answer(stream: TcpStream, figures: PrometheusHandle) -> hyper::Result<()> {
    let service = service_fn(|_: Request<hyper::body::Incoming>| {
        let text = Response::builder().header(CONTENT_TYPE, "text/plain; version=0.0.4").body(figures.render());
        async { Ok::<_, Infallible>(text.unwrap_or_default()) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST).max_buf_size(HEAD).keep_alive(false);
    http.serve_connection(TokioIo::new(stream), service).await
}
