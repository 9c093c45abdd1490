//! What is counted of a link: bytes, its round trip, when something was last heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use peerloom_core::LinkStats;

use crate::runtime::ConnectionRuntime;

/// A relayed packet waits in the crate for the next wake-up; it comes soon for this long after a send.
const RELAY_HEAT: Duration = Duration::from_millis(20);
/// Longest message for a peer that announced no other length, in bytes.
const LONGEST: usize = 1024;

/// The traffic of one link.
pub(crate) struct Traffic {
    begin: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    rtt_us: AtomicU64,
    /// When something was last heard, in milliseconds since `begin`.
    heard_ms: AtomicU64,
    longest: AtomicUsize,
    /// Whether it goes over a relay.
    relayed: AtomicBool,
    runtime: Arc<ConnectionRuntime>,
}

impl Traffic {
    pub(crate) fn new(runtime: Arc<ConnectionRuntime>) -> Self {
        Self {
            begin: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            rtt_us: AtomicU64::new(0),
            heard_ms: AtomicU64::new(0),
            longest: AtomicUsize::new(LONGEST),
            relayed: AtomicBool::new(false),
            runtime,
        }
    }

    /// Something arrived.
    pub(crate) fn heard(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.heard_ms.store(self.begin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Something goes out.
    pub(crate) fn sending(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.relayed.load(Ordering::Relaxed) {
            self.runtime.heat(RELAY_HEAT);
        }
    }

    /// The path in use changed.
    pub(crate) fn set_relayed(&self, relayed: bool) {
        self.relayed.store(relayed, Ordering::Relaxed);
    }

    /// How long nothing was heard.
    pub(crate) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.begin.elapsed().saturating_sub(heard)
    }

    /// The number of a ping that is sent now.
    pub(crate) fn ping(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The other side answered a ping.
    pub(crate) fn on_pong(&self, ping: u64) {
        // A number that we never sent tells nothing.
        let Some(sample) = self.ping().checked_sub(ping).filter(|_| ping > 0) else {
            return;
        };
        // Smoothed as TCP does (RFC 6298 §2).
        let smooth = |rtt: u64| Some(if rtt == 0 { sample } else { (rtt * 7 + sample) / 8 });
        let _ = self.rtt_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, smooth);
    }

    /// Longest message for the other side.
    pub(crate) fn longest_message(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }

    pub(crate) fn set_longest_message(&self, bytes: usize) {
        self.longest.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> LinkStats {
        LinkStats {
            rtt_us: self.rtt_us.load(Ordering::Relaxed),
            bytes_sent: self.sent.load(Ordering::Relaxed),
            bytes_received: self.received.load(Ordering::Relaxed),
        }
    }
}
