//! What many conversations and a long history cost.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peerloom::config::FILE_NAME;
use peerloom::core::wire::store::{
    CONTACTS, CONVERSATIONS, Contact, ContactDevice, ConversationInfo, ConversationKind, HISTORY, HISTORY_HEADS,
    History, HistoryHead, OwnState, Record, ordered_key,
};
use peerloom::core::wire::{
    Bundle, DeviceCertificate, Item, NetworkId, PeerRecord, Role, Roles, Roster, SuiteId, UserKeys, WIRE_VERSION,
    WIRE_VERSION_MIN, context,
};
use peerloom::core::{Batch, Storage};
use peerloom::{
    Address, Config, ConversationId, Cursor, DeviceId, ErrorKind, HistoryPage, MessageId, Node, Result, Store, UserId,
};
use peerloom_crypto_primitives::{SigningKey, sha256};
use serde_json::{Map, Value, json};

use super::{Setup, failed, percentile};
use crate::folder::{free_port, init_folder};
use crate::process::{NodeProcess, resident_kib};

const CONVERSATIONS_MADE: usize = 10_000;
/// Messages in each, half of them this node's own.
const MESSAGES: usize = 100;
const TEXT: usize = 100;
/// First pages that are read, and messages on each.
const PAGES: usize = 200;
const PAGE: usize = 50;
const BATCH: usize = 8 * 1024 * 1024;
/// Until a node has started all that it starts.
const SETTLED: Duration = Duration::from_secs(5);
const NETWORK: &str = "peerloom-bench";

pub(super) async fn measure(setup: &mut Setup) -> Result<Map<String, Value>> {
    let folder = setup.folder.join("history");
    let listen = format!("127.0.0.1:{}", free_port("127.0.0.1")?);
    let node = init_folder(&folder, &setup.overrides, "hub", NETWORK, &listen).await?;
    let own = Own { user: node.user(), device: node.device() };
    node.shutdown().await;
    drop(node);
    let (_, alone) = start(&folder).await?;

    // It takes what is sent to it, and never answers.
    let silent = UdpSocket::bind("127.0.0.1:0")
        .map_err(|e| failed(ErrorKind::System, "no socket can be bound").with_source(e))?;
    let address =
        silent.local_addr().map_err(|e| failed(ErrorKind::System, "the socket has no address").with_source(e))?;
    let config = Config::load(&folder.join(FILE_NAME), &[], &crate::kinds()?)?;
    let store = Store::open(&config)?;
    let ids = fill(store.rows(), &own, &format!("quic://{address}").parse()?, setup)?;
    drop(store);

    setup.progress.set("a start with a long history");
    let (started, with_contacts) = start(&folder).await?;
    let node = Node::open(&config).await?;
    let mut pages = Vec::new();
    for number in 0..PAGES {
        let id = ids[number * (CONVERSATIONS_MADE / PAGES)];
        let contact = node.contacts().into_iter().find(|contact| contact.conversation == id);
        let contact = contact.ok_or_else(|| failed(ErrorKind::Internal, "a contact is missing"))?;
        let begin = Instant::now();
        let page = node.conversation(contact).history(HistoryPage::Before(Cursor::END), PAGE).await?;
        pages.push(begin.elapsed().as_secs_f64() * 1000.0);
        if page.len() != PAGE {
            return Err(failed(ErrorKind::Internal, "a page is incomplete"));
        }
    }
    node.shutdown().await;
    pages.sort_by(f64::total_cmp);
    let for_each = with_contacts.saturating_sub(alone) as f64 / CONVERSATIONS_MADE as f64;
    let figures = [
        ("history_start_ms", started.as_secs_f64() * 1000.0),
        ("history_page_p50_ms", percentile(&pages, 0.5)),
        ("history_page_max_ms", percentile(&pages, 1.0)),
        ("kib_per_absent_contact", for_each),
    ];
    Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect())
}

/// Starts a node: how long that took, and its memory once all of it has started.
async fn start(folder: &Path) -> Result<(Duration, u64)> {
    let node = NodeProcess::start(folder).await?;
    tokio::time::sleep(SETTLED).await;
    let memory = resident_kib(node.pid());
    let ready_after = node.ready_after;
    node.kill().await?;
    Ok((ready_after, memory))
}

