//! Other encoders than `prost` may write a message's fields in another order, and repeated numbers one by one.

use bytes::Bytes;
use peerloom_wire::{Hello, Item, MessageId, NetworkId, Signed, SuiteId};

fn item(resealed_from: Vec<u64>) -> Item {
    Item {
        id: MessageId::from_bytes([1; 16]),
        sent_at_ms: 5,
        content_type: String::new(),
        body: Bytes::from_static(b"text"),
        resealed_from,
    }
}

fn hello(suites: Vec<SuiteId>) -> Hello {
    Hello {
        nonce: [7; 32],
        version_min: 1,
        version_max: 1,
        network: NetworkId::from_name("packing"),
        certificate: Signed::sign(b"", Bytes::from_static(b"body"), |_| Bytes::from_static(b"signature")),
        suites,
        policy: 0,
        features: 0,
    }
}

#[test]
fn numbers_that_are_not_packed_and_fields_in_another_order_are_read() {
    let expected = hello(vec![SuiteId(3), SuiteId(0x0101)]);
    let packed = expected.encode();
    assert!(packed.windows(5).any(|window| window == [0x32, 3, 3, 0x81, 2]), "field 6, packed");
    assert_eq!(Hello::decode(packed).expect("a hello"), expected);
    for before in [true, false] {
        let (rest, singly) = (hello(Vec::new()).encode(), &[0x30, 3, 0x30, 0x81, 2][..]);
        let bytes = if before { [singly, &rest].concat() } else { [&rest, singly].concat() };
        assert_eq!(Hello::decode(bytes.into()).expect("a hello"), expected);
    }
}

#[test]
fn zeros_and_empty_values_are_left_out() {
    let bytes = hello(Vec::new()).encode();
    let end = [0x2a_u8, 4 + 4 + 9];
    // The certificate is the last field: suites, policy and features are their default values.
    assert_eq!(bytes.len() - 17 - 2, bytes.windows(2).rposition(|window| window == end).expect("field 5"));
}

#[test]
fn a_bundle_takes_both_ways() {
    let expected = peerloom_wire::Bundle { items: vec![item(vec![4, 300])] };
    assert_eq!(peerloom_wire::Bundle::decode(expected.encode()).expect("a bundle"), expected);
    let without = peerloom_wire::Bundle { items: vec![item(Vec::new())] }.encode();
    let inner = [&without[2..], &[0x28, 4, 0x28, 0xac, 2][..]].concat();
    let singly = [&[0x0a, u8::try_from(inner.len()).expect("short")][..], &inner].concat();
    assert_eq!(peerloom_wire::Bundle::decode(singly.into()).expect("a bundle"), expected);
}
