//! What the engine counts, through the `metrics` facade: a program that wants the figures installs a
//! recorder, and without one they cost next to nothing. Names follow Prometheus's conventions.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::time::Duration;

const ACCEPTED: &str = "peerloom_messages_accepted_total";
const RECEIVED: &str = "peerloom_messages_received_total";
const DELIVERED: &str = "peerloom_messages_delivered_total";
const FAILED: &str = "peerloom_messages_failed_total";
const ENTRIES_SENT: &str = "peerloom_entries_sent_total";
const ENTRY_BYTES_SENT: &str = "peerloom_entry_sent_bytes_total";
const COMMITS: &str = "peerloom_commit_seconds";
const COMMIT_ROWS: &str = "peerloom_commit_rows_total";
const COMMIT_FAILURES: &str = "peerloom_commit_failures_total";
const LINKS: &str = "peerloom_links";
const REFUSED: &str = "peerloom_refused_total";
const SKIPPED: &str = "peerloom_skipped_frames_total";

/// Says what each figure is, and sets the counters that may stay at zero. Call it once after
/// installing a recorder.
pub fn describe_metrics() {
    describe_counter!(ACCEPTED, "Messages of this node that became durable.");
    describe_counter!(RECEIVED, "Messages of others that became durable here.");
    describe_counter!(DELIVERED, "Messages of this node that a contact acknowledged.");
    describe_counter!(FAILED, "Messages of this node that expired before they were acknowledged.");
    describe_counter!(ENTRIES_SENT, "Log entries put on a link, repetitions included.");
    describe_counter!(ENTRY_BYTES_SENT, "Bytes of those entries.");
    describe_histogram!(COMMITS, "Time that each commit of the store took, in seconds.");
    describe_counter!(COMMIT_ROWS, "Rows written or deleted by commits.");
    describe_counter!(COMMIT_FAILURES, "Commits that failed; nothing of them was accepted.");
    describe_gauge!(LINKS, "Links to contacts' devices that are up.");
    describe_counter!(REFUSED, "Links, frames and entries from outside that were refused.");
    describe_counter!(SKIPPED, "Frames of kinds and versions that this version doesn't know.");
    for name in [ACCEPTED, RECEIVED, DELIVERED, FAILED, ENTRIES_SENT, ENTRY_BYTES_SENT, COMMIT_FAILURES, REFUSED] {
        counter!(name).increment(0);
    }
    gauge!(LINKS).increment(0.0);
}

/// What one turn did, counted once it is durable.
#[derive(Default)]
pub(crate) struct TurnFigures {
    pub(crate) accepted: usize,
    pub(crate) received: usize,
    pub(crate) delivered: usize,
    pub(crate) failed: usize,
    pub(crate) entries_sent: usize,
    pub(crate) entry_bytes_sent: usize,
}

impl TurnFigures {
    pub(crate) fn count(&self) {
        let figures = [
            (ACCEPTED, self.accepted),
            (RECEIVED, self.received),
            (DELIVERED, self.delivered),
            (FAILED, self.failed),
            (ENTRIES_SENT, self.entries_sent),
            (ENTRY_BYTES_SENT, self.entry_bytes_sent),
        ];
        for (name, value) in figures.into_iter().filter(|(_, value)| *value > 0) {
            counter!(name).increment(value as u64);
        }
    }
}

pub(crate) fn committed(rows: usize, took: Duration) {
    histogram!(COMMITS).record(took);
    counter!(COMMIT_ROWS).increment(rows as u64);
}

pub(crate) fn commit_failed() {
    counter!(COMMIT_FAILURES).increment(1);
}

pub(crate) fn link_up() {
    gauge!(LINKS).increment(1.0);
}

pub(crate) fn link_down() {
    gauge!(LINKS).decrement(1.0);
}

pub(crate) fn skipped() {
    counter!(SKIPPED).increment(1);
}

pub(crate) fn refused() {
    counter!(REFUSED).increment(1);
}
