//! What every signaling must do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use peerloom_core::wire::DeviceId;
use peerloom_core::{ErrorKind, Signaling};

/// Runs the suite over the signaling of two devices.
pub async fn run(first: (DeviceId, Arc<dyn Signaling>), second: (DeviceId, Arc<dyn Signaling>)) {
    let absent = first.1.send(DeviceId::from_bytes([0; 32]), Bytes::from_static(b"x")).await;
    assert_eq!(absent.map_err(|e| e.kind()), Err(ErrorKind::Unreachable), "an absent device is reported at once");

    let mut inbox = second.1.receive();
    for number in 0..10u8 {
        first.1.send(second.0, Bytes::from(vec![number])).await.expect("a signal");
    }
    for number in 0..10u8 {
        let signal =
            tokio::time::timeout(Duration::from_secs(10), inbox.next()).await.expect("in time").expect("a signal");
        assert_eq!((signal.from, signal.payload.as_ref()), (first.0, &[number][..]), "in order, with the sender");
    }
    // A receiver that doesn't look holds nobody up.
    for _ in 0..10_000 {
        first.1.send(second.0, Bytes::from_static(b"flood")).await.expect("accepted or dropped");
    }
}
