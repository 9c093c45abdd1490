//! Private networks and their tokens.

use std::collections::{BTreeMap, HashMap};

use axum::http::{HeaderMap, StatusCode, header};
use peerloom_core::wire::NetworkId;
use peerloom_crypto_primitives::{constant_time_eq, sha256};
use peerloom_registry_protocol::code;

use crate::error::ApiError;

/// Which networks are served, and to whom.
pub(crate) struct Access {
    /// Hashes of tokens: comparing those tells nothing about a token's length.
    tokens: HashMap<NetworkId, [u8; 32]>,
    only_listed: bool,
}

impl Access {
    pub(crate) fn new(networks: &BTreeMap<String, String>, only_listed: bool) -> Self {
        let id = |name: &str| name.parse().unwrap_or_else(|_| NetworkId::from_name(name));
        let tokens = networks.iter().map(|(name, token)| (id(name), sha256(&[token.as_bytes()]))).collect();
        Self { tokens, only_listed }
    }

    /// Whether somebody with this token may use the network.
    pub(crate) fn check(&self, network: &NetworkId, token: Option<&str>) -> Result<(), ApiError> {
        match self.tokens.get(network) {
            Some(wanted) => {
                let given = sha256(&[token.unwrap_or_default().as_bytes()]);
                if token.is_some() && constant_time_eq(wanted, &given) {
                    return Ok(());
                }
                let message = "the network is private: send its token, which its operator gives out";
                Err(ApiError::new(StatusCode::UNAUTHORIZED, code::TOKEN_REQUIRED, message))
            }
            None if self.only_listed => {
                let message = "this registry serves chosen networks only; use another registry or ask its operator";
                Err(ApiError::new(StatusCode::FORBIDDEN, code::NETWORK_REFUSED, message))
            }
            None => Ok(()),
        }
    }

    /// The same for a call over HTTP.
    pub(crate) fn check_headers(&self, network: &NetworkId, headers: &HeaderMap) -> Result<(), ApiError> {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        self.check(network, value.and_then(|value| value.strip_prefix("Bearer ")))
    }
}
