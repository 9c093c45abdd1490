//! The JSON that clients in other languages rely on, and noise in its place.

use bytes::Bytes;
use peerloom_registry_protocol::http::{Announce, Device, Failure, Heartbeat};
use peerloom_registry_protocol::message::{ClientMessage, Hello, ServerMessage};
use peerloom_wire::{DeviceId, NetworkId, Signed};
use proptest::prelude::*;
use serde_json::{Value, from_value, json, to_value};

fn record() -> Signed {
    Signed::sign(b"", Bytes::from_static(b"body"), |_| Bytes::from_static(b"signature"))
}

#[test]
fn messages_have_these_fields() {
    let device = DeviceId::from_bytes([0; 32]);
    let id = "a".repeat(52);
    let from_server = [
        (
            ServerMessage::Challenge { nonce: [0; 32], registry: "reg.example".into(), work_bits: 8 },
            json!({"type": "challenge", "nonce": "A".repeat(43), "registry": "reg.example", "workBits": 8}),
        ),
        (ServerMessage::Ready {}, json!({"type": "ready"})),
        (
            ServerMessage::Signal { from: device, payload: "p".into() },
            json!({"type": "signal", "from": id, "payload": "p"}),
        ),
        (ServerMessage::Sent { to: device, id: 1 }, json!({"type": "sent", "to": id, "id": 1})),
        (ServerMessage::Absent { to: device, id: None }, json!({"type": "absent", "to": id})),
        (
            ServerMessage::Busy { to: device, id: Some(2), retry_after_ms: Some(3) },
            json!({"type": "busy", "to": id, "id": 2, "retryAfterMs": 3}),
        ),
        (
            ServerMessage::Error(Failure {
                code: "rateLimited".into(),
                message: "wait".into(),
                retry_after_ms: Some(5),
                work_bits: None,
            }),
            json!({"type": "error", "code": "rateLimited", "message": "wait", "retryAfterMs": 5}),
        ),
    ];
    for (message, json) in from_server {
        assert_eq!(to_value(&message).unwrap(), json);
        assert_eq!(from_value::<ServerMessage>(json).unwrap(), message);
    }
    let hello = ClientMessage::Hello(Box::new(Hello {
        network: NetworkId::from_bytes([0; 32]),
        record: record(),
        signature: [0; 64],
        token: None,
        work: Some(7),
        signal_address: None,
        coordinators: Vec::new(),
    }));
    let json = json!({"type": "hello", "network": id, "record": "CgRib2R5EglzaWduYXR1cmU", "signature": "A".repeat(86), "work": 7});
    assert_eq!(to_value(&hello).unwrap(), json);
    assert_eq!(from_value::<ClientMessage>(json).unwrap(), hello);
}

#[test]
fn a_debug_print_shows_no_token() {
    let hello = Hello {
        network: NetworkId::from_bytes([0; 32]),
        record: record(),
        signature: [0; 64],
        token: Some("hush".into()),
        work: None,
        signal_address: None,
        coordinators: Vec::new(),
    };
    assert!(!format!("{hello:?}").contains("hush"));
}

#[test]
fn what_is_not_an_id_or_a_record_is_refused() {
    let body = |peer: &str, record: &str| from_value::<Announce>(json!({"peerId": peer, "record": record}));
    let good = "a".repeat(52);
    assert!(body(&good, "CgRib2R5EglzaWduYXR1cmU").is_ok());
    assert!(body("' OR 1=1 --", "CgRib2R5EglzaWduYXR1cmU").is_err());
    assert!(body(&good, "not base64!").is_err());
    assert!(body(&good, &"A".repeat(1300)).is_err(), "longer than a record");
    assert!(body(&good.to_uppercase(), "CgRib2R5EglzaWduYXR1cmU").is_ok(), "in either case");
    assert!(body(&good, "CgRib2R5EglzaWduYXR1cmU=").is_err(), "padding");
    assert!(body(&good, "CgRib2R5EglzaWduYXR1cmV").is_err(), "bits that no byte has");
    let work = |number: &str| {
        let text = format!(r#"{{"peerId": "{good}", "record": "CgRib2R5EglzaWduYXR1cmU", "work": {number}}}"#);
        serde_json::from_str::<Announce>(&text).map(|body| body.work)
    };
    assert_eq!(work("18446744073709551615").unwrap(), Some(u64::MAX), "all 64 bits");
    assert!(["18446744073709551616", "-1", "1.0", "1e3", "\"1\""].iter().all(|number| work(number).is_err()));
    let negative = json!({"networkId": good, "peerId": good, "activePeers": -1, "capacity": 0, "atMs": 0, "signature": "A".repeat(86)});
    assert!(from_value::<Heartbeat>(negative).is_err());
}

proptest! {
    /// Whatever text comes, it is refused or a message comes out of it.
    #[test]
    fn noise_is_harmless(text in ".{0,200}") {
        let _ = serde_json::from_str::<ClientMessage>(&text);
        let _ = serde_json::from_str::<ServerMessage>(&text);
        let _ = serde_json::from_str::<Device>(&text);
        let _ = from_value::<ClientMessage>(json!({"type": "hello", "network": text, "record": text, "signature": text}));
        let _ = from_value::<ServerMessage>(json!({"type": "challenge", "nonce": text, "registry": text, "workBits": Value::Null}));
    }
}
