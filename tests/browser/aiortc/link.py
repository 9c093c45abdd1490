"""What is said in the data channels of a link: transports/webrtc/src/message.rs for aiortc."""

import asyncio
import struct

OPEN, FRAME, MORE, CREDIT, END, STOP, DONE, PING, PONG = range(1, 10)
CONTROL, CHAT = 1, 2

LABEL = "peerloom"
# Longest message, what each counts for beside its bytes, and what may wait in aiortc's own buffer.
LONGEST = 60 * 1024
OVERHEAD = 32
AHEAD = 1024 * 1024
# The window that every channel begins with, and what this side gives beyond at once: a frame must fit.
WINDOW = MORE_WINDOW = 128 * 1024


class Lane:
    """One data channel. It carries one channel after another; whoever made it opens them."""

    def __init__(self, data_channel, channels):
        self.data_channel = data_channel
        self.channels = channels  # A queue of the channels that the other side opens.
        self.channel = None
        self.opened, self.closed, self.drained = asyncio.Event(), asyncio.Event(), asyncio.Event()
        data_channel.bufferedAmountLowThreshold = AHEAD // 2
        data_channel.on("message", self.take)
        data_channel.on("open", self.opened.set)
        data_channel.on("close", self.closed.set)
        data_channel.on("bufferedamountlow", self.drained.set)
        if data_channel.readyState == "open":
            self.opened.set()

    def open(self, kind):
        assert self.channel is None or self.channel.over.is_set(), "the lane carries another channel"
        self.say(bytes([OPEN, kind]))
        self.channel = Channel(self, kind)
        return self.channel

    def say(self, message):
        self.data_channel.send(message)

    def take(self, message):
        kind, rest = message[0], message[1:]
        if kind == OPEN:
            self.channel = Channel(self, rest[0])
            self.channels.put_nowait(self.channel)
        elif kind == FRAME:
            self.channel.on_frame(struct.unpack(">I", rest[:4])[0], rest[4:])
        elif kind == MORE:
            self.channel.on_part(rest)
        elif kind == CREDIT:
            self.channel.on_credit(struct.unpack(">I", rest)[0])
        elif kind == END:
            self.channel.on_end()
        elif kind == STOP:
            self.channel.end()
        elif kind == DONE:
            self.channel.on_done()
        elif kind == PING:
            self.say(bytes([PONG]) + rest)


class Channel:
    """Frames both ways, each side ending by itself."""

    def __init__(self, lane, kind):
        self.lane, self.kind = lane, kind
        self.credit, self.taken = WINDOW, 0
        lane.say(struct.pack(">BI", CREDIT, MORE_WINDOW))
        self.room = asyncio.Event()
        self.frames = asyncio.Queue()
        self.total, self.partial, self.cost = 0, bytearray(), 0
        self.our_end = self.their_end = self.our_done = self.their_done = False
        self.over = asyncio.Event()

    async def send(self, frame):
        """Sends a frame, once there is room for it on both sides."""
        parts = [frame[at : at + LONGEST - 8] for at in range(0, len(frame), LONGEST - 8)] or [b""]
        for number, part in enumerate(parts):
            while self.credit < len(part) + OVERHEAD:
                self.room.clear()
                await self.room.wait()
            self.credit -= len(part) + OVERHEAD
            while self.lane.data_channel.bufferedAmount >= AHEAD:
                self.lane.drained.clear()
                await self.lane.drained.wait()
            head = struct.pack(">BI", FRAME, len(frame)) if number == 0 else bytes([MORE])
            self.lane.say(head + part)

    def on_credit(self, count):
        self.credit += count
        self.room.set()

    def on_frame(self, total, part):
        self.total, self.partial, self.cost = total, bytearray(), 0
        self.on_part(part)

    def on_part(self, part):
        self.partial += part
        self.cost += len(part) + OVERHEAD
        if len(self.partial) == self.total:
            self.frames.put_nowait((bytes(self.partial), self.cost))

    async def receive(self):
        """The next frame; None when the other side has sent its last."""
        frame, cost = await self.frames.get()
        self.taken += cost
        if self.taken >= WINDOW // 4 and not self.their_end:
            self.lane.say(struct.pack(">BI", CREDIT, self.taken))
            self.taken = 0
        return frame

    def end(self):
        """We send no more frames."""
        if not self.our_end:
            self.our_end = True
            self.lane.say(bytes([END]))
            self.check()

    def on_end(self):
        self.their_end = True
        self.frames.put_nowait((None, 0))
        self.check()

    def on_done(self):
        self.their_done = True
        self.check()

    def check(self):
        if self.our_end and self.their_end and not self.our_done:
            self.our_done = True
            self.lane.say(bytes([DONE]))
        if self.our_done and self.their_done:
            self.over.set()
