//! How texts look in the OpenAPI document.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::limits;

/// An id: 32 bytes in base32 (RFC 4648) without padding, in either case.
pub struct Id;

/// A signed record: at most 900 bytes in base64url without padding.
pub struct Record;

/// A discovery item: at most 32 KiB in base64url without padding.
pub struct Item;

/// A signature: 64 bytes in base64url without padding.
pub struct Signature;

/// A signal address: `scheme://rest`.
pub struct SignalAddress;

fn text(pattern: &str, shortest: usize, longest: usize) -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
    text.min_length(Some(shortest)).max_length(Some(longest)).into()
}

impl PartialSchema for Id {
    fn schema() -> RefOr<Schema> {
        // The last character has one bit of the id.
        text("^[A-Za-z2-7]{51}[AaQq]$", 52, 52)
    }
}

impl PartialSchema for Record {
    fn schema() -> RefOr<Schema> {
        text("^[A-Za-z0-9_-]+$", 1, peerloom_wire::limits::RECORD.div_ceil(3) * 4)
    }
}

impl PartialSchema for Item {
    fn schema() -> RefOr<Schema> {
        text("^[A-Za-z0-9_-]+$", 1, peerloom_wire::limits::DISCOVERY_ITEM.div_ceil(3) * 4)
    }
}

impl PartialSchema for Signature {
    fn schema() -> RefOr<Schema> {
        // The last character has four bits of the signature.
        text("^[A-Za-z0-9_-]{85}[AQgw]$", 86, 86)
    }
}

impl PartialSchema for SignalAddress {
    fn schema() -> RefOr<Schema> {
        text("^[a-z][a-z0-9-]*://[!-~]+$", 1, limits::SIGNAL_ADDRESS)
    }
}

impl ToSchema for Id {}
impl ToSchema for Record {}
impl ToSchema for Item {}
impl ToSchema for Signature {}
impl ToSchema for SignalAddress {}
