//! STUN and TURN servers with time-limited credentials, as coturn's `use-auth-secret` checks them: the
//! user name is the time of expiry, the password an HMAC-SHA1 over it under the shared secret.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use peerloom_registry_protocol::http::{IceAnswer, IceServer};

use crate::IceConfig;

/// The servers, with credentials that begin to count now.
pub(crate) fn servers(config: &IceConfig, now_ms: u64) -> IceAnswer {
    let mut servers = Vec::new();
    if !config.stun.is_empty() {
        servers.push(IceServer { urls: config.stun.clone(), username: None, credential: None });
    }
    if !config.turn.is_empty() {
        let username = (now_ms / 1000 + config.ttl.as_secs()).to_string();
        let (username, credential) = match &config.turn_secret {
            Some(secret) => {
                let credential = credential(secret, &username);
                (Some(username), Some(credential))
            }
            None => (None, None),
        };
        servers.push(IceServer { urls: config.turn.clone(), username, credential });
    }
    IceAnswer { ice_servers: servers, ttl_seconds: config.ttl.as_secs() }
}

fn credential(secret: &str, username: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    BASE64.encode(hmac::sign(&key, username.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with `printf 1735689600 | openssl dgst -sha1 -hmac north -binary | base64`.
    #[test]
    fn credentials_are_what_openssl_computes() {
        assert_eq!(credential("north", "1735689600"), "vK3VkdJkUwA4MxbPUZFTbu9UJhk=");
    }
}
