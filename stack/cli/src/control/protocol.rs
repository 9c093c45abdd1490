//! What is asked and answered.

use data_encoding::BASE64;
use peerloom::core::wire::DeviceId;
use peerloom::core::wire::pasted::read_id;
use peerloom::{Contact, Cursor, Error, ErrorKind, Event, IceServer, Message, MessageState, Node, Retry, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Something to do on a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Answered at once, even while other requests run: shows that the node is there.
    Ping,
    Status,
    Invite {
        lifetime_ms: u64,
        uses: u32,
    },
    Add {
        link: String,
        alias: Option<String>,
    },
    Contacts,
    /// Whom a person means.
    Find {
        contact: String,
    },
    Rename {
        contact: String,
        alias: String,
    },
    Send {
        contact: String,
        text: String,
        ttl_ms: Option<u64>,
    },
    /// A page of received messages after a place, or of the newest `limit`; the next page begins after the
    /// last cursor, and an empty one is the end.
    Inbox {
        after: Option<String>,
        limit: usize,
        /// Only this one's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contact: Option<String>,
    },
    /// Answered by events until the connection ends.
    Follow {
        after: Option<String>,
    },
    Queue,
    Retry {
        contact: Option<String>,
    },
    Peers,
    /// Make an offer by hand.
    Offer {
        contact: String,
    },
    /// Take an offer or an answer that was carried by hand.
    TakeManual {
        text: String,
    },
    Doctor,
    /// The recovery phrase, while its key is here.
    Recovery,
    CheckRecovery {
        phrase: String,
    },
    ForgetRecovery,
    SetIceServers {
        servers: Vec<IceServer>,
    },
}

impl Request {
    /// Whether it may take long for reasons outside this machine, so that others must not wait for it.
    pub(super) fn waits_for_the_network(&self) -> bool {
        match self {
            Self::Add { link, .. } => is_id(link),
            Self::Invite { .. } | Self::Offer { .. } | Self::TakeManual { .. } | Self::Doctor => true,
            _ => false,
        }
    }
}

/// A request with its number.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbered {
    pub(crate) id: u64,
    #[serde(flatten)]
    pub(crate) request: Request,
}

/// An answer with its request's number. Without one, an error is about the connection: it ends, and what
/// was asked on it and not answered was not begun.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<u64>,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Ok(Value),
    Error(Failure),
    Event(Value),
}

/// An error on its way through the socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: String,
    retry: String,
    component: String,
    operation: String,
    message: String,
    /// Which thing failed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    context: BTreeMap<String, String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: format!("{:?}", error.kind()),
            retry: format!("{:?}", error.retryable()),
            component: error.component().into(),
            operation: error.operation().into(),
            message: error.for_people(),
            context: error.context().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = ErrorKind::ALL.into_iter().find(|k| format!("{k:?}") == failure.kind);
        let kind = kind.unwrap_or(ErrorKind::UnsupportedVersion);
        let retry = match failure.retry.as_str() {
            "Later" => Retry::Later,
            "AfterChange" => Retry::AfterChange,
            _ => Retry::No,
        };
        let error = Error::new(kind, failure.component, failure.operation, failure.message).with_retry(retry);
        failure.context.into_iter().fold(error, |error, (key, value)| error.with_context(key, value))
    }
}

/// A message, for people and scripts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MessageView {
    pub(crate) id: String,
    /// The contact's name.
    pub(crate) from: String,
    pub(crate) user: String,
    pub(crate) sent_at_ms: u64,
    pub(crate) received_at_ms: u64,
    /// The text, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub(crate) content_type: String,
    /// The body in base64, where it isn't text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<String>,
    pub(crate) cursor: String,
}

pub(crate) fn message_view(node: &Node, message: &Message) -> MessageView {
    let text = message.text().map(str::to_owned);
    MessageView {
        id: message.id.to_string(),
        from: alias(node, &message.user),
        user: message.user.to_string(),
        sent_at_ms: message.sent_at_ms,
        received_at_ms: message.received_at_ms,
        body: if text.is_none() { Some(BASE64.encode(&message.body)) } else { None },
        text,
        content_type: message.content_type.clone(),
        cursor: message.cursor.to_string(),
    }
}

