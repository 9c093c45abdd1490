//! Whether an announcement is what it claims to be.

use std::net::IpAddr;

use axum::http::StatusCode;
use bytes::Bytes;
use peerloom_core::networks::networks;
use peerloom_core::wire::{
    Address, DecodeError, DeviceCertificate, DeviceId, NetworkId, PeerRecord, PublicKey, Signed, limits,
};
use peerloom_crypto_primitives::verify;
use peerloom_registry_protocol::proof::Work;
use peerloom_registry_protocol::{code, limits as protocol_limits};

use crate::error::ApiError;
use crate::now_ms;
use crate::state::State;
use crate::store::{Announcement, Outcome};

/// What a client says of a device.
pub(crate) struct Claim<'a> {
    pub(crate) network: NetworkId,
    pub(crate) device: DeviceId,
    pub(crate) record: &'a Signed,
    pub(crate) capabilities: Option<u64>,
    pub(crate) signal_address: Option<&'a str>,
    pub(crate) work: Option<u64>,
    pub(crate) coordinators: &'a [DeviceId],
}

impl State {
    /// Checks everything about a claim but whether a newer record is known; cheap checks come first. Says
    /// what to store, and the device's key.
    pub(crate) fn examine(&self, claim: &Claim<'_>) -> Result<(Announcement, PublicKey), ApiError> {
        let refuse = |status, code, message: &str| Err(ApiError::new(status, code, message));
        let bits = self.config.work_bits;
        if bits > 0 && !claim.work.is_some_and(|number| Work::new(claim.record, bits).is_done_by(number)) {
            let message = format!("an announcement needs a proof of work with {bits} leading zero bits");
            let error = ApiError::new(StatusCode::PRECONDITION_REQUIRED, code::WORK_REQUIRED, message);
            return Err(error.work_bits(bits));
        }
        let bad = |e: DecodeError| ApiError::new(StatusCode::BAD_REQUEST, code::BAD_RECORD, e.to_string());
        let (record, certificate) = self.verifier.open(claim.record).map_err(bad)?;
        if record.network != claim.network {
            let message = "the record belongs to another network; announce it there";
            return refuse(StatusCode::BAD_REQUEST, code::FOREIGN_NETWORK, message);
        }
        if certificate.device != claim.device {
            return refuse(StatusCode::BAD_REQUEST, code::BAD_RECORD, "the record belongs to another device");
        }
        if claim.capabilities.is_some_and(|claimed| claimed != record.capabilities) {
            return refuse(StatusCode::BAD_REQUEST, code::BAD_RECORD, "the capabilities are not the record's");
        }
        let now_ms = now_ms();
        if record.expires_at_ms <= now_ms {
            let message = "the record has expired; sign a new one, and check the device's clock";
            return refuse(StatusCode::BAD_REQUEST, code::EXPIRED, message);
        }
        self.address_policy.check_all(&record.addresses)?;
        if let Some(text) = claim.signal_address {
            let malformed = |e: DecodeError| ApiError::malformed(format!("signalAddress: {e}"));
            let address: Address = text.parse().map_err(malformed)?;
            self.address_policy.check(&address)?;
        }
        let announcement = Announcement {
            network: claim.network,
            device: claim.device,
            user: certificate.user,
            sequence: record.sequence,
            record: claim.record.encode().into(),
            signal_address: claim.signal_address.map(str::to_owned),
            capabilities: record.capabilities,
            expires_ms: record.expires_at_ms,
            now_ms,
            fresh: false,
            add: false,
            coordinators: claim.coordinators.to_vec(),
        };
        Ok((announcement, certificate.device_key))
    }

    /// The certificate of a device that announced itself. Its signatures were checked then.
    pub(crate) async fn certificate(
        &self,
        network: NetworkId,
        device: DeviceId,
        now_ms: u64,
    ) -> Result<DeviceCertificate, ApiError> {
        let unknown = || ApiError::not_found("this device is not known in this network; announce it first");
        let known = self.store.device(network, device, now_ms).await?.ok_or_else(unknown)?;
        let signed = Signed::decode(Bytes::from(known.record), limits::RECORD);
        let opened = signed.and_then(|signed| PeerRecord::open(&signed, |_, _, _| true));
        opened.map(|(_, certificate)| certificate).map_err(|_| unknown())
    }

    /// Refuses what a device says it signed at a time far from now.
    pub(crate) fn check_time(&self, at_ms: u64, now_ms: u64) -> Result<(), ApiError> {
        if at_ms.abs_diff(now_ms) > protocol_limits::HEARTBEAT_SKEW_MS {
            let message = "atMs is too far from the registry's clock (see the Date header); set the device's clock";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, code::CLOCK_SKEW, message));
        }
        Ok(())
    }

    /// Refuses what a device didn't sign for one of this registry's names: `input(name)` is what it has to sign.
    pub(crate) fn check_signature(
        &self,
        certificate: &DeviceCertificate,
        signature: &[u8],
        input: impl Fn(&str) -> Vec<u8>,
    ) -> Result<(), ApiError> {
        if !self.names().iter().any(|name| verify(&certificate.device_key, &input(name), signature)) {
            let message = "the signature is not the device's over these values and this registry's name";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, code::BAD_SIGNATURE, message));
        }
        Ok(())
    }

    /// Takes one from the device's rate for what only it can have made.
    pub(crate) fn charge(&self, announcement: &Announcement) -> Result<(), ApiError> {
        if announcement.fresh || !self.sequences.may_be_replay(announcement) {
            self.by_device.check(&announcement.device).map_err(ApiError::rate_limited)?;
        }
        Ok(())
    }

    /// Stores what was examined; says whether anything changed. An unknown device is taken from the budget
    /// of the address that it comes from.
    pub(crate) async fn announce(
        &self,
        mut announcement: Announcement,
        from: Option<IpAddr>,
    ) -> Result<bool, ApiError> {
        let (network, device) = (announcement.network, announcement.device);
        let mut outcome = self.store.announce(announcement.clone()).await?;
        if outcome == Outcome::Unknown {
            if let Some(from) = from {
                self.newcomers.check_all(&networks(from)).map_err(|wait| {
                    self.metrics.refuse("new devices");
                    ApiError::rate_limited(wait)
                })?;
            }
            announcement.add = true;
            outcome = self.store.announce(announcement).await?;
        }
        tracing::debug!(?network, ?device, ?outcome, "announced");
        match outcome {
            Outcome::Stored => {
                self.metrics.announce("stored");
                Ok(true)
            }
            Outcome::Same => {
                self.metrics.announce("same");
                Ok(false)
            }
            Outcome::Outdated => {
                self.metrics.announce("outdated");
                let message = "a newer record of the device is known; announce one with a higher sequence";
                Err(ApiError::new(StatusCode::CONFLICT, code::OUTDATED, message))
            }
            // `Unknown` is no answer to one that may be added.
            Outcome::Full | Outcome::Unknown => {
                self.metrics.announce("full");
                Err(ApiError::overloaded("the registry has as many devices as it takes; try another one"))
            }
        }
    }
}
