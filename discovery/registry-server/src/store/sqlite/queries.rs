//! The tables and statements. What comes from outside is only ever bound, never part of a statement.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use peerloom_core::wire::{DeviceId, NetworkId, UserId};
use peerloom_registry_protocol::limits;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::values::{helper, ordered, time};
use super::{items, sightings};
use crate::store::{Announcement, Beat, Helper, Known, Outcome, Seen};

/// "plrg" in ASCII: `file` and SQLite's tools show whose database it is.
const APPLICATION_ID: i32 = 0x706c_7267;
/// Of the tables. The state is soft: a database of another format is emptied, not migrated.
const FORMAT: i32 = 3;
/// Most rows that a call looks at, whatever it finds: all calls wait for one thread, and one may not keep it
/// busy because most devices of a network haven't been seen lately.
pub(super) const LOOKED: usize = 1000;

/// Tables with row ids, since rows are longer than SQLite likes in an index.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS devices (
        row INTEGER PRIMARY KEY,
        network BLOB NOT NULL, device BLOB NOT NULL, user BLOB NOT NULL,
        sequence INTEGER NOT NULL, record BLOB NOT NULL, signal_address TEXT, capabilities INTEGER NOT NULL,
        announced_ms INTEGER NOT NULL, seen_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX IF NOT EXISTS by_device ON devices (network, device);
    CREATE INDEX IF NOT EXISTS by_user ON devices (network, user);
    CREATE INDEX IF NOT EXISTS by_time ON devices (network, seen_ms);
    CREATE TABLE IF NOT EXISTS coordinators (
        network BLOB NOT NULL, device BLOB NOT NULL,
        active_peers INTEGER NOT NULL, capacity INTEGER NOT NULL,
        at_ms INTEGER NOT NULL, received_ms INTEGER NOT NULL,
        PRIMARY KEY (network, device)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS forgotten (
        row INTEGER PRIMARY KEY,
        network BLOB NOT NULL, device BLOB NOT NULL, sequence INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
        UNIQUE (network, device)
    );
    CREATE INDEX IF NOT EXISTS by_end ON forgotten (expires_ms);
    CREATE INDEX IF NOT EXISTS by_beat ON coordinators (network, received_ms);
";

/// Makes the tables.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // Nothing is lost by it but announcements of the last moments before a power cut, which come again.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "cache_size", -16 * 1024)?;
    connection.set_prepared_statement_cache_capacity(32);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let found = (pragma("application_id")?, pragma("user_version")?);
    if found != (0, 0) && found.0 != APPLICATION_ID {
        let message = "the database belongs to another program; choose another file".into();
        return Err(rusqlite::Error::ToSqlConversionFailure(message));
    }
    if found.0 == APPLICATION_ID && found.1 != FORMAT {
        let tables = ["devices", "coordinators", "forgotten", "items", "sightings"]
            .map(|table| format!("DROP TABLE IF EXISTS {table};"));
        connection.execute_batch(&tables.concat())?;
    }
    let version = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};");
    let (items, sightings) = (items::TABLES, sightings::TABLES);
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} {items} {sightings} {version} COMMIT;"))
}

pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    let count: i64 = connection.query_row("SELECT count(*) FROM devices", [], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Takes in a record, and what stands beside it.
pub(super) fn announce(
    connection: &Connection,
    new: &Announcement,
    devices: &AtomicU64,
    most: u64,
) -> rusqlite::Result<Outcome> {
    let outcome = record(connection, new, devices, most)?;
    // What may be a replay says nothing of who is linked to whom now.
    if outcome == Outcome::Stored || outcome == Outcome::Same && new.fresh {
        sightings::sight(connection, &new.network, &new.user, &new.coordinators, new.now_ms)?;
    }
    Ok(outcome)
}

fn record(connection: &Connection, new: &Announcement, devices: &AtomicU64, most: u64) -> rusqlite::Result<Outcome> {
    let keys = (new.network.as_bytes(), new.device.as_bytes());
    let known = connection
        .prepare_cached("SELECT row, sequence, record, user FROM devices WHERE network = ?1 AND device = ?2")?
        .query_row(keys, |row| {
            let same = row.get_ref(2)?.as_blob()? == new.record;
            let moved = row.get_ref(3)?.as_blob()? != new.user.as_bytes();
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, same, moved))
        })
        .optional()?;
    let (sequence, now) = (ordered(new.sequence), time(new.now_ms));
    match known {
        Some((row, before, true, _)) if before == sequence => {
            if new.fresh {
                connection
                    .prepare_cached(
                        "UPDATE devices SET announced_ms = ?2, seen_ms = ?2, signal_address = ?3 WHERE row = ?1",
                    )?
                    .execute(params![row, now, new.signal_address])?;
            }
            Ok(Outcome::Same)
        }
        Some((_, before, ..)) if before >= sequence => Ok(Outcome::Outdated),
        Some((row, _, _, moved)) => {
            if moved {
                make_room(connection, new, devices)?;
            }
            connection
                .prepare_cached(
                    "UPDATE devices SET sequence = ?2, record = ?3, signal_address = ?4, capabilities = ?5,
                     announced_ms = ?6, seen_ms = ?6, expires_ms = ?7, user = ?8 WHERE row = ?1",
                )?
                .execute(params![
                    row,
                    sequence,
                    new.record,
                    new.signal_address,
                    ordered(new.capabilities),
                    now,
                    time(new.expires_ms),
                    new.user.as_bytes(),
                ])?;
            Ok(Outcome::Stored)
        }
        None => {
            if let Some(outcome) = forgotten(connection, new)? {
                return Ok(outcome);
            }
            if devices.load(Ordering::Relaxed) >= most {
                return Ok(Outcome::Full);
            }
            if !new.add {
                return Ok(Outcome::Unknown);
            }
            make_room(connection, new, devices)?;
            connection
                .prepare_cached(
                    "INSERT INTO devices (network, device, user, sequence, record, signal_address, capabilities,
                     announced_ms, seen_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9)",
                )?
                .execute(params![
                    new.network.as_bytes(),
                    new.device.as_bytes(),
                    new.user.as_bytes(),
                    sequence,
                    new.record,
                    new.signal_address,
                    ordered(new.capabilities),
                    now,
                    time(new.expires_ms),
                ])?;
            connection.prepare_cached("DELETE FROM forgotten WHERE network = ?1 AND device = ?2")?.execute(keys)?;
            devices.fetch_add(1, Ordering::Relaxed);
            Ok(Outcome::Stored)
        }
    }
}

/// What a record is that was known once, or is older than that.
fn forgotten(connection: &Connection, new: &Announcement) -> rusqlite::Result<Option<Outcome>> {
    let before: Option<i64> = connection
        .prepare_cached("SELECT sequence FROM forgotten WHERE network = ?1 AND device = ?2 AND expires_ms > ?3")?
        .query_row(params![new.network.as_bytes(), new.device.as_bytes(), time(new.now_ms)], |row| row.get(0))
        .optional()?;
    let sequence = ordered(new.sequence);
    Ok(match before {
        Some(before) if sequence < before => Some(Outcome::Outdated),
        Some(before) if sequence == before && !new.fresh => Some(Outcome::Same),
        _ => None,
    })
}

/// Keeps the sequences of the rows that a condition over `devices` selects, and deletes the rows.
fn delete(connection: &Connection, condition: &str, values: &[&dyn ToSql]) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO forgotten (network, device, sequence, expires_ms)
             SELECT network, device, sequence, expires_ms FROM devices WHERE {condition}"
        ))?
        .execute(values)?;
    let gone = connection.prepare_cached(&format!("DELETE FROM devices WHERE {condition}"))?.execute(values)?;
    Ok(gone as u64)
}

