//! A contact: a user that this node talks to, and what is known of the user's devices.

use bytes::Bytes;

use super::Record;
use crate::{Address, DecodeError, DeviceId, EncodedDeviceList, PublicKey, Signed, UserId, pb};

/// Someone this node talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The user.
    pub user: UserId,
    /// What this node calls them; unique among its contacts.
    pub alias: String,
    /// Their devices.
    pub devices: Vec<ContactDevice>,
    /// When they were added, in milliseconds since the Unix epoch.
    pub added_at_ms: u64,
    /// Token of the invitation that introduced them, until they have accepted us.
    pub token: Option<[u8; 16]>,
    /// What was shown of their devices beside the certificates: revocations, and perhaps a succession.
    pub list: Option<EncodedDeviceList>,
}

/// One device of a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactDevice {
    /// The device.
    pub device: DeviceId,
    /// Its certificate, verbatim, once it proved who it is.
    pub certificate: Option<Signed>,
    /// What an invitation said of it, until it sends its record.
    pub invited: Option<Invited>,
    /// Its newest record, verbatim.
    pub record: Option<Signed>,
    /// When a link to it was last up, in milliseconds since the Unix epoch; 0 = never.
    pub last_seen_ms: u64,
    /// Its own signed [`crate::Restored`], if it sent one, verbatim.
    pub restored: Option<Signed>,
}

/// What an invitation says of a device; nobody proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invited {
    /// Its key.
    pub key: PublicKey,
    /// Where it can be reached, best first.
    pub addresses: Vec<Address>,
}

impl Record for Contact {
    const NAME: &'static str = "contact";
    type Pb = pb::StoredContact;

    fn to_pb(&self) -> Self::Pb {
        let device = |d: &ContactDevice| pb::StoredDevice {
            device: d.device.encode(),
            certificate: d.certificate.as_ref().map(Signed::to_pb),
            invited_key: d.invited.as_ref().map(|invited| invited.key.to_pb()),
            invited_addresses: d.invited.iter().flat_map(|i| &i.addresses).map(Address::to_string).collect(),
            record: d.record.as_ref().map(Signed::to_pb),
            last_seen_ms: d.last_seen_ms,
            restored: d.restored.as_ref().map(Signed::to_pb),
        };
        pb::StoredContact {
            user: self.user.encode(),
            alias: self.alias.clone(),
            devices: self.devices.iter().map(device).collect(),
            added_at_ms: self.added_at_ms,
            token: self.token.map(|t| Bytes::copy_from_slice(&t)).unwrap_or_default(),
            list: self.list.as_ref().map(EncodedDeviceList::to_pb),
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let device = |d: pb::StoredDevice| {
            let addresses = d.invited_addresses.iter().map(|address| address.parse());
            let addresses = addresses.collect::<Result<_, DecodeError>>()?;
            let key = d.invited_key.map(|key| PublicKey::decode(Some(key))).transpose()?;
            Ok(ContactDevice {
                device: DeviceId::decode(&d.device)?,
                certificate: d.certificate.map(Signed::from_pb),
                invited: key.map(|key| Invited { key, addresses }),
                record: d.record.map(Signed::from_pb),
                last_seen_ms: d.last_seen_ms,
                restored: d.restored.map(Signed::from_pb),
            })
        };
        Ok(Self {
            user: UserId::decode(&pb.user)?,
            alias: pb.alias,
            devices: pb.devices.into_iter().map(device).collect::<Result<_, DecodeError>>()?,
            added_at_ms: pb.added_at_ms,
            token: pb.token.as_ref().try_into().ok(),
            list: pb.list.map(EncodedDeviceList::from_pb).transpose()?,
        })
    }
}
