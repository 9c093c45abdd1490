//! STUN and TURN servers that the registry offers, kept while their credentials are good.

use std::time::{Duration, Instant};

use peerloom_core::{IceServer, Result};
use peerloom_registry_protocol::http::IceAnswer;
use tokio::sync::Mutex;
use tracing::debug;

use crate::health::Part;
use crate::http::Answer;
use crate::shared::Shared;

/// Most servers taken from a registry, and most URLs of one.
const SERVERS: usize = 16;
/// Longest URL, user name or credential, in bytes.
const TEXT: usize = 512;
/// The registry isn't asked more often than this.
const PAUSE: Duration = Duration::from_secs(60);
/// No answer counts longer than this, whatever the registry says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The servers, and until when.
#[derive(Default)]
pub(crate) struct IceServers(Mutex<Option<Known>>);

struct Known {
    servers: Vec<IceServer>,
    /// When to ask again: at half of the credentials' life.
    ask_again: Instant,
    expires: Instant,
}

impl IceServers {
    /// The servers; asks the registry where that is due.
    pub(crate) async fn get(&self, shared: &Shared) -> Vec<IceServer> {
        let mut known = self.0.lock().await;
        if let Some(known) = &*known
            && Instant::now() < known.ask_again
        {
            return known.valid();
        }
        match ask(shared).await {
            Ok(answer) => {
                shared.health.works(Part::Calls, &shared.caller.name);
                let life = Duration::from_secs(answer.ttl_seconds).min(LONGEST);
                let now = Instant::now();
                let servers = answer.ice_servers.into_iter().take(SERVERS).filter_map(usable).collect();
                *known = Some(Known { servers, ask_again: now + (life / 2).max(PAUSE), expires: now + life });
            }
            Err(error) => {
                debug!(%error, "no STUN and TURN servers from the registry");
                shared.health.failed(Part::Calls, &error);
                let now = Instant::now();
                let none = Known { servers: Vec::new(), ask_again: now, expires: now };
                known.get_or_insert(none).ask_again = now + PAUSE;
            }
        }
        known.as_ref().map(Known::valid).unwrap_or_default()
    }
}

impl Known {
    fn valid(&self) -> Vec<IceServer> {
        let valid = Instant::now() < self.expires;
        // Servers without credentials don't expire.
        self.servers.iter().filter(|server| valid || server.credential.is_none()).cloned().collect()
    }
}

async fn ask(shared: &Shared) -> Result<IceAnswer> {
    let path = format!("/network/{}/ice-servers", shared.network);
    match shared.caller.get("ice-servers", &path).await? {
        Answer::Found(answer) => Ok(answer),
        Answer::Failed(failure) => Err(shared.caller.refusal("ask for STUN and TURN servers", &failure)),
    }
}

/// What is left of a server when everything that is no such server is taken away.
fn usable(server: peerloom_registry_protocol::http::IceServer) -> Option<IceServer> {
    let good = |text: &String| text.len() <= TEXT && text.bytes().all(|byte| byte.is_ascii_graphic());
    let ice = |url: &String| ["stun:", "stuns:", "turn:", "turns:"].iter().any(|scheme| url.starts_with(scheme));
    let urls: Vec<String> = server.urls.into_iter().take(SERVERS).filter(|url| good(url) && ice(url)).collect();
    let credentials = [&server.username, &server.credential].into_iter().flatten().all(good);
    (!urls.is_empty() && credentials).then_some(IceServer {
        urls,
        username: server.username,
        credential: server.credential,
    })
}
