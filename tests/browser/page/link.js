// What is said in the data channels of a link: the browser's side of transports/webrtc/src/message.rs.

const OPEN = 1, FRAME = 2, MORE = 3, CREDIT = 4, END = 5, STOP = 6, DONE = 7, PING = 8, PONG = 9;
export const CONTROL = 1, CHAT = 2;

export const LABEL = "peerloom";
// Longest message, what each counts for beside its bytes, and how much may be on the way in a channel.
const LONGEST = 60 * 1024;
const OVERHEAD = 32;
// The window that every channel begins with, and what this side gives beyond at once: a frame must fit.
const WINDOW = 128 * 1024;
const MORE_WINDOW = 128 * 1024;
// What may wait in the browser's own buffer.
const AHEAD = 1024 * 1024;

// A message: its kind, a number of so many bytes if it has one, and the rest.
function message(kind, number, bytes, rest = new Uint8Array()) {
  const out = new Uint8Array(1 + bytes + rest.length);
  out[0] = kind;
  if (bytes === 1) out[1] = number;
  if (bytes === 4) new DataView(out.buffer).setUint32(1, number);
  out.set(rest, 1 + bytes);
  return out;
}

// Things that come one after the other, for whoever waits for them.
export class Queue {
  constructor() {
    this.items = [];
    this.waiting = [];
  }
  push(item) {
    const first = this.waiting.shift();
    first ? first(item) : this.items.push(item);
  }
  next() {
    return this.items.length > 0 ? Promise.resolve(this.items.shift()) : new Promise((w) => this.waiting.push(w));
  }
}

// One data channel. It carries one channel after another; whoever made it opens them.
export class Lane {
  constructor(dataChannel, channels) {
    this.dataChannel = dataChannel;
    this.channels = channels; // Queue of channels that the other side opens.
    this.channel = null;
    dataChannel.binaryType = "arraybuffer";
    dataChannel.onmessage = ({ data }) => this.take(new Uint8Array(data));
    this.opened = new Promise((done) => {
      dataChannel.readyState === "open" ? done() : dataChannel.addEventListener("open", () => done());
    });
    this.closed = new Promise((done) => dataChannel.addEventListener("close", () => done()));
  }

  open(kind) {
    if (this.channel && !this.channel.isOver()) throw new Error("the lane carries another channel");
    this.say(message(OPEN, kind, 1));
    this.channel = new Channel(this, kind);
    return this.channel;
  }

  say(bytes) {
    this.dataChannel.send(bytes);
  }

  take(bytes) {
    const view = new DataView(bytes.buffer);
    const channel = this.channel;
    switch (bytes[0]) {
      case OPEN:
        this.channel = new Channel(this, bytes[1]);
        return this.channels.push(this.channel);
      case FRAME:
        return channel.onPart(bytes.subarray(5), view.getUint32(1));
      case MORE:
        return channel.onPart(bytes.subarray(1));
      case CREDIT:
        return channel.onCredit(view.getUint32(1));
      case END:
        return channel.onEnd();
      case STOP:
        return channel.end();
      case DONE:
        return channel.onDone();
      case PING: {
        const answer = bytes.slice();
        answer[0] = PONG;
        return this.say(answer);
      }
    }
  }
}

export class Channel {
  constructor(lane, kind) {
    Object.assign(this, { lane, kind, credit: WINDOW, taken: 0 });
    lane.say(message(CREDIT, MORE_WINDOW, 4));
    this.frames = new Queue();
    this.roomMade = () => {};
    this.partial = null;
    this.ourEnd = this.theirEnd = this.ourDone = this.theirDone = false;
    this.over = new Promise((done) => (this.onOver = done));
  }

  isOver() {
    return this.ourDone && this.theirDone;
  }

  // Sends a frame, once there is room for it on both sides.
  async send(frame) {
    let first = true;
    for (let at = 0; first || at < frame.length; ) {
      const part = frame.subarray(at, at + LONGEST - 8);
      while (this.credit < part.length + OVERHEAD) await new Promise((done) => (this.roomMade = done));
      this.credit -= part.length + OVERHEAD;
      await this.drained();
      this.lane.say(first ? message(FRAME, frame.length, 4, part) : message(MORE, 0, 0, part));
      at += part.length;
      first = false;
    }
  }

  async drained() {
    const { dataChannel } = this.lane;
    if (dataChannel.bufferedAmount < AHEAD) return;
    dataChannel.bufferedAmountLowThreshold = AHEAD / 2;
    await new Promise((done) => dataChannel.addEventListener("bufferedamountlow", () => done(), { once: true }));
  }

  onCredit(bytes) {
    this.credit += bytes;
    this.roomMade();
  }

  onPart(part, total) {
    if (total !== undefined) this.partial = { total, parts: [], length: 0, cost: 0 };
    const { partial } = this;
    partial.parts.push(part);
    partial.length += part.length;
    partial.cost += part.length + OVERHEAD;
    if (partial.length < partial.total) return;
    const frame = new Uint8Array(partial.total);
    let at = 0;
    for (const piece of partial.parts) {
      frame.set(piece, at);
      at += piece.length;
    }
    this.partial = null;
    this.frames.push({ frame, cost: partial.cost });
  }

  // The next frame; null when the other side has sent its last.
  async receive() {
    const next = await this.frames.next();
    if (next === null) return null;
    this.taken += next.cost;
    if (this.taken >= WINDOW / 4 && !this.theirEnd) {
      this.lane.say(message(CREDIT, this.taken, 4));
      this.taken = 0;
    }
    return next.frame;
  }

  // We send no more frames.
  end() {
    if (this.ourEnd) return;
    this.ourEnd = true;
    this.lane.say(message(END, 0, 0));
    this.check();
  }

  onEnd() {
    this.theirEnd = true;
    this.frames.push(null);
    this.check();
  }

  onDone() {
    this.theirDone = true;
    this.check();
  }

  check() {
    if (this.ourEnd && this.theirEnd && !this.ourDone) {
      this.ourDone = true;
      this.lane.say(message(DONE, 0, 0));
    }
    if (this.isOver()) this.onOver();
  }
}
