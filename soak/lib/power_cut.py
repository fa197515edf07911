"""What a disk holds after the power was cut, if it forgets every write that it was not told to flush.

usage: power_cut.py LOG DISK

LOG is a log of writes as QEMU's blklogwrites keeps it (that of dm-log-writes), DISK an image as it was before the first
of them. Writes up to the last flush are made there, later ones are not. Figures go to standard output as JSON.
"""

import json
import struct
import sys

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4


def entries(log):
    """Each write or flush, as flags, place and data."""
    magic, version, _, sector = struct.unpack("<QQQI", log.read(28))
    if (magic, version) != (MAGIC, 1):
        sys.exit(f"{log.name} is no log of writes")
    at = sector
    while True:
        log.seek(at)
        head = log.read(32)
        # How many there are is written now and then: what lies behind the last one was never written.
        if len(head) < 32 or not any(head):
            return
        place, count, flags, length = struct.unpack("<QQQQ", head)
        at += sector
        data = b""
        if not flags & DISCARD:
            log.seek(at)
            data = log.read(count * sector)
            at += count * sector
        yield flags, place * sector, data


def main(log_path, disk_path):
    with open(log_path, "rb") as log:
        made = list(entries(log))
    last = max((at for at, entry in enumerate(made) if entry[0] & FLUSH), default=-1)
    figures = {"writes": 0, "flushes": 0, "forgotten": 0}
    with open(disk_path, "r+b") as disk:
        for at, (flags, place, data) in enumerate(made):
            figures["flushes"] += bool(flags & FLUSH)
            if not data:
                continue
            figures["writes"] += 1
            if at > last and not flags & FUA:
                figures["forgotten"] += 1
                continue
            disk.seek(place)
            disk.write(data)
    json.dump(figures, sys.stdout)


main(*sys.argv[1:])
