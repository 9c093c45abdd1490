//! Running a registry.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use peerloom::core::Passphrase;
use peerloom::core::private;
use peerloom::{Error, ErrorKind, Result};
use peerloom_registry_server::{IceConfig, Registry, RegistryConfig, TlsFiles};
use serde_json::json;

use crate::args::number;
use crate::output::{note, say_json};
use crate::signals::interrupted;

#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Address and port to listen on.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,
    /// The SQLite file with the announced records; in the folder of -C.
    #[arg(long, value_name = "FILE", default_value = "registry.sqlite")]
    pub(crate) store: PathBuf,
    /// What clients call this registry, HOST or HOST:PORT, as in their `url`; by default the listen
    /// address.
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Certificate chain (PEM). Without it the registry speaks plain HTTP, for a proxy in front of it.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Take clients' addresses from X-Forwarded-For; only behind a proxy that sets it.
    #[arg(long)]
    pub(crate) trust_forwarded: bool,
    /// Let devices announce addresses inside this machine's own networks, or this machine itself. By
    /// default they may where the registry listens on a loopback address, without --name and
    /// --trust-forwarded.
    #[arg(long)]
    pub(crate) allow_local: bool,
    /// A private network and its token, as NETWORK=TOKEN. Other users of this machine can see it in the list
    /// of processes: better use --private-file.
    #[arg(long = "private", value_name = "NETWORK=TOKEN")]
    pub(crate) private: Vec<String>,
    /// File with private networks and their tokens: a line NETWORK=TOKEN for each, and # before comments.
    #[arg(long, value_name = "FILE")]
    pub(crate) private_file: Option<PathBuf>,
    /// Refuse all networks that aren't given with --private or --private-file.
    #[arg(long)]
    pub(crate) only_private: bool,
    /// Work that each announcement must show, in leading zero bits.
    #[arg(long, value_name = "BITS", default_value = "0", value_parser = number::<u32>)]
    pub(crate) work: u32,
    /// A STUN server to hand out.
    #[arg(long = "stun", value_name = "URL")]
    pub(crate) stun: Vec<String>,
    /// A TURN server to hand out.
    #[arg(long = "turn", value_name = "URL")]
    pub(crate) turn: Vec<String>,
    /// File with the secret that the TURN server shares (coturn's static-auth-secret).
    #[arg(long, value_name = "FILE")]
    pub(crate) turn_secret_file: Option<PathBuf>,
}

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
