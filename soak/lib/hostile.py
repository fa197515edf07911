"""Clients that mean harm, and a wire that is slow. What they have done goes to standard output as JSON.

usage: hostile.py delay  HOST:PORT MS               a proxy on a free port, which it says first; each chunk waits that long, either way
       hostile.py loris  HOST:PORT SECONDS COUNT    connections that send a byte now and then and never end a line
       hostile.py deaf   HOST:PORT SECONDS COUNT    sessions that send and never read
       hostile.py bomb   HOST:PORT SECONDS COUNT    gzip that unpacks to a thousand times its size
       hostile.py garble HOST:PORT SECONDS COUNT    gzip with a wrong checksum
       hostile.py storm  HOST:PORT SECONDS COUNT    so many connections at once, again and again
       hostile.py reset  HOST:PORT SECONDS COUNT    connections that are reset at every stage of their life
       hostile.py gone   HOST:PORT SECONDS COUNT    connections at every stage of their life, which then say nothing

Everything but the proxy, which ends by a signal, ends after that many seconds, or by SIGTERM, with what there is.
"""

import asyncio
import collections
import gzip
import itertools
import json
import os
import signal
import socket
import struct
import sys
import time

RECORD = b'{"level":"info","message":"from one who means harm"}\n'
done = collections.Counter()


class Client:
    """A connection; what the server says is read only where it is asked for."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.setblocking(False)

    async def __aenter__(self):
        await asyncio.get_running_loop().sock_connect(self.socket, target)
        done["made"] += 1
        return self

    async def __aexit__(self, *_):
        self.socket.close()

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def told(self):
        """Everything that the server says until it ends the connection."""
        said = b""
        while data := await asyncio.get_running_loop().sock_recv(self.socket, 65536):
            said = (said + data)[-4096:]
        return said

    def abort(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        done["reset"] += 1


def hello(at):
    """A session that is nobody else's."""
    name = f"harm/{os.getpid()}/{at}"
    return json.dumps({"$hello": {"v": 1, "producer": name}}, separators=(",", ":")).encode() + b"\n"


def stages(at):
    """How far a connection may have got: nothing, half a hello, half a line, half a member, a line that is owed an answer."""
    member = gzip.compress(RECORD)
    return [b"", b'{"$hel', RECORD[:20], member[:15], RECORD, hello(at), hello(at) + RECORD * 50][at % 7]


async def delay(ms):
    async def carry(reader, writer):
        line = asyncio.Queue(64)

        async def hand_on():
            while True:
                due, data = await line.get()
                await asyncio.sleep(max(0, due - time.monotonic()))
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
                done["chunks"] += 1

        handing = asyncio.create_task(hand_on())
        while True:
            data = await reader.read(65536)
            await line.put((time.monotonic() + ms / 1000, data))
            if not data:
                return await handing

    async def taken(reader, writer):
        done["made"] += 1
        try:
            onward = await asyncio.open_connection(*target)
            await asyncio.gather(carry(reader, onward[1]), carry(onward[0], writer), return_exceptions=True)
            onward[1].close()
        finally:
            writer.close()

    listener = await asyncio.start_server(taken, "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


async def loris(at):
    async with Client() as client:
        for byte in itertools.cycle(b'{"level":"info","message":"a'):
            await client.send(bytes([byte]))
            await asyncio.sleep(0.2)


async def deaf(at):
    async with Client() as client:
        await client.send(hello(at))
        # Answers that nobody takes: each ping is owed one.
        pings = b"".join(b'{"$ping":%d}\n' % number for number in range(2000))
        while True:
            await client.send(pings)
            done["bytes"] += len(pings)


async def bomb(at):
    async with Client() as client:
        try:
            await client.send(BOMB)
        except ConnectionError:
            # It has been told already.
            pass
        said = await client.told()
        done["gzip_ratio"] += b'"gzip_ratio"' in said
    await asyncio.sleep(0.2)


async def garble(at):
    async with Client() as client:
        member = bytearray(gzip.compress(RECORD * 10))
        member[-6] ^= 1
        await client.send(bytes(member))
        said = await client.told()
        done["gzip_corrupt"] += b'"gzip_corrupt"' in said
    await asyncio.sleep(0.1)


async def storm(at):
    async with Client() as client:
        said = await client.told()
        done["refused"] += b'"too_many_connections"' in said
    await asyncio.sleep(0.05)


async def reset(at):
    async with Client() as client:
        await client.send(stages(next(serial)))
        if at % 2:
            await asyncio.sleep(0.01)
        client.abort()
    await asyncio.sleep(0.005)


async def gone(at):
    async with Client() as client:
        await client.send(stages(at))
        await asyncio.Event().wait()


async def over_and_over(deed, at):
    while True:
        try:
            await deed(at)
        except OSError as error:
            # What a server does to those who harm it.
            done["broken" if isinstance(error, ConnectionError) else type(error).__name__] += 1
            await asyncio.sleep(0.05)


async def main(deed, seconds, count):
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    tasks = [asyncio.create_task(over_and_over(deed, at)) for at in range(count)]
    try:
        await asyncio.wait_for(end.wait(), seconds)
    except asyncio.TimeoutError:
        pass
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


BOMB = b""
serial = itertools.count()
deeds = {each.__name__: each for each in (loris, deaf, bomb, garble, storm, reset, gone)}
host, port = sys.argv[2].rsplit(":", 1)
target = (host, int(port))
if sys.argv[1] == "delay":
    asyncio.run(delay(float(sys.argv[3])))
deed = deeds[sys.argv[1]]
if deed is bomb:
    BOMB = gzip.compress(b'{"level":"info","message":"' + bytes(64 << 20), 9)
asyncio.run(main(deed, float(sys.argv[3]), int(sys.argv[4])))
json.dump({"made": 0} | done, sys.stdout)
