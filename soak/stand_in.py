#!/usr/bin/env python3
"""A server that keeps what plain mode promises, and breaks it on request: what gates have to notice.

It takes the flags that the bench gives a server, ignores what it does not know, and one of its own: --plant FAULT, of
slowdown, loss, duplicate, leak, panic, stall, thread, descriptor, memory, restart. `cat DIR` prints what was stored, and
--print-config says what it needs, as the real server does.
"""

import argparse
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time

OK = b'{"status":"ok","message":"received"}\n'
LEAK_PER_TURN = 256 << 10
# Enough turns that sooner is the start, and few enough that a short run has them.
PLANT_AT = 50
# As the real server would say it, and what that comes to.
THREADS, DESCRIPTORS = 7, 18
DESIGN = {
    "backend": "epoll",
    "shards": 1,
    "udp": None,
    "otlp_endpoint": None,
    "memory_bytes": {"base": 64 << 20, "per_shard": 0, "per_encoded_connection": 1 << 20},
}


def main():
    if sys.argv[1:2] == ["cat"]:
        with open(os.path.join(sys.argv[2], "stored"), "rb") as stored:
            sys.stdout.buffer.write(stored.read())
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("--log-dir")
    parser.add_argument("--ready-file")
    parser.add_argument("--plant", default="nothing")
    parser.add_argument("--design", action="store_true", help="threads and descriptors as the real server has them")
    parser.add_argument("--fd", type=int)
    parser.add_argument("--print-config", action="store_true")
    args, _ = parser.parse_known_args()
    if args.print_config:
        if args.design:
            print(json.dumps(DESIGN))
        return 0 if args.design else 1
    listener = socket.create_server(("127.0.0.1", 0), backlog=512) if args.fd is None else socket.socket(fileno=args.fd)
    if args.plant == "restart" and args.fd is None:
        return supervise(listener)
    return serve(args, listener)


def supervise(listener):
    """What a service manager does: it holds the socket, and starts a server again that has ended, without a word."""
    ending, children = [], []

    def end(*_):
        ending.append(True)
        children[-1].terminate()

    signal.signal(signal.SIGTERM, end)
    while not ending:
        command = [sys.executable, __file__, *sys.argv[1:], "--fd", str(listener.fileno())]
        children.append(subprocess.Popen(command, pass_fds=[listener.fileno()]))
        children[-1].wait()
    return 0


def fill_up():
    """Threads and descriptors that do nothing, until there are as many as there have to be."""
    kept = []
    for _ in range(THREADS - 1):
        threading.Thread(target=time.sleep, args=(86400,), daemon=True).start()
    # What it was born with is on top: it has opened the listener, the file and the poller.
    while len(kept) < DESCRIPTORS - 3 - 3:
        kept.append(open("/dev/null"))
    return kept


def serve(args, listener):
    os.makedirs(args.log_dir, exist_ok=True)
    stored = open(os.path.join(args.log_dir, "stored"), "ab")
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    listener.setblocking(False)
    polled = selectors.DefaultSelector()
    polled.register(listener, selectors.EVENT_READ)
    kept = fill_up() if args.design else []
    with open(args.ready_file + ".new", "w") as ready:
        ready.write(f"127.0.0.1:{listener.getsockname()[1]} {os.getpid()}\n")
    os.rename(args.ready_file + ".new", args.ready_file)
    rests, leaked, turns, lines = {}, kept, 0, 0
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
            if args.plant == "stall" and turns == PLANT_AT:
                time.sleep(1.0)
            if args.plant == "thread" and turns == PLANT_AT:
                threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
            if args.plant == "descriptor":
                leaked.append(open("/dev/null"))
            if args.plant == "memory" and turns == PLANT_AT:
                leaked.append(os.urandom(256 << 20))
            if args.plant == "restart" and turns == PLANT_AT:
                os._exit(1)
            if args.plant == "panic" and turns == PLANT_AT:
                print("thread 'shard-0' panicked: planted", file=sys.stderr, flush=True)
                os._exit(101)
            for line in whole:
                lines += 1
                if args.plant != "loss" or lines != 77:
                    stored.write(line + b"\n")
                if args.plant == "duplicate" and lines == 77:
                    stored.write(line + b"\n")
            stored.flush()
            peer.setblocking(True)
            peer.sendall(OK * len(whole))
    stored.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
