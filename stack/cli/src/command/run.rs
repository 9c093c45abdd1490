//! Running a node until the user ends it.

use std::path::Path;

use clap::Args;
use peerloom::{Error, ErrorKind, Override, Result};
use serde_json::Value;

use super::answers::{show_notices, text};
use super::show::{once_only, show_event};
use crate::args::address;
use crate::control::Request;
use crate::log::LogFormat;
use crate::metrics;
use crate::output::{is_lost, note, say_json};
use crate::session::Session;
use crate::signals::interrupted;

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Print neither the address nor events.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Serve figures for Prometheus at this address, such as 127.0.0.1:9464.
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    pub(crate) metrics: Option<std::net::SocketAddr>,
}

/// Starts the folder's node, and shows what happens until the user ends it.
pub(super) async fn start(folder: &Path, overrides: &[Override], json: bool, log: LogFormat, run: Run) -> Result<()> {
    let figures = match run.metrics {
        Some(address) => Some(metrics::listen(address).await?),
        None => None,
    };
    let session = Session::own(folder, overrides).await?;
    figures.map_or(Ok(()), metrics::serve)?;
    serve(session, json, log, run).await
}

async fn serve(session: Session, json: bool, log: LogFormat, run: Run) -> Result<()> {
    session.start().await?;
    let status = session.request(Request::Status).await?;
    if json {
        say_json(&status);
    } else if !run.quiet && log == LogFormat::Text {
        let addresses: Vec<&str> =
            status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let place = match addresses.is_empty() {
            true => "runs, and no address leads to it".to_owned(),
            false => format!("listens at {}", addresses.join(", ")),
        };
        note(&format!("{} {place}; Ctrl-C ends it", text(&status, "name")));
        show_notices(&status);
    }
    // On a thread of its own: a reader that stops reading must hold up neither signals nor the node.
    let session = std::sync::Arc::new(session);
    let showing = session.clone();
    let follow = move || {
        let shown = showing.follow(None, |event| {
            if run.quiet || is_lost() {
                once_only(&event).iter().for_each(|line| note(line));
            } else {
                show_event(&event, json)
            }
        });
        tokio::runtime::Handle::current().block_on(shown)
    };
    let panicked = |e| Error::new(ErrorKind::Internal, "run", "show", "showing events panicked").with_source(e);
    let ended = tokio::select! {
        ended = tokio::task::spawn_blocking(follow) => ended.map_err(panicked).flatten(),
        () = interrupted() => Ok(()),
    };
    session.end().await;
    ended
}
