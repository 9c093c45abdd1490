// Signed signals: what two devices send each other before they have a link (proto/wire/src/signal.rs).

const utf8 = (text) => new TextEncoder().encode(text);
const SIGNAL = utf8("peerloom/v1/signal\0");
const DEVICE_ID = utf8("peerloom/v1/device-id\0");
const ED25519 = 1;
// How long a signal is valid, and how far two clocks may differ, in milliseconds.
const LIFETIME = 60_000;
const SKEW = 120_000;

export const concat = (...parts) => Uint8Array.from(parts.flatMap((part) => [...part]));
const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);

// Ids are shown as base32 (RFC 4648) in lower case, without padding.
export function idToBytes(text) {
  const out = [];
  let [value, bits] = [0, 0];
  for (const char of text) {
    value = (value << 5) | "abcdefghijklmnopqrstuvwxyz234567".indexOf(char);
    bits += 5;
    if (bits >= 8) out.push((value >> (bits -= 8)) & 0xff);
    value &= (1 << bits) - 1;
  }
  return Uint8Array.from(out);
}

// Protocol Buffers: numbers, and fields of bytes.
function varint(number) {
  const out = [];
  for (; number > 0x7f; number = Math.floor(number / 128)) out.push((number % 128) | 0x80);
  return [...out, number];
}
const ofBytes = (field, bytes) => [(field << 3) | 2, ...varint(bytes.length), ...bytes];
const ofNumber = (field, number) => [field << 3, ...varint(number)];

// The fields of a message by their numbers.
function fields(bytes) {
  let at = 0;
  const number = () => {
    let [value, factor] = [0, 1];
    for (;;) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 128;
    }
  };
  const found = {};
  while (at < bytes.length) {
    const key = number();
    const value = number();
    found[key >> 3] = key & 7 ? bytes.subarray(at, (at += value)) : value;
  }
  return found;
}

const deviceOf = async (key) =>
  new Uint8Array(await crypto.subtle.digest("SHA-256", concat(DEVICE_ID, [ED25519 >> 8, ED25519 & 0xff], key)));

// Signs for one device, and opens what others signed for it.
export class Signer {
  // `seed` is the device's secret, `network` and `to` are ids as bytes.
  static async make(seed, network, to) {
    // An Ed25519 key as PKCS #8 (RFC 8410 §7).
    const der = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    const secret = await crypto.subtle.importKey("pkcs8", concat(der, seed), "Ed25519", true, ["sign"]);
    const jwk = await crypto.subtle.exportKey("jwk", secret);
    const key = Uint8Array.from(atob(jwk.x.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    return Object.assign(new Signer(), { secret, key, network, to, own: await deviceOf(key), serial: 0, heard: new Set() });
  }

  async sign(session, body) {
    const signal = concat(
      ofBytes(1, this.network),
      ofBytes(2, [...ofNumber(1, ED25519), ...ofBytes(2, this.key)]),
      ofBytes(3, this.to),
      ofBytes(4, session),
      ofNumber(5, ++this.serial),
      ofNumber(6, Date.now() + LIFETIME),
      ofBytes(7, body),
    );
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", this.secret, concat(SIGNAL, signal)));
    return concat(ofBytes(1, signal), ofBytes(2, signature));
  }

  // The session and the body; throws if anything in it is wrong.
  async open(bytes) {
    const { 1: signal, 2: signature } = fields(bytes);
    const { 1: network, 2: key, 3: to, 4: session, 5: serial, 6: expires, 7: body } = fields(signal);
    const theirs = fields(key)[2];
    const known = same(network, this.network) && same(to, this.own) && same(await deviceOf(theirs), this.to);
    const now = Date.now();
    if (!known || expires < now - SKEW || expires > now + LIFETIME + SKEW) throw new Error("a signal that isn't for us");
    const verifier = await crypto.subtle.importKey("raw", theirs, "Ed25519", false, ["verify"]);
    if (!(await crypto.subtle.verify("Ed25519", verifier, signature, concat(SIGNAL, signal)))) throw new Error("a forged signal");
    if (this.heard.has(`${session} ${serial}`)) throw new Error("a signal that came before");
    this.heard.add(`${session} ${serial}`);
    return { session, body };
  }
}
