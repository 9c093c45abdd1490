"""Signed signals: what two devices send each other before they have a link (proto/wire/src/signal.rs)."""

import base64
import hashlib
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNAL = b"peerloom/v1/signal\0"
DEVICE_ID = b"peerloom/v1/device-id\0"
ED25519 = 1
# How long a signal is valid, and how far two clocks may differ, in milliseconds.
LIFETIME, SKEW = 60_000, 120_000


def id_to_bytes(text):
    """Ids are shown as base32 (RFC 4648) in lower case, without padding."""
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def of_bytes(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def of_number(field, value):
    return varint(field << 3) + varint(value)


def fields(data):
    """The fields of a Protocol Buffers message by their numbers."""
    at, found = 0, {}

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(data):
        key, value = number(), number()
        if key & 7:
            value, at = data[at : at + value], at + value
        found[key >> 3] = value
    return found


def device_of(key):
    return hashlib.sha256(DEVICE_ID + ED25519.to_bytes(2, "big") + key).digest()


class Signer:
    """Signs for one device, and opens what others signed for it."""

    def __init__(self, seed, network, to):
        self.secret, self.network, self.to = Ed25519PrivateKey.from_private_bytes(seed), network, to
        self.key = self.secret.public_key().public_bytes_raw()
        self.own, self.serial, self.heard = device_of(self.key), 0, set()

    def sign(self, session, body):
        self.serial += 1
        key = of_number(1, ED25519) + of_bytes(2, self.key)
        signal = of_bytes(1, self.network) + of_bytes(2, key) + of_bytes(3, self.to) + of_bytes(4, session)
        signal += of_number(5, self.serial) + of_number(6, int(time.time() * 1000) + LIFETIME) + of_bytes(7, body)
        return of_bytes(1, signal) + of_bytes(2, self.secret.sign(SIGNAL + signal))

    def open(self, data):
        """The session and the body; raises if anything in it is wrong."""
        signed = fields(data)
        signal = fields(signed[1])
        key, now = fields(signal[2])[2], time.time() * 1000
        assert signal[1] == self.network and signal[3] == self.own and device_of(key) == self.to, signal
        assert now - SKEW <= signal[6] <= now + LIFETIME + SKEW, signal
        Ed25519PublicKey.from_public_bytes(key).verify(signed[2], SIGNAL + signed[1])
        assert (signal[4], signal[5]) not in self.heard, signal
        self.heard.add((signal[4], signal[5]))
        return signal[4], signal[7]
