//! What every carrier of signals, and every signaling made of them, must do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use peerloom_core::wire::{DeviceId, SessionId, Signed};
use peerloom_core::{ErrorKind, SignalCarrier, Signaling};

/// Runs the suite over the carriers of two devices.
pub async fn carrier(first: (DeviceId, Arc<dyn SignalCarrier>), second: (DeviceId, Arc<dyn SignalCarrier>)) {
    let signed = |body: Vec<u8>| Signed::sign(b"", body.into(), |_| Bytes::from_static(&[7; 64]));
    let absent = first.1.send(DeviceId::from_bytes([0; 32]), signed(vec![0])).await;
    assert_eq!(absent.map_err(|e| e.kind()), Err(ErrorKind::Unreachable), "an absent device is reported at once");

    let mut inbox = second.1.receive();
    for number in 0..10u8 {
        first.1.send(second.0, signed(vec![number])).await.expect("a signal");
    }
    for number in 0..10u8 {
        let carried = next(&mut inbox).await;
        assert!(carried.from.is_none_or(|from| from == first.0), "the sender, where one is named");
        assert_eq!(carried.signal, signed(vec![number]), "in order, as it was signed");
    }
    // A receiver that doesn't look holds nobody up.
    for _ in 0..10_000 {
        first.1.send(second.0, signed(b"flood".to_vec())).await.expect("accepted or dropped");
    }
}

/// Runs the suite over the signaling of two devices that know each other.
pub async fn run(first: (DeviceId, Arc<dyn Signaling>), second: (DeviceId, Arc<dyn Signaling>)) {
    let session = SessionId::from_bytes([1; 16]);
    let absent = first.1.send(DeviceId::from_bytes([0; 32]), session, Bytes::from_static(b"x")).await;
    assert_eq!(absent.map_err(|e| e.kind()), Err(ErrorKind::Unreachable), "an absent device is reported at once");

    let mut inbox = second.1.receive();
    for number in 0..10u8 {
        first.1.send(second.0, session, Bytes::from(vec![number])).await.expect("a signal");
    }
    for number in 0..10u8 {
        let signal = next(&mut inbox).await;
        assert_eq!((signal.from, signal.session), (first.0, session), "with its sender and session");
        assert_eq!(signal.payload.as_ref(), [number], "in order");
    }
    // A receiver that doesn't look holds nobody up.
    for _ in 0..10_000 {
        first.1.send(second.0, session, Bytes::from_static(b"flood")).await.expect("accepted or dropped");
    }
}

async fn next<T>(inbox: &mut (impl Stream<Item = T> + Unpin)) -> T {
    tokio::time::timeout(Duration::from_secs(10), inbox.next()).await.expect("in time").expect("a signal")
}
