// A page that meets a node: signals over the registry, a peer connection, frames both ways.

import { CHAT, CONTROL, LABEL, Lane, Queue } from "/link.js";
import { Signer, idToBytes } from "/signal.js";

async function call(path, body) {
  const answer = await fetch(path, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

const report = (event, more = {}) => call("/report", { event, ...more });

// Signals are signed objects around JSON, in base64url.
const toText = (bytes) => btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
const toBytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));

// Connects to the registry, and resolves once it is ready to carry.
async function signaling(task) {
  const signals = new Queue();
  const signer = await Signer.make(toBytes(task.seed), idToBytes(task.network), idToBytes(task.other));
  const socket = new WebSocket(`ws://${task.registry}/signal/${task.own}`);
  // Signing takes a moment; signals go out in the order in which they were made.
  let last = Promise.resolve();
  const send = ({ session, ...body }) => {
    const signed = signer.sign(toBytes(session), new TextEncoder().encode(JSON.stringify(body)));
    last = last.then(async () => socket.send(JSON.stringify({ type: "signal", to: task.other, payload: toText(await signed) })));
  };
  return new Promise((ready, failed) => {
    socket.onerror = () => failed(new Error("the registry can't be reached"));
    socket.onmessage = async ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "challenge") {
        if (message.registry !== task.registry) return failed(new Error("it is another registry"));
        socket.send(JSON.stringify(await call("/hello", { nonce: message.nonce, registry: message.registry })));
      } else if (message.type === "ready") {
        ready({ send, signals, close: () => socket.close() });
      } else if (message.type === "signal" && message.from === task.other) {
        signals.push(signer.open(toBytes(message.payload)));
      } else if (message.type !== "signal") {
        failed(new Error(data));
      }
    };
  });
}

// SHA-256 over both certificates' fingerprints: what the handshake is bound to.
async function binding(task, connection) {
  const print = (description) => {
    const hex = /a=fingerprint:sha-256 ([0-9A-F:]+)/i.exec(description.sdp)[1].split(":");
    return hex.map((byte) => parseInt(byte, 16));
  };
  const [ours, theirs] = [print(connection.localDescription), print(connection.remoteDescription)];
  const both = task.role === "offer" ? [...ours, ...theirs] : [...theirs, ...ours];
  const hash = await crypto.subtle.digest("SHA-256", Uint8Array.from([...toBytes(task.context), ...both]));
  return toText(new Uint8Array(hash));
}

// The content of a frame: who sends it and its number decide.
function frame(task, sender, number) {
  const bytes = new Uint8Array(number === 0 ? task.long : task.size);
  for (let at = 0; at < bytes.length; at++) bytes[at] = (sender + number * 31 + at * 7) % 251;
  return bytes;
}

function check(task, number, received) {
  const wanted = frame(task, task.host, number);
  const same = received !== null && received.length === wanted.length && received.every((b, at) => b === wanted[at]);
  if (!same) throw new Error(`frame ${number} is not what was sent`);
}

// All frames both ways at the same time.
async function exchange(task, channel, first, end) {
  const sending = async () => {
    for (let number = first; number < end; number++) await channel.send(frame(task, task.guest, number));
    channel.end();
  };
  const receiving = async () => {
    for (let number = first; number < end; number++) check(task, number, await channel.receive());
    if ((await channel.receive()) !== null) throw new Error("there are more frames than were sent");
  };
  await Promise.all([sending(), receiving()]);
}

async function main() {
  const task = await call("/task");
  const registry = await signaling(task);
  const connection = new RTCPeerConnection();
  const channels = new Queue();
  const lanes = new Queue();
  connection.ondatachannel = ({ channel }) => lanes.push(new Lane(channel, channels));

  let session = toText(crypto.getRandomValues(new Uint8Array(16)));
  const early = [];
  let addresses = 0;
  connection.onicecandidate = ({ candidate }) => {
    if (!candidate || candidate.candidate === "") return;
    if (!candidate.candidate.includes(".local ")) addresses += 1;
    const signal = { session, type: "candidate", candidate: candidate.candidate };
    connection.localDescription && connection.remoteDescription ? registry.send(signal) : early.push(signal);
  };
  const described = () => early.splice(0).forEach((signal) => registry.send({ ...signal, session }));

  const follow = async () => {
    for (;;) {
      const opened = await registry.signals.next();
      const signal = { ...JSON.parse(new TextDecoder().decode(opened.body)), session: toText(opened.session) };
      if (signal.type === "offer" && task.role === "answer" && !connection.remoteDescription) {
        session = signal.session;
        await connection.setRemoteDescription({ type: "offer", sdp: signal.sdp });
        await connection.setLocalDescription();
        registry.send({ session, type: "answer", sdp: connection.localDescription.sdp });
        described();
      } else if (signal.session !== session) {
        continue;
      } else if (signal.type === "answer") {
        await connection.setRemoteDescription({ type: "answer", sdp: signal.sdp });
        described();
      } else if (signal.type === "candidate") {
        await connection.addIceCandidate({ candidate: signal.candidate, sdpMid: "0", sdpMLineIndex: 0 });
      } else if (signal.type === "refused") {
        throw new Error(`refused: ${signal.reason}`);
      }
    }
  };
  const followed = follow();
  followed.catch((error) => report("failed", { error: String(error) }));

  let lane;
  if (task.role === "offer") {
    lane = new Lane(connection.createDataChannel(LABEL), channels);
    await connection.setLocalDescription();
    registry.send({ session, type: "offer", sdp: connection.localDescription.sdp });
  } else {
    await report("ready");
    lane = await lanes.next();
  }
  await lane.opened;
  await report("connected", { binding: await binding(task, connection), addresses });

  // Two channels, one after the other; in the page's own lane that is the same lane twice.
  for (const [kind, first, end] of [[CHAT, 0, task.frames], [CONTROL, 1, 3]]) {
    const channel = task.role === "offer" ? lane.open(kind) : await channels.next();
    if (channel.kind !== kind) throw new Error(`a channel of kind ${channel.kind}`);
    await exchange(task, channel, first, end);
    await channel.over;
  }
  await report("exchanged");

  if (task.closes) connection.close();
  else await lane.closed;
  registry.close();
  await report("closed");
}

main().catch((error) => report("failed", { error: `${error}\n${error.stack}` }));
