//! The transport suites over the `quic` kind: links, and what becomes of them when the machine's addresses change.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use peerloom_conformance::identity::identity;
use peerloom_conformance::moves::{self, Machine};
use peerloom_conformance::transport::{self, Side, connect};
use peerloom_core::wire::Address;
use peerloom_transport_quic::{QuicConfig, QuicTransport};

#[tokio::test(flavor = "multi_thread")]
async fn transport_quic() {
    for require_post_quantum in [false, true] {
        let side = |number: u8| {
            let identity = identity(number);
            let config = QuicConfig { listen: "127.0.0.1:0".into(), require_post_quantum, ..QuicConfig::default() };
            let transport = QuicTransport::new(config, &identity.secret).expect("a transport");
            Side { transport: Arc::new(transport), key: identity.key, signaling: None }
        };
        transport::run(side(1), side(2), 64 * 1024).await;
    }
}

fn quic(number: u8, listen: &str) -> Side {
    let identity = identity(number);
    let config = QuicConfig { listen: listen.into(), ..QuicConfig::default() };
    let transport = QuicTransport::new(config, &identity.secret).expect("a transport");
    Side { transport: Arc::new(transport), key: identity.key, signaling: None }
}

/// Also where the two listen in different ways: each dials what the machine can.
#[tokio::test(flavor = "multi_thread")]
async fn quic_over_ipv4_and_ipv6() {
    let Some(mut machine) = Machine::enter("quic_over_ipv4_and_ipv6") else { return };
    for listen in ["0.0.0.0:0", "[::]:0"] {
        for dialer in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0", "[::1]:0"] {
            moves::run(quic(1, dialer), quic(2, listen), || machine.move_on()).await;
        }
    }
}

/// Nothing arrives at an address that the machine has lost: the link is given up long before it would be for silence,
/// and another one isn't.
#[tokio::test(flavor = "multi_thread")]
async fn quic_gives_up_links_at_lost_addresses() {
    let Some(mut machine) = Machine::enter("quic_gives_up_links_at_lost_addresses") else { return };
    for (dialer, listen) in [("0.0.0.0:0", "0.0.0.0:0"), ("[::]:0", "[::]:0")] {
        let (dialer, listener) = (quic(1, dialer), quic(2, listen));
        let mut accepting = listener.transport.listen(None).await.expect("it listens");
        let addresses = accepting.addresses();
        let port = addresses[0].rest().rsplit(':').next().expect("a port").to_owned();
        let stays: Address = format!("quic://127.0.0.1:{port}").parse().expect("an address");
        let (_near, there) = connect(&dialer, &listener, &stays, &mut *accepting).await;
        let mut lost = Vec::new();
        for address in &addresses {
            lost.push(connect(&dialer, &listener, address, &mut *accepting).await);
        }
        // The addresses are there: nothing ends.
        listener.transport.network_changed();
        assert!(lost.iter().all(|(_, far)| far.closed().now_or_never().is_none()));
        machine.move_on();
        listener.transport.network_changed();
        for (_, far) in &lost {
            let end = tokio::time::timeout(Duration::from_secs(10), far.closed()).await;
            assert!(end.is_ok(), "a link at a lost address stays");
        }
        assert!(there.closed().now_or_never().is_none(), "a link on loopback was given up");
        dialer.transport.shutdown().await;
        listener.transport.shutdown().await;
    }
}
