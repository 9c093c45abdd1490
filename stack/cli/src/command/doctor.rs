//! What this machine's network allows.

use std::process::ExitCode;

use peerloom::{Error, ErrorKind, Finding, FindingStatus, Result};

use crate::control::Request;
use crate::output::{Progress, note, printable, say, say_json};
use crate::session::Session;

pub(super) async fn run(session: Session, json: bool) -> Result<ExitCode> {
    let progress = Progress::new();
    progress.set("asking each layer what the network allows; this takes a few seconds");
    let asked = ask(&session).await;
    session.close().await;
    drop(progress);
    let findings = asked?;
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let (bad, notes) = (count(FindingStatus::Bad), count(FindingStatus::Note));
    if json {
        say_json(&findings);
    } else {
        findings.iter().for_each(show);
        note(match (bad, notes) {
            (0, 0) => "nothing is wrong",
            (0, _) => "nothing is broken; see the notes for what is limited",
            (1, _) => "one thing doesn't work",
            _ => "several things don't work",
        });
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(session: &Session) -> Result<Vec<Finding>> {
    session.start().await?;
    let answer = session.request(Request::Doctor).await?;
    let found: Vec<Finding> = serde_json::from_value(answer).map_err(|e| {
        Error::new(ErrorKind::Bug, "doctor", "read the findings", "the node speaks another version").source(e)
    })?;
    let stopped = session.is_local().then(|| {
        Finding::note("node", "no node runs on this folder; what follows holds while one does", "start `peerloom run`")
    });
    Ok(stopped.into_iter().chain(found).collect())
}

fn show(finding: &Finding) {
    let status = match finding.status {
        FindingStatus::Good => "good",
        FindingStatus::Note => "note",
        FindingStatus::Bad => "BAD ",
    };
    say(&format!("{status}  {:<9} {}", finding.check, printable(&finding.detail)));
    if !finding.remedy.is_empty() {
        say(&format!("      {:<9} → {}", "", printable(&finding.remedy)));
    }
}
