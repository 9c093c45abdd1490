//! Does on a node what commands ask.

use std::time::Duration;

use peerloom::core::wire::name::{NameError, check_name, is_shown};
use peerloom::{ConnectionState, Error, ErrorKind, Manual, Node, Result, Sending, StoreStanding, UserId};
use serde_json::{Value, json};

use super::protocol::{Request, contact_view, cursor, is_id, message_view};

/// Most messages in one answer. Their bytes are bounded by the engine's pages.
const MAX_PAGE: usize = 10_000;

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
                "skipped": node.skipped(),
                "notices": node.notices().await?,
                "restored": node.standing().await? == StoreStanding::Restored,
            }))
        }
        Request::Invite { lifetime_ms, uses } => {
            // It may still be starting, or be a command that needs no network itself.
            node.start().await?;
            let link = node.invite(Duration::from_millis(lifetime_ms), uses).await?;
            let cut_off = node.cut_off().await.map(|found| format!("{}; {}", found.detail, found.remedy));
            Ok(json!({ "link": link, "uses": uses, "lifetime_ms": lifetime_ms, "cut_off": cut_off }))
        }
        Request::Add { link, alias } => {
            if let Some(alias) = &alias {
                let wrong = |e: NameError| Error::new(ErrorKind::Invalid, "contacts", "add", e.to_string());
                check_name(alias).map_err(wrong)?;
            }
            let before: Vec<UserId> = node.contacts().iter().map(|contact| contact.user).collect();
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
            let mut view = contact_view(node, &contact);
            view["known"] = before.contains(&contact.user).into();
            Ok(view)
        }
        Request::Contacts => Ok(node.contacts().iter().map(|contact| contact_view(node, contact)).collect()),
        Request::Find { contact } => Ok(contact_view(node, &node.find_contact(&contact)?)),
        Request::Rename { contact, alias } => {
            let mut contact = node.find_contact(&contact)?;
            contact.alias = node.rename_contact(&contact, &alias).await?;
            Ok(contact_view(node, &contact))
        }
        Request::Send { contact, text, ttl_ms } => {
            let (contact, sending) = accept_message(node, &contact, text, ttl_ms).await?;
            Ok(json!({ "id": sending.await?.to_string(), "contact": contact }))
        }
        Request::Inbox { after, limit, contact } => {
            let only = contact.map(|contact| node.find_contact(&contact)).transpose()?;
            let after = match after {
                Some(after) => cursor(Some(&after))?,
                None => node.before_newest(limit, only.as_ref()).await?,
            };
            let limit = limit.min(MAX_PAGE);
            let messages = match &only {
                Some(contact) => node.messages_of(contact, after, limit).await?,
                None => node.messages_after(after, limit).await?,
            };
            let views: Vec<_> = messages.iter().map(|m| message_view(node, m)).collect();
            serde_json::to_value(views).map_err(|e| {
                Error::new(ErrorKind::Internal, "control", "answer", "a message can't be written").with_source(e)
            })
        }
        Request::Ping | Request::Follow { .. } => {
            Err(Error::new(ErrorKind::Internal, "control", "answer", "the connection answers this itself"))
        }
        Request::Queue => queue(node).await,
        Request::Retry { contact } => {
            let contact = contact.map(|name| node.find_contact(&name)).transpose()?;
            Ok(json!({ "woken": node.retry(contact.as_ref()).await? }))
        }
        Request::Peers => Ok(peers(node)),
        Request::Offer { contact } => {
            let contact = node.find_contact(&contact)?;
            node.start().await?;
            let offer = node.offer_manual(&contact).await?;
            Ok(json!({ "offer": offer, "contact": contact.alias, "user": contact.user.to_string() }))
        }
        Request::TakeManual { text } => {
            Manual::is_offer(&text)?;
            node.start().await?;
            match node.take_manual(&text).await? {
                Manual::Answer(answer) => Ok(json!({ "answer": answer })),
                Manual::Connected => Ok(json!({ "connected": true })),
            }
        }
        Request::Doctor => {
            node.start().await?;
            serde_json::to_value(node.diagnose().await?).map_err(|e| {
                Error::new(ErrorKind::Internal, "control", "answer", "a diagnostic can't be written").with_source(e)
            })
        }
        Request::Recovery => {
            let phrase = node.recovery_phrase().await?;
            Ok(json!({ "phrase": phrase.as_ref().map(|phrase| phrase.as_str()) }))
        }
        Request::CheckRecovery { phrase } => {
            node.check_recovery_phrase(&phrase)?;
            Ok(Value::Null)
        }
        Request::ForgetRecovery => {
            node.forget_recovery_key().await?;
            Ok(Value::Null)
        }
        Request::SetIceServers { servers } => Ok(json!({ "transports": node.set_ice_servers(&servers)? })),
    }
}

/// Hands a message to a contact over to the node; gives the contact's name.
pub(super) async fn accept_message(
    node: &Node,
    contact: &str,
    text: String,
    ttl_ms: Option<u64>,
) -> Result<(String, Sending)> {
    if !text.chars().any(is_shown) {
        let message = "the message is empty: nothing in it shows";
        return Err(Error::new(ErrorKind::Invalid, "control", "send", message));
    }
    let contact = node.find_contact(contact)?;
    let ttl = ttl_ms.map(Duration::from_millis);
    let sending = node.conversation(&contact).submit("", text.into(), ttl).await?;
    Ok((contact.alias, sending))
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
    let mut queue: Vec<Value> = node.queue().await?.into_iter().map(entry).collect();
    // By name; of each contact the oldest first, as they are.
    queue.sort_by(|a, b| a["contact"].as_str().cmp(&b["contact"].as_str()));
    Ok(queue.into())
}

fn peers(node: &Node) -> Value {
    let peer = |peer: peerloom::PeerStatus| {
        json!({
            "contact": node.contact(&peer.user).map(|c| c.alias),
            "user": peer.user.to_string(),
            "device": peer.device.to_string(),
            "state": match peer.state {
                ConnectionState::Connected => "connected",
                ConnectionState::Connecting => "connecting",
                ConnectionState::Signaling => "signaling",
                ConnectionState::Discovering => "discovering",
                ConnectionState::Disconnected => "disconnected",
            },
            "address": peer.link.as_ref().map(|l| l.address.clone()),
            "path": peer.link.as_ref().map(|l| l.path.to_string()),
            "suite": peer.suite,
            "version": peer.link.as_ref().map(|l| l.negotiated.version),
            "rtt_us": peer.link.as_ref().map(|l| l.rtt_us),
            "bytes_sent": peer.link.as_ref().map(|l| l.bytes_sent),
            "bytes_received": peer.link.as_ref().map(|l| l.bytes_received),
            "last_seen_ms": peer.last_seen_ms,
            "reason": peer.reason,
            "restored": peer.restored,
        })
    };
    node.peers().into_iter().map(peer).collect()
}
