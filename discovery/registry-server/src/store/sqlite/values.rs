//! Values in columns and back.

use peerloom_core::wire::DeviceId;
use rusqlite::Row;

use crate::store::Helper;

/// All of `u64` in SQLite's signed integers, in the same order.
pub(super) fn ordered(number: u64) -> i64 {
    (number ^ (1 << 63)).cast_signed()
}

/// A time; those beyond SQLite's integers are as good as never.
pub(super) fn time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// A coordinator, from its device, address, time and capacity.
pub(super) fn helper(row: &Row<'_>) -> rusqlite::Result<Helper> {
    Ok(Helper {
        device: DeviceId::from_bytes(row.get(0)?),
        signal_address: row.get(1)?,
        seen_ms: row.get::<_, i64>(2)?.unsigned_abs(),
        capacity: row.get(3)?,
    })
}
