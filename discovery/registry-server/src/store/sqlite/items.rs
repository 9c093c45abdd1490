//! Items other than records, within bounds for each device, each user, and all.

use std::sync::atomic::{AtomicU64, Ordering};

use peerloom_core::wire::{DiscoveryKey, NetworkId};
use peerloom_registry_protocol::limits;
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::values::{ordered, time};
use crate::store::{ItemOutcome, KeptItem, Publication};

/// The tables. `kind` and `topic` are what an item is asked for by.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS items (
        row INTEGER PRIMARY KEY,
        network BLOB NOT NULL, kind INTEGER NOT NULL, topic BLOB NOT NULL, device BLOB NOT NULL, user BLOB NOT NULL,
        sequence INTEGER NOT NULL, item BLOB NOT NULL, published_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX IF NOT EXISTS item_by_slot ON items (network, kind, topic, device);
    CREATE INDEX IF NOT EXISTS item_by_topic ON items (network, kind, topic, published_ms);
    CREATE INDEX IF NOT EXISTS item_by_device ON items (network, device, published_ms);
    CREATE INDEX IF NOT EXISTS item_by_user ON items (network, user, published_ms);
    CREATE INDEX IF NOT EXISTS item_by_end ON items (expires_ms);
";

/// What an item is asked for by.
fn topic(key: &DiscoveryKey) -> (i64, Vec<u8>) {
    match key {
        DiscoveryKey::Record(device) => (0, device.as_bytes().to_vec()),
        DiscoveryKey::Records(user) => (1, user.as_bytes().to_vec()),
        DiscoveryKey::DeviceList(user) => (2, user.as_bytes().to_vec()),
        DiscoveryKey::KeyPackage(hash) => (3, hash.to_vec()),
        DiscoveryKey::Service(kind) => (4, kind.0.to_be_bytes().to_vec()),
    }
}

/// Keeps an item; of all items at most `most` bytes, which `bytes` counts.
pub(super) fn publish(
    connection: &Connection,
    new: &Publication,
    bytes: &AtomicU64,
    most: u64,
) -> rusqlite::Result<ItemOutcome> {
    let (kind, topic) = topic(&new.key);
    let known = connection
        .prepare_cached(
            "SELECT row, sequence, item, length(item) FROM items
             WHERE network = ?1 AND kind = ?2 AND topic = ?3 AND device = ?4",
        )?
        .query_row(params![new.network.as_bytes(), kind, topic, new.device.as_bytes()], |row| {
            let same = row.get_ref(2)?.as_blob()? == new.item;
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, same, row.get::<_, i64>(3)?.unsigned_abs()))
        })
        .optional()?;
    let (sequence, now, expires) = (ordered(new.sequence), time(new.now_ms), time(new.expires_ms));
    let before = match known {
        Some((row, _, true, _)) => {
            connection
                .prepare_cached("UPDATE items SET published_ms = ?2, expires_ms = ?3 WHERE row = ?1")?
                .execute(params![row, now, expires])?;
            return Ok(ItemOutcome::Same);
        }
        // Of what has no sequence the last one counts.
        Some((_, before, ..)) if before > sequence || before == sequence && new.sequence > 0 => {
            return Ok(ItemOutcome::Outdated);
        }
        Some((row, .., size)) => {
            delete(connection, row)?;
            size
        }
        None => 0,
    };
    let mut freed = before;
    let (network, size) = (new.network.as_bytes(), new.item.len());
    let of_device = ("device", new.device.as_bytes(), limits::ITEMS_OF_DEVICE, limits::BYTES_OF_DEVICE);
    let of_user = ("user", new.user.as_bytes(), usize::MAX, limits::BYTES_OF_USER);
    for (owner, id, rows, room) in [of_device, of_user] {
        freed += make_room(connection, owner, &[network, id], rows, room.saturating_sub(size))?;
    }
    let total = bytes.load(Ordering::Relaxed).saturating_sub(freed);
    if total + size as u64 > most {
        bytes.store(total, Ordering::Relaxed);
        return Ok(ItemOutcome::Full);
    }
    connection
        .prepare_cached(
            "INSERT INTO items (network, kind, topic, device, user, sequence, item, published_ms, expires_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            network,
            kind,
            topic,
            new.device.as_bytes(),
            new.user.as_bytes(),
            sequence,
            new.item,
            now,
            expires
        ])?;
    bytes.store(total + size as u64, Ordering::Relaxed);
    Ok(ItemOutcome::Stored)
}

/// Deletes the items of an owner that were published longest ago until fewer than `rows` of at most `room` bytes are
/// left; says how many bytes went.
fn make_room(
    connection: &Connection,
    owner: &str,
    id: &[&dyn ToSql; 2],
    rows: usize,
    room: usize,
) -> rusqlite::Result<u64> {
    let all = format!(
        "SELECT row, length(item) FROM items WHERE network = ?1 AND {owner} = ?2 ORDER BY published_ms DESC, row DESC"
    );
    let mut statement = connection.prepare_cached(&all)?;
    let sizes =
        statement.query_map(&id[..], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    let (mut kept, mut held, mut freed) = (1, 0, 0);
    for (row, size) in sizes.collect::<rusqlite::Result<Vec<_>>>()? {
        kept += 1;
        held += size;
        if kept > rows || held > room as u64 {
            delete(connection, row)?;
            freed += size;
        }
    }
    Ok(freed)
}

fn delete(connection: &Connection, row: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM items WHERE row = ?1")?.execute([row]).map(drop)
}

/// The items that answer a key, those published last, as far as an answer has room.
pub(super) fn find(
    connection: &Connection,
    network: &NetworkId,
    key: &DiscoveryKey,
    now_ms: u64,
) -> rusqlite::Result<Vec<KeptItem>> {
    let (kind, topic) = topic(key);
    let mut statement = connection.prepare_cached(
        "SELECT item, published_ms, expires_ms FROM items WHERE network = ?1 AND kind = ?2 AND topic = ?3
         ORDER BY published_ms DESC LIMIT ?4",
    )?;
    // Those that expired go soon; till then they take places.
    let mut rows = statement.query(params![network.as_bytes(), kind, topic, limits::ITEMS as i64])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let item: Vec<u8> = row.get(0)?;
        bytes += item.len();
        if bytes > limits::ITEM_BYTES {
            break;
        }
        if row.get::<_, i64>(2)? > time(now_ms) {
            found.push(KeptItem { item, published_ms: row.get::<_, i64>(1)?.unsigned_abs() });
        }
    }
    Ok(found)
}

/// Forgets some of what has expired.
pub(super) fn forget(connection: &Connection, now_ms: u64) -> rusqlite::Result<()> {
    let expired = "DELETE FROM items WHERE row IN (SELECT row FROM items WHERE expires_ms <= ?1 LIMIT 10000)";
    connection.prepare_cached(expired)?.execute([time(now_ms)]).map(drop)
}

/// How many bytes of items there are.
pub(super) fn bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let sum = "SELECT coalesce(sum(length(item)), 0) FROM items";
    connection.query_row(sum, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}
