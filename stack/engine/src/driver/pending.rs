//! Messages that wait in the store for a session. Their heads say all that has to be known meanwhile; a body is read when
//! it is sealed.

use std::collections::BTreeMap;

use bytes::Bytes;
use peerloom_core::wire::store::{PENDING, PENDING_BODIES, Pending, PendingHead, Record, key_order, ordered_key};
use peerloom_core::wire::{ConversationId, Item};
use peerloom_core::{KeyRange, Result};
use tracing::error;

use super::Turn;
use super::expiry::EXPIRED;
use super::state::{Queued, TimerKey, sooner};
use crate::store::{Txn, stored};

/// Why a message failed whose body can't be read.
const LOST: &str = "its bytes in the store are damaged";

/// The first heads of a range, in order, and the rest of the range, if there is one. A damaged head is made again from
/// its body.
pub(super) fn heads(txn: &Txn<'_>, range: &KeyRange) -> Result<(BTreeMap<Bytes, PendingHead>, Option<KeyRange>)> {
    let (rows, rest) = txn.part(PENDING, range)?;
    let until = rest.as_ref().and_then(|_| rows.last()).map(|row| row.key.clone());
    let (mut heads, mut whole) = (BTreeMap::new(), !txn.has_damaged(PENDING)?);
    for row in rows {
        match stored(row.value) {
            Ok(head) => drop(heads.insert(row.key, head)),
            Err(_) => whole = false,
        }
    }
    let mut bodies = (!whole).then(|| range.clone());
    while let Some(range) = bodies {
        let part;
        (part, bodies) = txn.part(PENDING_BODIES, &range)?;
        for row in part {
            if until.as_ref().is_some_and(|until| row.key > until) {
                bodies = None;
                break;
            }
            let size = row.value.len();
            if !heads.contains_key(&row.key)
                && let Ok(body) = stored::<Pending>(row.value)
            {
                error!(message = %body.item.id, "the head of a message that waits is damaged; its body is whole");
                heads.insert(row.key, body.head(size));
            }
        }
    }
    Ok((heads, rest))
}

/// What is left of a message whose body is lost.
fn without_body(head: &PendingHead) -> Item {
    Item {
        id: head.message,
        sent_at_ms: head.sent_at_ms,
        content_type: String::new(),
        body: Bytes::new(),
        resealed_from: Vec::new(),
    }
}

impl Turn<'_> {
    /// Stores messages to be sealed once there is a session.
    pub(super) fn store_pending(&mut self, id: ConversationId, queued: Vec<Queued>) {
        for queued in queued {
            // What goes back keeps its place before those that weren't taken.
            let order = queued.order.unwrap_or(self.state.pending + 1);
            self.state.pending = self.state.pending.max(order);
            let body = Pending { item: queued.item, expires_at_ms: queued.expires_at_ms };
            let value = body.encode();
            let head = body.head(value.len());
            if let Some(conversation) = self.state.conversations.get_mut(&id) {
                conversation.pending += 1;
                conversation.pending_bytes += value.len();
                conversation.pending_expiry_ms = sooner(conversation.pending_expiry_ms, head.expires_at_ms);
            }
            let key = ordered_key(&[id.as_bytes()], order);
            self.txn.put(PENDING, key.clone(), head.encode());
            self.txn.put(PENDING_BODIES, key, value);
            if let Some(reply) = queued.reply {
                self.effects.sent(reply, head.message);
            }
        }
    }

    /// Seals messages that waited for a session, after what is sealed again and before anything newer: as many as the turn still may. The next turn
    /// goes on.
    pub(super) fn seal_pending(&mut self, id: ConversationId) -> Result<()> {
        if self.state.standing.is_restored() {
            return Ok(());
        }
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        let ready = conversation.outbox.knows_head() && conversation.members.as_ref().is_some_and(|m| !m.is_empty());
        let owes = conversation.outbox.owes();
        if !ready || owes && !self.seal_again(id)? || self.pending(id) == 0 {
            return Ok(());
        }
        let (mut queued, mut rest) = (Vec::new(), Some(KeyRange::prefix(id.as_bytes())));
        while let Some(range) = rest.as_ref().filter(|_| self.may_seal > 0) {
            let (part, next) = heads(&self.txn, range)?;
            rest = next;
            for (key, head) in part {
                if self.may_seal == 0 {
                    rest = Some(KeyRange::prefix(id.as_bytes()));
                    break;
                }
                self.may_seal = self.may_seal.saturating_sub(head.size as usize);
                let order = Some(key_order(&key)?);
                let body = self.txn.sound_record::<Pending>(PENDING_BODIES, &key)?;
                self.drop_pending(id, key, &head);
                match body {
                    Some(Pending { item, expires_at_ms }) => {
                        queued.push(Queued { item, expires_at_ms, reply: None, order });
                    }
                    None => self.fail_unsealed(id, without_body(&head), None, LOST),
                }
            }
        }
        if rest.is_some() {
            self.state.timers.set(TimerKey::Pending(id), Some(self.now.mono));
        } else if let Some(conversation) = self.state.conversations.get_mut(&id) {
            (conversation.pending, conversation.pending_bytes, conversation.pending_expiry_ms) = (0, 0, 0);
        }
        self.seal(id, queued)
    }

    /// Messages that expired before there was a session fail.
    pub(super) fn expire_pending(&mut self, id: ConversationId) -> Result<()> {
        let (mut next_ms, mut rest) = (0, Some(KeyRange::prefix(id.as_bytes())));
        while let Some(range) = rest {
            let part;
            (part, rest) = heads(&self.txn, &range)?;
            for (key, head) in part {
                if self.now.is_past(head.expires_at_ms) {
                    let body = self.txn.sound_record::<Pending>(PENDING_BODIES, &key)?;
                    let item = body.map_or_else(|| without_body(&head), |body| body.item);
                    self.drop_pending(id, key, &head);
                    self.fail_unsealed(id, item, None, EXPIRED);
                } else {
                    next_ms = sooner(next_ms, head.expires_at_ms);
                }
            }
        }
        if let Some(conversation) = self.state.conversations.get_mut(&id) {
            conversation.pending_expiry_ms = next_ms;
        }
        Ok(())
    }

    fn pending(&self, id: ConversationId) -> usize {
        self.state.conversations.get(&id).map_or(0, |conversation| conversation.pending)
    }

    /// A message waits no more.
    fn drop_pending(&mut self, id: ConversationId, key: Bytes, head: &PendingHead) {
        self.txn.delete(PENDING, key.clone());
        self.txn.delete(PENDING_BODIES, key);
        if let Some(conversation) = self.state.conversations.get_mut(&id) {
            conversation.pending = conversation.pending.saturating_sub(1);
            conversation.pending_bytes = conversation.pending_bytes.saturating_sub(head.size as usize);
        }
    }
}
