//! TCP does what Peerloom expects of a stream transport, and so do the links made of it.

use std::sync::Arc;

use custom_transport::{Tcp, TcpConfig};

#[tokio::test(flavor = "multi_thread")]
async fn tcp_conforms() {
    peerloom_conformance::stream::run(|| Arc::new(Tcp { config: TcpConfig::default() })).await;
}
