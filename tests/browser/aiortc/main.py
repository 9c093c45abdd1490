"""A program that meets a node: signals over the registry, a peer connection, frames both ways."""

import asyncio
import base64
import hashlib
import json
import re
import secrets
import sys
import traceback
import urllib.request

import aioice.ice
import websockets
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from link import CHAT, CONTROL, LABEL, Lane
from signing import Signer, id_to_bytes

# Loopback is all there need be; aioice leaves it out otherwise.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


def to_text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def to_bytes(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def call(path, body=None):
    """Asks the test."""

    def blocking():
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(sys.argv[1] + path, data) as answer:
            return json.load(answer)

    return await asyncio.to_thread(blocking)


async def report(event, **more):
    await call("report", {"event": event, **more})


class Signals:
    """A socket at the registry."""

    def __init__(self, task, socket):
        self.task, self.socket = task, socket
        self.signer = Signer(to_bytes(task["seed"]), id_to_bytes(task["network"]), id_to_bytes(task["other"]))

    async def greet(self):
        challenge = json.loads(await self.socket.recv())
        assert challenge["registry"] == self.task["registry"], challenge
        hello = await call("hello", {"nonce": challenge["nonce"], "registry": challenge["registry"]})
        await self.socket.send(json.dumps(hello))
        ready = json.loads(await self.socket.recv())
        assert ready["type"] == "ready", ready

    async def send(self, session, **body):
        payload = to_text(self.signer.sign(session, json.dumps(body).encode()))
        await self.socket.send(json.dumps({"type": "signal", "to": self.task["other"], "payload": payload}))

    async def next(self):
        while True:
            message = json.loads(await self.socket.recv())
            assert message["type"] == "signal", message
            if message["from"] == self.task["other"]:
                session, body = self.signer.open(to_bytes(message["payload"]))
                return {**json.loads(body), "session": session}


def frame(task, sender, number):
    """The content of a frame: who sends it and its number decide."""
    size = task["long"] if number == 0 else task["size"]
    # It repeats itself after 251 bytes.
    period = bytes((sender + number * 31 + at * 7) % 251 for at in range(251))
    return (period * (size // 251 + 1))[:size]


async def exchange(task, channel, numbers):
    """All frames both ways at the same time."""

    async def sending():
        for number in numbers:
            await channel.send(frame(task, task["guest"], number))
        channel.end()

    async def receiving():
        for number in numbers:
            assert await channel.receive() == frame(task, task["host"], number), f"frame {number} is not what was sent"
        assert await channel.receive() is None, "there are more frames than were sent"

    await asyncio.gather(sending(), receiving())
    await channel.over.wait()


def binding(task, connection):
    """SHA-256 over both certificates' fingerprints: what the handshake is bound to."""
    descriptions = [connection.localDescription, connection.remoteDescription]
    if task["role"] == "answer":
        descriptions.reverse()
    prints = [re.search("a=fingerprint:sha-256 ([0-9A-F:]+)", d.sdp, re.IGNORECASE)[1] for d in descriptions]
    both = b"".join(bytes.fromhex(print.replace(":", "")) for print in prints)
    return to_text(hashlib.sha256(to_bytes(task["context"]) + both).digest())


async def follow(signals, session, connection):
    """Takes candidates as they come."""
    while True:
        signal = await signals.next()
        if signal["session"] == session and signal["type"] == "candidate":
            candidate = candidate_from_sdp(signal["candidate"].removeprefix("candidate:"))
            candidate.sdpMid, candidate.sdpMLineIndex = "0", 0
            await connection.addIceCandidate(candidate)


async def meet(task, signals, connection):
    channels, lanes = asyncio.Queue(), asyncio.Queue()
    connection.on("datachannel", lambda made: lanes.put_nowait(Lane(made, channels)))
    early = []
    if task["role"] == "offer":
        session = secrets.token_bytes(16)
        lane = Lane(connection.createDataChannel(LABEL), channels)
        # It gathers all its candidates here.
        await connection.setLocalDescription(await connection.createOffer())
        await signals.send(session=session, type="offer", sdp=connection.localDescription.sdp)
        while (signal := await signals.next())["type"] != "answer":
            early.append(signal)
        assert signal["session"] == session, signal
        await connection.setRemoteDescription(RTCSessionDescription(signal["sdp"], "answer"))
    else:
        await report("ready")
        while (signal := await signals.next())["type"] != "offer":
            early.append(signal)
        session = signal["session"]
        await connection.setRemoteDescription(RTCSessionDescription(signal["sdp"], "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        await signals.send(session=session, type="answer", sdp=connection.localDescription.sdp)
        lane = None
    following = asyncio.create_task(follow(signals, session, connection))
    lane = lane or await lanes.get()
    await lane.opened.wait()
    await report("connected", binding=binding(task, connection))

    # Two channels, one after the other; in our own lane that is the same lane twice.
    for kind, numbers in [(CHAT, range(task["frames"])), (CONTROL, range(1, 3))]:
        channel = lane.open(kind) if task["role"] == "offer" else await channels.get()
        assert channel.kind == kind, channel.kind
        await exchange(task, channel, numbers)
    await report("exchanged")
    if not task["closes"]:
        await lane.closed.wait()
    following.cancel()


async def main():
    task = await call("task")
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        async with websockets.connect(f"ws://{task['registry']}/signal/{task['own']}", proxy=None) as socket:
            signals = Signals(task, socket)
            await signals.greet()
            await meet(task, signals, connection)
            await connection.close()
        await report("closed")
    except Exception:
        await report("failed", error=traceback.format_exc())


asyncio.run(main())
