//! What is stored of a key package that was given out.

use bytes::Bytes;

use super::Record;
use crate::{ConversationId, DecodeError, DeviceId, SuiteId, pb};

/// A key package of this device that others may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenKeyPackage {
    /// The suite it is of.
    pub suite: SuiteId,
    /// The package, as the suite encodes it.
    pub package: Bytes,
    /// When it and its keys are deleted, used or not, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
    /// The device that holds it, and for which conversation; `None` for the last resort, which any number may hold.
    pub holder: Option<(DeviceId, ConversationId)>,
}

impl Record for GivenKeyPackage {
    const NAME: &'static str = "given key package";
    type Pb = pb::StoredKeyPackage;

    fn to_pb(&self) -> Self::Pb {
        pb::StoredKeyPackage {
            suite: self.suite.0.into(),
            package: self.package.clone(),
            expires_at_ms: self.expires_at_ms,
            device: self.holder.map(|(device, _)| device.encode()).unwrap_or_default(),
            conversation: self.holder.map(|(_, conversation)| conversation.encode()).unwrap_or_default(),
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let pb::StoredKeyPackage { suite, package, expires_at_ms, device, conversation } = pb;
        let holder = match device.is_empty() && conversation.is_empty() {
            true => None,
            false => Some((DeviceId::decode(&device)?, ConversationId::decode(&conversation)?)),
        };
        Ok(Self { suite: SuiteId::decode(suite)?, package, expires_at_ms, holder })
    }
}
