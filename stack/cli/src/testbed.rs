//! What `demo` and `bench` run their nodes with.

use peerloom::{Override, Result};
use peerloom_registry_server::{Registry, RegistryConfig};

/// Where a transport was chosen that needs signals and no discovery that carries them: a registry of
/// this process, and the settings by which the nodes use it.
pub(crate) async fn signaling(overrides: &[Override]) -> Result<(Option<Registry>, Vec<Override>)> {
    let mut overrides = overrides.to_vec();
    let says = |kind: &str| overrides.iter().any(|o| o.path.ends_with(".kind") && o.value.trim_matches('"') == kind);
    if !says("webrtc") || says("registry") {
        return Ok((None, overrides));
    }
    let registry = registry().await?;
    for (key, value) in [("kind", "registry".to_owned()), ("url", format!("http://{}", registry.local_addr()))] {
        overrides.push(Override { path: format!("discovery.1.{key}"), value });
    }
    Ok((Some(registry), overrides))
}

/// A registry for this machine alone, without a file, for as long as the run takes.
async fn registry() -> Result<Registry> {
    let config = RegistryConfig { listen: "127.0.0.1:0".into(), store: ":memory:".into(), ..RegistryConfig::default() };
    Registry::start(config).await
}
