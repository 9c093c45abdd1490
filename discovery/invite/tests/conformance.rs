//! The discovery suite over the `invite` kind.

use std::sync::Arc;

use peerloom_conformance::discovery;
use peerloom_core::Discovery;
use peerloom_discovery_invite::InviteDiscovery;

#[tokio::test]
async fn discovery_invite() {
    let both: Arc<dyn Discovery> = Arc::new(InviteDiscovery::default());
    discovery::run(both.clone(), both).await;
}