/// Where a user has as many devices as an answer takes, the longest unseen ones go.
fn make_room(connection: &Connection, new: &Announcement, devices: &AtomicU64) -> rusqlite::Result<()> {
    let longest_unseen = "row IN (
        SELECT row FROM devices WHERE network = ?1 AND user = ?2 ORDER BY seen_ms DESC, row DESC LIMIT -1 OFFSET ?3)";
    let gone = delete(
        connection,
        longest_unseen,
        params![new.network.as_bytes(), new.user.as_bytes(), limits::DEVICES as i64 - 1],
    )?;
    devices.fetch_sub(gone, Ordering::Relaxed);
    Ok(())
}

/// The columns of [`known`], from `devices d` and its coordinator's row.
const KNOWN: &str = "
    SELECT d.device, d.user, d.record, d.signal_address, d.announced_ms, d.seen_ms, c.received_ms, d.expires_ms
    FROM devices d LEFT JOIN coordinators c ON c.network = d.network AND c.device = d.device";

fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let ms = |at| row.get::<_, Option<i64>>(at).map(|ms| ms.unwrap_or_default().unsigned_abs());
    Ok(Known {
        device: DeviceId::from_bytes(row.get(0)?),
        user: UserId::from_bytes(row.get(1)?),
        record: row.get(2)?,
        signal_address: row.get(3)?,
        announced_ms: ms(4)?,
        seen_ms: ms(5)?,
        beat_ms: ms(6)?,
    })
}

pub(super) fn device(
    connection: &Connection,
    network: &NetworkId,
    device: &DeviceId,
    now_ms: u64,
) -> rusqlite::Result<Option<Known>> {
    connection
        .prepare_cached(&format!("{KNOWN} WHERE d.network = ?1 AND d.device = ?2 AND d.expires_ms > ?3"))?
        .query_row(params![network.as_bytes(), device.as_bytes(), time(now_ms)], known)
        .optional()
}

pub(super) fn user(
    connection: &Connection,
    network: &NetworkId,
    user: &UserId,
    limit: usize,
    now_ms: u64,
) -> rusqlite::Result<Vec<Known>> {
    let order = "ORDER BY d.seen_ms DESC LIMIT ?4";
    connection
        .prepare_cached(&format!("{KNOWN} WHERE d.network = ?1 AND d.user = ?2 AND d.expires_ms > ?3 {order}"))?
        .query_map(params![network.as_bytes(), user.as_bytes(), time(now_ms), limit as i64], known)?
        .collect()
}

pub(super) fn seen(
    connection: &Connection,
    network: &NetworkId,
    after: Option<DeviceId>,
    limit: u32,
    since_ms: u64,
    now_ms: u64,
) -> rusqlite::Result<Seen> {
    let after: &[u8] = after.as_ref().map_or(&[], |device| device.as_bytes());
    // What was seen and is valid is picked here: a condition in the statement would pass over any number of rows.
    let wanted = "WHERE d.network = ?1 AND d.device > ?2 ORDER BY d.device LIMIT ?3";
    let mut statement = connection.prepare_cached(&format!("{KNOWN} {wanted}"))?;
    let mut rows = statement.query(params![network.as_bytes(), after, LOOKED as i64])?;
    let (since, now) = (time(since_ms), time(now_ms));
    let mut seen = Seen { devices: Vec::new(), next: None };
    let mut looked = 0;
    while let Some(row) = rows.next()? {
        looked += 1;
        if row.get::<_, i64>("seen_ms")? >= since && row.get::<_, i64>("expires_ms")? > now {
            seen.devices.push(known(row)?);
        }
        if seen.devices.len() >= limit as usize || looked == LOOKED {
            seen.next = Some(DeviceId::from_bytes(row.get("device")?));
            break;
        }
    }
    Ok(seen)
}

pub(super) fn beat(connection: &Connection, beat: &Beat) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached(
            "INSERT INTO coordinators (network, device, active_peers, capacity, at_ms, received_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET active_peers = excluded.active_peers, capacity = excluded.capacity,
             at_ms = excluded.at_ms, received_ms = excluded.received_ms WHERE excluded.at_ms > at_ms",
        )?
        .execute(params![
            beat.network.as_bytes(),
            beat.device.as_bytes(),
            beat.active_peers,
            beat.capacity,
            time(beat.at_ms),
            time(beat.received_ms)
        ])?;
    Ok(changed > 0)
}

