//! What this machine's network allows.

use std::process::ExitCode;

use peerloom::{Diagnostic, DiagnosticStatus, Error, ErrorKind, Result};

use crate::control::Request;
use crate::output::{Progress, note, printable, say, say_json};
use crate::session::Session;

pub(super) async fn run(session: Session, json: bool) -> Result<ExitCode> {
    let progress = Progress::new();
    progress.set("asking each layer what the network allows; this takes a few seconds");
    let asked = ask(&session).await;
    session.close().await;
    drop(progress);
    let diagnostics = asked?;
    let count = |status| diagnostics.iter().filter(|diagnostic| diagnostic.status == status).count();
    let (bad, notes) = (count(DiagnosticStatus::Bad), count(DiagnosticStatus::Note));
    if json {
        say_json(&diagnostics);
    } else {
        diagnostics.iter().for_each(show);
        note(match (bad, notes) {
            (0, 0) => "nothing is wrong",
            (0, _) => "nothing is broken; see the notes for what is limited",
            (1, _) => "one thing doesn't work",
            _ => "several things don't work",
        });
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(session: &Session) -> Result<Vec<Diagnostic>> {
    session.start().await?;
    let answer = session.request(Request::Doctor).await?;
    let found: Vec<Diagnostic> = serde_json::from_value(answer).map_err(|e| {
        Error::new(ErrorKind::UnsupportedVersion, "doctor", "read the diagnostics", "the node speaks another version")
            .with_source(e)
    })?;
    let stopped = session.is_alone().then(|| {
        Diagnostic::note(
            "node",
            "no node runs on this folder; what follows holds while one does",
            "start `peerloom run`",
        )
    });
    Ok(stopped.into_iter().chain(found).collect())
}

fn show(diagnostic: &Diagnostic) {
    let status = match diagnostic.status {
        DiagnosticStatus::Good => "good",
        DiagnosticStatus::Note => "note",
        DiagnosticStatus::Bad => "BAD ",
    };
    say(&format!("{status}  {:<9} {}", diagnostic.check, printable(&diagnostic.detail)));
    if !diagnostic.remedy.is_empty() {
        say(&format!("      {:<9} → {}", "", printable(&diagnostic.remedy)));
    }
}