struct Own {
    user: UserId,
    device: DeviceId,
}

/// Writes contacts who were there once, and what was written with each.
fn fill(store: &dyn Storage, own: &Own, address: &Address, setup: &Setup) -> Result<Vec<ConversationId>> {
    let network = NetworkId::from_name(NETWORK);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64);
    let mut batch = Batch::default();
    let mut contacts = Vec::new();
    for number in 0..CONVERSATIONS_MADE {
        let contact = made_up(number, network, address, now_ms);
        let id = ConversationId::direct(&network, &own.user, &contact.user);
        let roster = Roster::first([own.user, contact.user], Role::Member);
        let info =
            ConversationInfo { kind: ConversationKind::Direct, roster, created_at_ms: now_ms, title: String::new() };
        batch.put(CONTACTS, contact.user.as_bytes().to_vec(), contact.encode());
        batch.put(CONVERSATIONS, id.as_bytes().to_vec(), info.encode());
        contacts.push((id, contact.user, contact.devices[0].device));
    }
    let mut sequence = 0u64;
    for round in 0..MESSAGES {
        setup.progress.set(&format!("{} messages of history", round * CONVERSATIONS_MADE));
        for (id, user, device) in &contacts {
            sequence += 1;
            let ours = round % 2 == 0;
            let message = MessageId::from_bytes(u128::from(sequence).to_be_bytes());
            let item = Item {
                id: message,
                sent_at_ms: now_ms,
                content_type: String::new(),
                body: vec![b'x'; TEXT].into(),
                resealed_from: Vec::new(),
            };
            let row = History {
                conversation: *id,
                user: if ours { own.user } else { *user },
                device: if ours { own.device } else { *device },
                position: sequence,
                stored_at_ms: now_ms,
                bundle: Bundle { items: vec![item] }.encode(),
                hidden: Vec::new(),
            };
            let head = HistoryHead {
                device: row.device,
                position: sequence,
                stored_at_ms: now_ms,
                size: row.bundle.len() as u32,
                messages: vec![message],
                state: ours.then_some(OwnState::Delivered),
                state_at_ms: if ours { now_ms } else { 0 },
            };
            batch.put(HISTORY, ordered_key(&[], sequence), row.encode());
            batch.put(HISTORY_HEADS, ordered_key(&[id.as_bytes()], sequence), head.encode());
            if batch.size() >= BATCH {
                store.commit(&std::mem::take(&mut batch))?;
                store.settle()?;
            }
        }
    }
    store.commit(&batch)?;
    store.settle()?;
    Ok(contacts.into_iter().map(|(id, ..)| id).collect())
}

/// A contact whose device was there once.
fn made_up(number: usize, network: NetworkId, address: &Address, now_ms: u64) -> Contact {
    let key = |role: &str| SigningKey::from_seed(&sha256(&[role.as_bytes(), &number.to_be_bytes()]));
    let (user, recovery, device) = (key("user"), key("recovery"), key("device"));
    let keys = UserKeys { user: user.public().clone(), recovery: recovery.public().clone() };
    let certificate = DeviceCertificate::new(keys, device.public().clone(), Roles::ALL, now_ms);
    let signed = certificate.sign(|m| user.sign(m), |m| device.sign(m));
    let record = PeerRecord {
        network,
        certificate: signed.clone(),
        addresses: vec![address.clone()],
        capabilities: 0,
        suites: vec![SuiteId(1)],
        key_packages: Vec::new(),
        sequence: now_ms,
        expires_at_ms: now_ms + 86_400_000,
        versions: (WIRE_VERSION_MIN, WIRE_VERSION),
    };
    Contact {
        user: certificate.user,
        alias: format!("absent-{number}"),
        devices: vec![ContactDevice {
            device: certificate.device,
            certificate: Some(signed),
            invited: None,
            record: Some(device.sign_object(context::PEER_RECORD, record.encode())),
            last_seen_ms: now_ms,
            restored: None,
        }],
        added_at_ms: now_ms,
        token: None,
        list: None,
    }
}
