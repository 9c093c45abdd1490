//! Which coordinators saw a user: those that its devices named.

use peerloom_core::wire::{DeviceId, NetworkId, UserId};
use rusqlite::{Connection, params};

use super::values::{helper, time};
use crate::store::Helper;

/// The table.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS sightings (
        network BLOB NOT NULL, user BLOB NOT NULL, coordinator BLOB NOT NULL, seen_ms INTEGER NOT NULL,
        PRIMARY KEY (network, user, coordinator)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sighting_by_time ON sightings (seen_ms);
";

/// Most coordinators remembered of a user; of more, the one named longest ago goes.
const SIGHTINGS_OF_USER: i64 = 8;

/// Notes the coordinators that a device named.
pub(super) fn sight(
    connection: &Connection,
    network: &NetworkId,
    user: &UserId,
    coordinators: &[DeviceId],
    now_ms: u64,
) -> rusqlite::Result<()> {
    for coordinator in coordinators {
        connection
            .prepare_cached(
                "INSERT INTO sightings (network, user, coordinator, seen_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET seen_ms = excluded.seen_ms",
            )?
            .execute(params![network.as_bytes(), user.as_bytes(), coordinator.as_bytes(), time(now_ms)])?;
    }
    if coordinators.is_empty() {
        return Ok(());
    }
    connection
        .prepare_cached(
            "DELETE FROM sightings WHERE network = ?1 AND user = ?2 AND coordinator NOT IN (
                 SELECT coordinator FROM sightings WHERE network = ?1 AND user = ?2
                 ORDER BY seen_ms DESC, coordinator LIMIT ?3)",
        )?
        .execute(params![network.as_bytes(), user.as_bytes(), SIGHTINGS_OF_USER])
        .map(drop)
}

/// Forgets sightings from before a time.
pub(super) fn forget(connection: &Connection, since_ms: u64) -> rusqlite::Result<()> {
    let old = "DELETE FROM sightings WHERE seen_ms < ?1";
    connection.prepare_cached(old)?.execute([time(since_ms)]).map(drop)
}

/// At most `limit` coordinators that the user's devices named since `seen_since_ms`, the last one first, whose heartbeats
/// came since `beat_since_ms` and whose records are valid.
pub(super) fn find(
    connection: &Connection,
    network: &NetworkId,
    user: &UserId,
    limit: usize,
    (beat_since_ms, seen_since_ms): (u64, u64),
    now_ms: u64,
) -> rusqlite::Result<Vec<Helper>> {
    connection
        .prepare_cached(
            "SELECT c.device, d.signal_address, c.received_ms, c.capacity FROM sightings s
             JOIN coordinators c ON c.network = s.network AND c.device = s.coordinator AND c.received_ms >= ?3
             JOIN devices d ON d.network = s.network AND d.device = s.coordinator AND d.expires_ms > ?5
             WHERE s.network = ?1 AND s.user = ?2 AND s.seen_ms >= ?4
             ORDER BY s.seen_ms DESC, s.coordinator LIMIT ?6",
        )?
        .query_map(
            params![
                network.as_bytes(),
                user.as_bytes(),
                time(beat_since_ms),
                time(seen_since_ms),
                time(now_ms),
                limit as i64
            ],
            helper,
        )?
        .collect()
}
