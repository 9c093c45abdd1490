//! The machine's addresses change under every transport of this repository.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use peerloom_conformance::identity::identity;
use peerloom_conformance::moves::{self, Machine};
use peerloom_conformance::tcp::Tcp;
use peerloom_conformance::transport::{Side, connect};
use peerloom_core::Signaling;
use peerloom_core::memory::{MemoryNetwork, MemorySignaling, MemoryStreams, MemoryTransport, SignalingHub};
use peerloom_core::wire::Address;
use peerloom_transport_quic::{QuicConfig, QuicTransport};
use peerloom_transport_webrtc::{WebRtcConfig, WebRtcTransport};

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let network = MemoryNetwork::default();
    let side = |number: u8| {
        let identity = identity(number);
        let address = format!("memory://{number}").parse().expect("an address");
        let transport = MemoryTransport::new(&network, address, identity.key.clone());
        Side { transport: Arc::new(transport), key: identity.key, signaling: None }
    };
    moves::run(side(1), side(2), || network.move_on()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secured_streams() {
    let streams = MemoryStreams::default();
    moves::streams(|| Arc::new(streams.clone()), || streams.move_on()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secured_tcp() {
    let Some(mut machine) = Machine::enter("secured_tcp") else { return };
    moves::streams(|| Arc::new(Tcp(Ipv4Addr::UNSPECIFIED.into())), || machine.move_on()).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn webrtc() {
    let Some(mut machine) = Machine::enter("webrtc") else { return };
    let hub = SignalingHub::default();
    let side = |number: u8| {
        let identity = identity(number);
        let transport = WebRtcTransport::new(WebRtcConfig::default(), identity.device).expect("a transport");
        let signaling: Arc<dyn Signaling> = Arc::new(MemorySignaling::new(identity.device, &hub));
        Side { transport: Arc::new(transport), key: identity.key, signaling: Some(signaling) }
    };
    moves::run(side(1), side(2), || machine.move_on()).await;
}
