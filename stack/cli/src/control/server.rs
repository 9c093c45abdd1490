//! Answering commands on a node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use peerloom::core::private::{self, Identity};
use peerloom::{ByHand, Error, ErrorKind, Node, Result, Rung, UserId};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

use super::SOCKET;
use super::protocol::{Answer, Numbered, Outcome, Request, cursor, event_view, message_view};

/// Longest request line: a message of 1 MiB whose every byte is escaped.
const MAX_LINE: u64 = 8 * 1024 * 1024;
/// Requests of one connection that run at once.
const RUNNING: usize = 2048;
/// Most messages in one answer.
const MAX_PAGE: usize = 10_000;

/// The listening socket; removed from the folder when dropped, unless another node's has taken its place.
pub(crate) struct Server {
    path: PathBuf,
    socket: Option<Identity>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Listens in the node's folder. The node holds the store's lock, so a socket that is there
    /// already was left by a crash.
    pub(crate) fn start(folder: &Path, node: Node) -> Result<Self> {
        let path = folder.join(SOCKET);
        let failed =
            |e| Error::new(ErrorKind::Invalid, "control", "listen", "the control socket can't be used").source(e);
        let listener = private::bind(&path)?;
        let socket = Identity::of(&path);
        let listener =
            listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener)).map_err(failed)?;
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(serve(stream, node.clone()))),
                    Err(error) => {
                        warn!(%error, "a command can't connect");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(Self { path, socket, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // While the listener lives, no other socket can have its identity.
        if let Some(socket) = self.socket {
            socket.remove(&self.path);
        }
        self.task.abort();
    }
}

async fn serve(stream: UnixStream, node: Node) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let (answers, mut queue) = mpsc::channel::<Answer>(256);
    let running = Arc::new(Semaphore::new(RUNNING));
    let write = async move {
        let mut out = Vec::new();
        while let Some(answer) = queue.recv().await {
            out.clear();
            let mut next = Some(answer);
            while let Some(answer) = next {
                // Into memory, so only a bug fails.
                if serde_json::to_writer(&mut out, &answer).is_err() {
                    return;
                }
                out.push(b'\n');
                next = if out.len() < 64 * 1024 { queue.try_recv().ok() } else { None };
            }
            if writer.write_all(&out).await.is_err() {
                return;
            }
        }
    };
    let read = async move {
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let Ok(Numbered { id, request }) = serde_json::from_slice(&line) else {
                debug!("a command speaks another version of the control protocol");
                return;
            };
            let Ok(permit) = running.clone().acquire_owned().await else {
                return;
            };
            let (node, answers) = (node.clone(), answers.clone());
            tokio::spawn(async move {
                let _permit = permit;
                if let Request::Follow { after } = request {
                    follow(id, &node, after, &answers).await;
                    return;
                }
                let outcome = match execute(&node, request).await {
                    Ok(value) => Outcome::Ok(value),
                    Err(error) => Outcome::Error((&error).into()),
                };
                // Whoever asked may be gone.
                let _ = answers.send(Answer { id, outcome }).await;
            });
        }
    };
    tokio::select! {
        () = write => {}
        () = async { read.await; std::future::pending::<()>().await } => {}
    }
}

async fn follow(id: u64, node: &Node, after: Option<String>, answers: &mpsc::Sender<Answer>) {
    let stream = match after {
        Some(after) => cursor(Some(&after)).map(|after| node.events_after(after)),
        None => node.events().await,
    };
    let mut events = match stream {
        Ok(events) => events,
        Err(error) => {
            let _ = answers.send(Answer { id, outcome: Outcome::Error((&error).into()) }).await;
            return;
        }
    };
    if answers.send(Answer { id, outcome: Outcome::Ok(Value::Null) }).await.is_err() {
        return;
    }
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = answers.closed() => None,
        };
        let Some(event) = event else { return };
        let view = event_view(node, &event).and_then(|view| serde_json::to_value(view).ok());
        if let Some(value) = view
            && answers.send(Answer { id, outcome: Outcome::Event(value) }).await.is_err()
        {
            return;
        }
    }
}

