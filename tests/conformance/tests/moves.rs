//! The machine's addresses change under the transports in memory, and under streams that the stack secures.

use std::net::Ipv4Addr;
use std::sync::Arc;

use peerloom_conformance::identity::identity;
use peerloom_conformance::moves::{self, Machine};
use peerloom_conformance::tcp::Tcp;
use peerloom_conformance::transport::Side;
use peerloom_core::memory::{MemoryNetwork, MemoryStreams, MemoryTransport};

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
