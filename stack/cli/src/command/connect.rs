//! Connecting by hand: one text there, one text back.

use std::io::{BufRead, IsTerminal, Read};

use clap::Args;
use peerloom::{Error, ErrorKind, Manual, Result};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::answers::text;
use super::qr;
use crate::control::Request;
use crate::output::{note, printable, say, say_json};
use crate::session::Session;
use crate::signals::interrupted;

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The contact's name; not needed where there is one contact alone.
    pub(crate) contact: Option<String>,
    /// Offer and answer are carried by people.
    #[arg(long, required = true)]
    pub(crate) manual: bool,
    /// Answer this offer, which the other side printed; `-` reads it from standard input.
    #[arg(long, value_name = "TEXT")]
    pub(crate) offer: Option<String>,
    /// Don't draw QR codes.
    #[arg(long)]
    pub(crate) no_qr: bool,
}

/// Longest line read; the texts take some 1,000 characters.
const LONGEST: u64 = 64 * 1024;

pub(super) async fn run(session: &Session, json: bool, connect: Connect) -> Result<()> {
    match &connect.offer {
        Some(offer) => answer(session, json, &connect, offer).await,
        None => offer(session, json, &connect).await,
    }
}

/// Prints an offer, takes the answer, and connects.
async fn offer(session: &Session, json: bool, connect: &Connect) -> Result<()> {
    let contact = match &connect.contact {
        Some(contact) => contact.clone(),
        None => only_contact(session).await?,
    };
    // Before anything takes time.
    session.request(Request::Find { contact: contact.clone() }).await?;
    session.start().await?;
    note("finding out how this machine can be reached …");
    let offer = session.request(Request::Offer { contact }).await?;
    let (contact, user) = (printable(&text(&offer, "contact")), text(&offer, "user"));
    show(json, connect, &offer, "offer")?;
    note(&format!("let {contact} run: peerloom connect --manual --offer 'THE TEXT ABOVE', and paste the answer here"));
    let answer = tokio::select! {
        line = read_text() => line?,
        () = interrupted() => return Ok(()),
    };
    if Manual::is_offer(&answer)? {
        return Err(wrong("this is an offer; paste the answer, which the other side made of the offer above"));
    }
    note("connecting …");
    let connect = async {
        session.request(Request::TakeManual { text: answer }).await?;
        link_to(session, &user).await
    };
    let link = tokio::select! {
        link = connect => link?,
        () = interrupted() => return Ok(()),
    };
    if json {
        say_json(&link);
    } else {
        say(&format!("connected to {contact}: {} {}", text(&link, "address"), text(&link, "path")));
    }
    hold(session).await
}

/// Answers an offer.
async fn answer(session: &Session, json: bool, connect: &Connect, offer: &str) -> Result<()> {
    if let Some(contact) = &connect.contact {
        session.request(Request::Find { contact: contact.clone() }).await?;
    }
    let offer = if offer == "-" { read_text().await? } else { offer.to_owned() };
    if !Manual::is_offer(&offer)? {
        return Err(wrong("this is an answer, not an offer; paste it where the offer was made"));
    }
    session.start().await?;
    note("finding out how this machine can be reached …");
    let answer = session.request(Request::TakeManual { text: offer }).await?;
    show(json, connect, &answer, "answer")?;
    note("take the answer back to the side that made the offer; the link comes up by itself then");
    hold(session).await
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, "connect", "read the text", message)
}

/// A node in this process keeps the link as long as the command runs.
async fn hold(session: &Session) -> Result<()> {
    if let Session::Local { .. } = session {
        note("this command holds the link, since no node runs on the folder; Ctrl-C ends it");
        interrupted().await;
    }
    Ok(())
}

fn show(json: bool, connect: &Connect, answer: &Value, key: &str) -> Result<()> {
    let carried = text(answer, key);
    if json {
        say_json(&json!({ key: carried }));
        return Ok(());
    }
    if !connect.no_qr && std::io::stdout().is_terminal() {
        qr::show(&carried)?;
    }
    say(&carried);
    Ok(())
}

async fn only_contact(session: &Session) -> Result<String> {
    let contacts = session.request(Request::Contacts).await?;
    match contacts.as_array().map(Vec::as_slice) {
        Some([one]) => Ok(text(one, "user")),
        _ => {
            let message = "say whom to connect to: peerloom connect CONTACT --manual";
            Err(Error::new(ErrorKind::Invalid, "connect", "find the contact", message))
        }
    }
}

/// How the link to a contact stands; it is up, so a moment is enough.
async fn link_to(session: &Session, user: &str) -> Result<Value> {
    for _ in 0..100 {
        let peers = session.request(Request::Peers).await?;
        let found = peers.as_array().into_iter().flatten();
        let mut ours = found.filter(|p| p["user"] == user && p["state"] == "connected");
        if let Some(peer) = ours.next() {
            return Ok(peer.clone());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let message = "the link came up and ended at once; the log of the other node says why";
    Err(Error::new(ErrorKind::Closed, "connect", "connect", message))
}

/// One text from standard input. A thread of its own reads: Ctrl-C must not wait for it.
async fn read_text() -> Result<String> {
    let (sender, line) = oneshot::channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock().take(LONGEST);
        let mut read = String::new();
        // Empty lines before it come of pasting.
        while read.trim().is_empty() {
            read.clear();
            match input.read_line(&mut read) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        // Whoever waited may be gone.
        let _ = sender.send(read);
    });
    let read = line.await.unwrap_or_default();
    if read.trim().is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "connect", "read standard input", "nothing was pasted"));
    }
    Ok(read)
}
