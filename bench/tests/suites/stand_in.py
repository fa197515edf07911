#!/usr/bin/env python3
"""A server that keeps what plain mode promises, and breaks it on request: what gates have to notice.

It takes the flags that the bench gives a server, ignores what it does not know, and one of its own: --plant FAULT, of
slowdown, loss, leak, panic, stall. `cat DIR` prints what was stored, as the real server does.
"""

import argparse
import os
import selectors
import signal
import socket
import sys
import time

OK = b'{"status":"ok","message":"received"}\n'
LEAK_PER_TURN = 256 << 10


def main():
    if sys.argv[1:2] == ["cat"]:
        with open(os.path.join(sys.argv[2], "stored"), "rb") as stored:
            sys.stdout.buffer.write(stored.read())
        return 0
    if "--print-config" in sys.argv:
        return 1
    parser = argparse.ArgumentParser()
    parser.add_argument("--log-dir")
    parser.add_argument("--ready-file")
    parser.add_argument("--plant", default="nothing")
    args, _ = parser.parse_known_args()
    return serve(args)


def serve(args):
    os.makedirs(args.log_dir)
    stored = open(os.path.join(args.log_dir, "stored"), "wb")
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.setblocking(False)
    polled = selectors.DefaultSelector()
    polled.register(listener, selectors.EVENT_READ)
    with open(args.ready_file + ".new", "w") as ready:
        ready.write(f"127.0.0.1:{listener.getsockname()[1]} {os.getpid()}\n")
    os.rename(args.ready_file + ".new", args.ready_file)
    rests, leaked, turns, lines = {}, [], 0, 0
    while not ending:
        for key, _ in polled.select(timeout=0.05):
            if key.fileobj is listener:
                peer, _ = listener.accept()
                rests[peer] = b""
                polled.register(peer, selectors.EVENT_READ)
                continue
            peer = key.fileobj
            chunk = peer.recv(1 << 16)
            if not chunk:
                polled.unregister(peer)
                peer.close()
                continue
            *whole, rests[peer] = (rests[peer] + chunk).split(b"\n")
            if not whole:
                continue
            turns += 1
            if args.plant == "slowdown":
                time.sleep(0.05)
            if args.plant == "leak":
                leaked.append(os.urandom(LEAK_PER_TURN))
            if args.plant == "stall" and turns == 50:
                time.sleep(1.0)
            if args.plant == "panic" and turns == 50:
                print("thread 'shard-0' panicked: planted", file=sys.stderr, flush=True)
                os._exit(101)
            for line in whole:
                lines += 1
                if args.plant != "loss" or lines != 77:
                    stored.write(line + b"\n")
            stored.flush()
            peer.setblocking(True)
            peer.sendall(OK * len(whole))
    stored.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
