//! Running a registry.

use std::path::Path;

use peerloom::core::kinds::Passphrase;
use peerloom::core::private;
use peerloom::{Error, ErrorKind, Result};
use peerloom_registry_server::{IceConfig, Registry, RegistryConfig, TlsFiles};
use serde_json::json;

use crate::args::RegistryArgs;
use crate::output::{note, say_json};
use crate::signals::interrupted;

pub(super) async fn run(folder: &Path, json: bool, arguments: RegistryArgs) -> Result<()> {
    let registry = Registry::start(config(folder, arguments)?).await?;
    let address = registry.local_addr();
    if json {
        say_json(&json!({ "listen": address.to_string() }));
    } else {
        note(&format!("the registry listens at {address}; its document is at /openapi.json; Ctrl-C ends it"));
    }
    interrupted().await;
    registry.shutdown().await;
    Ok(())
}

/// A registry for this machine alone, without a file, for as long as a demonstration runs.
pub(crate) async fn temporary() -> Result<Registry> {
    let config = RegistryConfig { listen: "127.0.0.1:0".into(), store: ":memory:".into(), ..RegistryConfig::default() };
    Registry::start(config).await
}

fn config(folder: &Path, arguments: RegistryArgs) -> Result<RegistryConfig> {
    let wrong = |message: String| Error::new(ErrorKind::Invalid, "registry", "configure", message);
    let mut config = RegistryConfig {
        listen: arguments.listen,
        names: arguments.names,
        store: if arguments.store == Path::new(":memory:") { arguments.store } else { folder.join(arguments.store) },
        tls: arguments.tls_cert.zip(arguments.tls_key).map(|(certificate, key)| TlsFiles { certificate, key }),
        trust_forwarded: arguments.trust_forwarded,
        allow_local: arguments.allow_local.then_some(true),
        only_listed: arguments.only_private,
        work_bits: arguments.work,
        ice: IceConfig { stun: arguments.stun, turn: arguments.turn, ..IceConfig::default() },
        ..RegistryConfig::default()
    };
    // Tokens stay out of messages.
    let split = |text: &str| text.split_once('=').map(|(network, token)| (network.to_owned(), token.to_owned()));
    for private in arguments.private {
        let listed = split(&private).ok_or_else(|| wrong("--private is not of the form NETWORK=TOKEN".into()))?;
        config.networks.extend([listed]);
    }
    if let Some(file) = arguments.private_file {
        let text = private::read_secret(&file)?;
        let lines = text.lines().map(str::trim).enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let malformed = || wrong(format!("{}:{}: not of the form NETWORK=TOKEN", file.display(), number + 1));
            config.networks.extend([split(line).ok_or_else(malformed)?]);
        }
    }
    if let Some(file) = arguments.turn_secret_file {
        let secret = Passphrase::from_line(&private::read_secret(&file)?);
        let secret = secret.map_err(|why| wrong(format!("{}: {why}", file.display())))?;
        config.ice.turn_secret = Some(secret.expose().to_owned());
    }
    Ok(config)
}