/// An event, for people and scripts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum EventView {
    Message(MessageView),
    Delivered {
        contact: String,
        user: Option<String>,
        messages: Vec<String>,
    },
    Failed {
        contact: String,
        user: Option<String>,
        messages: Vec<String>,
        reason: String,
    },
    PeerUp {
        contact: String,
        user: String,
        device: String,
    },
    PeerDown {
        contact: String,
        user: String,
        device: String,
        reason: String,
    },
    Online,
    Offline,
    Stalled {
        contact: String,
        device: String,
    },
    /// `like` is another contact whose name looks like the new one's.
    ContactAdded {
        contact: String,
        user: String,
        like: Option<String>,
    },
    Gap {
        contact: String,
        first: u64,
        last: u64,
    },
    StoreRestored,
    StoreCopied,
    PeerRestored {
        contact: String,
        device: String,
    },
    PeerRefused {
        contact: String,
        user: String,
        device: String,
        reason: String,
    },
    DevicesChanged {
        contact: String,
        user: String,
        new: Vec<String>,
        gone: Vec<String>,
    },
    Lagged {
        missed: u64,
    },
}

pub(crate) fn event_view(node: &Node, event: &Event) -> Option<EventView> {
    let with = |id: &peerloom::ConversationId| node.contacts().into_iter().find(|c| c.conversation == *id);
    let of = |id: &peerloom::ConversationId| with(id).map_or_else(|| id.short(), |c| c.alias);
    Some(match event {
        Event::Message(message) => EventView::Message(message_view(node, message)),
        Event::Receipt { conversation, messages, state } => {
            let messages = messages.iter().map(ToString::to_string).collect();
            let found = with(conversation);
            let user = found.as_ref().map(|contact| contact.user.to_string());
            let contact = found.map_or_else(|| conversation.short(), |contact| contact.alias);
            match state {
                MessageState::Failed(reason) => EventView::Failed { contact, user, messages, reason: reason.clone() },
                _ => EventView::Delivered { contact, user, messages },
            }
        }
        Event::PeerUp { user, device } => {
            EventView::PeerUp { contact: alias(node, user), user: user.to_string(), device: device.to_string() }
        }
        Event::PeerDown { user, device, reason } => EventView::PeerDown {
            contact: alias(node, user),
            user: user.to_string(),
            device: device.to_string(),
            reason: reason.clone(),
        },
        Event::Online => EventView::Online,
        Event::Offline => EventView::Offline,
        Event::Stalled { conversation, device } => {
            EventView::Stalled { contact: of(conversation), device: device.to_string() }
        }
        Event::ContactAdded { user, alias } => EventView::ContactAdded {
            contact: alias.clone(),
            user: user.to_string(),
            like: node.contact(user).and_then(|contact| node.namesake(&contact)).map(|other| other.alias),
        },
        Event::Gap { conversation, first, last, .. } => {
            EventView::Gap { contact: of(conversation), first: *first, last: *last }
        }
        Event::StoreRestored => EventView::StoreRestored,
        Event::StoreCopied => EventView::StoreCopied,
        Event::PeerRestored { user, device } => {
            EventView::PeerRestored { contact: alias(node, user), device: device.to_string() }
        }
        Event::PeerRefused { user, device, reason } => EventView::PeerRefused {
            contact: alias(node, user),
            user: user.to_string(),
            device: device.to_string(),
            reason: reason.clone(),
        },
        Event::DevicesChanged { user, new, gone } => {
            let ids = |devices: &[DeviceId]| devices.iter().map(ToString::to_string).collect();
            EventView::DevicesChanged {
                contact: alias(node, user),
                user: user.to_string(),
                new: ids(new),
                gone: ids(gone),
            }
        }
        Event::Lagged { missed } => EventView::Lagged { missed: *missed },
        _ => return None,
    })
}

/// A contact, for people and scripts. `like` is another contact whose name looks like this one's.
pub(crate) fn contact_view(node: &Node, contact: &Contact) -> Value {
    let like = node.namesake(contact).map(|other| other.alias);
    json!({ "contact": contact.alias, "user": contact.user.to_string(), "like": like })
}

fn alias(node: &Node, user: &UserId) -> String {
    node.contact(user).map_or_else(|| user.short(), |c| c.alias)
}

/// The cursor in a request; none means the beginning.
pub(crate) fn cursor(text: Option<&str>) -> Result<Cursor, Error> {
    text.map_or(Ok(Cursor::START), str::parse)
}

/// Whether what should be added is an id rather than a link.
pub(super) fn is_id(text: &str) -> bool {
    read_id::<UserId>(text).is_some()
}