pub(super) fn coordinators(
    connection: &Connection,
    network: &NetworkId,
    limit: usize,
    since_ms: u64,
    now_ms: u64,
) -> rusqlite::Result<Vec<Helper>> {
    connection
        .prepare_cached(
            "SELECT c.device, d.signal_address, c.received_ms, c.capacity FROM (
                 SELECT * FROM coordinators WHERE network = ?1 AND received_ms >= ?2
                 ORDER BY received_ms DESC LIMIT ?4) c
             JOIN devices d ON d.network = c.network AND d.device = c.device AND d.expires_ms > ?5
             ORDER BY c.capacity DESC, c.received_ms DESC LIMIT ?3",
        )?
        .query_map(params![network.as_bytes(), time(since_ms), limit as i64, LOOKED as i64, time(now_ms)], helper)?
        .collect()
}

pub(super) fn ablest(
    connection: &Connection,
    network: &NetworkId,
    limit: usize,
    since_ms: u64,
    now_ms: u64,
) -> rusqlite::Result<Vec<Helper>> {
    connection
        .prepare_cached(
            "SELECT device, signal_address, seen_ms, NULL FROM (
                 SELECT device, signal_address, seen_ms, capabilities, expires_ms FROM devices
                 WHERE network = ?1 AND seen_ms >= ?2 ORDER BY seen_ms DESC LIMIT ?4)
             WHERE expires_ms > ?5 ORDER BY capabilities DESC, seen_ms DESC LIMIT ?3",
        )?
        .query_map(params![network.as_bytes(), time(since_ms), limit as i64, LOOKED as i64, time(now_ms)], helper)?
        .collect()
}

pub(super) fn left(
    connection: &Connection,
    network: &NetworkId,
    device: &DeviceId,
    now_ms: u64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE devices SET seen_ms = ?3, announced_ms = 0 WHERE network = ?1 AND device = ?2")?
        .execute(params![network.as_bytes(), device.as_bytes(), time(now_ms)])
        .map(drop)
}

pub(super) fn touch(connection: &Connection, devices: &[(NetworkId, DeviceId)], now_ms: u64) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("UPDATE devices SET seen_ms = ?3 WHERE network = ?1 AND device = ?2")?;
    for (network, device) in devices {
        statement.execute(params![network.as_bytes(), device.as_bytes(), time(now_ms)])?;
    }
    Ok(())
}

/// The first and the last row.
pub(super) fn rows(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let both = "SELECT coalesce(min(row), 0), coalesce(max(row), -1) FROM devices";
    connection.query_row(both, [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Forgets some of the devices. Of at most `most` the sequence is kept.
pub(super) fn forget(
    connection: &Connection,
    rows: Range<i64>,
    since_ms: u64,
    now_ms: u64,
    most: u64,
) -> rusqlite::Result<u64> {
    let condition = "row >= ?1 AND row < ?2 AND (seen_ms < ?3 OR expires_ms <= ?4)";
    let gone = delete(connection, condition, params![rows.start, rows.end, time(since_ms), time(now_ms)])?;
    // Numbers of rows only grow: the lowest were forgotten first.
    connection
        .prepare_cached("DELETE FROM forgotten WHERE row <= (SELECT max(row) FROM forgotten) - ?1")?
        .execute([time(most)])?;
    Ok(gone)
}

/// Forgets the sequences of records that have expired.
pub(super) fn forget_expired(connection: &Connection, now_ms: u64) -> rusqlite::Result<()> {
    let expired = "SELECT row FROM forgotten WHERE expires_ms <= ?1 LIMIT 10000";
    let statement = format!("DELETE FROM forgotten WHERE row IN ({expired})");
    connection.prepare_cached(&statement)?.execute([time(now_ms)]).map(drop)
}

pub(super) fn forget_beats(connection: &Connection, since_ms: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM coordinators WHERE received_ms < ?1")?.execute([time(since_ms)]).map(drop)
}
