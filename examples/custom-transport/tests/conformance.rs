//! TCP does what Peerloom expects of a stream transport, and so do the links made of it.

use std::sync::Arc;

use custom_transport::{Tcp, TcpConfig};
use peerloom::core::StreamTransport;
use peerloom_conformance::moves::Machine;

#[tokio::test(flavor = "multi_thread")]
async fn tcp_conforms() {
    peerloom_conformance::stream::run(|| Arc::new(Tcp { config: TcpConfig::default() })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_follows_the_machine() {
    let Some(mut machine) = Machine::enter("tcp_follows_the_machine") else { return };
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let make = || -> Arc<dyn StreamTransport> { Arc::new(Tcp { config: TcpConfig { listen: listen.into() } }) };
        peerloom_conformance::moves::streams(make, || machine.move_on()).await;
    }
}