/// Does what a request asks, on a node in this process.
pub(crate) async fn execute(node: &Node, request: Request) -> Result<Value> {
    match request {
        Request::Status => {
            let addresses: Vec<String> = node.addresses().await.iter().map(ToString::to_string).collect();
            Ok(json!({
                "name": node.name(),
                "user": node.user().to_string(),
                "device": node.device().to_string(),
                "addresses": addresses,
                "refused": node.refused(),
            }))
        }
        Request::Invite { lifetime_ms, uses } => {
            // It may still be starting, or be a command that needs no network itself.
            node.start().await?;
            let link = node.invite(Duration::from_millis(lifetime_ms), uses).await?;
            Ok(json!({ "link": link, "uses": uses, "lifetime_ms": lifetime_ms }))
        }
        Request::Add { link, alias } => {
            let mut contact = match is_id(&link) {
                true => {
                    // Only the network knows whose it is.
                    node.start().await?;
                    node.add_contact_by_id(&link).await?
                }
                false => node.add_contact(&link).await?,
            };
            if let Some(alias) = alias {
                contact.alias = node.rename_contact(&contact, &alias).await?;
            }
            Ok(json!({ "contact": contact.alias, "user": contact.user.to_string() }))
        }
        Request::Contacts => {
            let contacts = node.contacts().into_iter();
            Ok(contacts.map(|c| json!({ "contact": c.alias, "user": c.user.to_string() })).collect())
        }
        Request::Rename { contact, alias } => {
            let contact = node.find_contact(&contact)?;
            Ok(json!({ "contact": node.rename_contact(&contact, &alias).await? }))
        }
        Request::Send { contact, text, ttl_ms } => {
            let contact = node.find_contact(&contact)?;
            let ttl = ttl_ms.map(Duration::from_millis);
            let id = node.conversation(&contact).send_bytes("", text.into(), ttl).await?;
            Ok(json!({ "id": id.to_string(), "contact": contact.alias }))
        }
        Request::Inbox { after, limit } => {
            let limit = limit.min(MAX_PAGE);
            let messages = match after {
                Some(after) => node.messages_after(cursor(Some(&after))?, limit).await?,
                None => node.newest_messages(limit).await?,
            };
            let views: Vec<_> = messages.iter().map(|m| message_view(node, m)).collect();
            serde_json::to_value(views)
                .map_err(|e| Error::new(ErrorKind::Bug, "control", "answer", "a message can't be written").source(e))
        }
        Request::Follow { .. } => {
            Err(Error::new(ErrorKind::Bug, "control", "answer", "following is not a single answer"))
        }
        Request::Queue => queue(node).await,
        Request::Retry { contact } => {
            let contact = contact.map(|name| node.find_contact(&name)).transpose()?;
            Ok(json!({ "woken": node.retry(contact.as_ref()).await? }))
        }
        Request::Peers => Ok(peers(node)),
        Request::Offer { contact } => {
            node.start().await?;
            let contact = node.find_contact(&contact)?;
            Ok(json!({ "offer": node.offer_by_hand(&contact).await?, "contact": contact.alias }))
        }
        Request::TakeByHand { text } => {
            node.start().await?;
            match node.take_by_hand(&text).await? {
                ByHand::Answer(answer) => Ok(json!({ "answer": answer })),
                ByHand::Connected => Ok(json!({ "connected": true })),
            }
        }
        Request::Doctor => {
            node.start().await?;
            serde_json::to_value(node.diagnose().await)
                .map_err(|e| Error::new(ErrorKind::Bug, "control", "answer", "a finding can't be written").source(e))
        }
        Request::SetIceServers { servers } => Ok(json!({ "transports": node.set_ice_servers(&servers)? })),
    }
}

/// Whether what should be added is an id rather than a link.
fn is_id(text: &str) -> bool {
    text.trim().parse::<UserId>().is_ok()
}

async fn queue(node: &Node) -> Result<Value> {
    let contacts = node.contacts();
    let entry = |entry: peerloom::QueuedEntry| {
        let contact = contacts.iter().find(|c| c.conversation == entry.conversation);
        json!({
            "id": entry.message.to_string(),
            "contact": contact.map(|c| c.alias.clone()),
            "device": entry.device.map(|d| d.to_string()),
            "attempts": entry.attempts,
            "next_try_ms": entry.next_try.map(|d| d.as_millis()),
            "stalled": entry.stalled,
            "reason": entry.reason,
        })
    };
    Ok(node.queue().await?.into_iter().map(entry).collect())
}

fn peers(node: &Node) -> Value {
    let peer = |peer: peerloom::PeerStatus| {
        json!({
            "contact": node.contact(&peer.user).map(|c| c.alias),
            "device": peer.device.to_string(),
            "state": match peer.rung {
                Rung::Connected => "connected",
                Rung::Connecting => "connecting",
                Rung::Signaling => "signaling",
                Rung::Discovering => "discovering",
                Rung::Disconnected => "disconnected",
            },
            "address": peer.link.as_ref().map(|l| l.address.clone()),
            "path": peer.link.as_ref().map(|l| l.path.to_string()),
            "suite": peer.suite,
            "rtt_us": peer.link.as_ref().map(|l| l.rtt_us),
            "bytes_sent": peer.link.as_ref().map(|l| l.bytes_sent),
            "bytes_received": peer.link.as_ref().map(|l| l.bytes_received),
            "last_seen_ms": peer.last_seen_ms,
            "reason": peer.reason,
        })
    };
    node.peers().into_iter().map(peer).collect()
}
