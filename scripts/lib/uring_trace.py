"""Reads what scripts/uring-trace has bpftrace count, and prints it per second and, where both counts are given, per record."""

import errno
import re
import sys

said, seconds, before, after = sys.argv[1:]
records = int(after) - int(before) if before and after else None
NAMES = {"submitted": "submitted", "completed": "completed", "punted": "punted to kernel threads"}


def label(what, key):
    if what != "completed":
        return f"{NAMES[what]}: {key}"
    code = -int(key)
    return "completed: well" if code == 0 else f"completed: {errno.errorcode.get(code, code)}"


rows = []
for what, key, count in re.findall(r"^@(\w+)\[(.*)\]: (\d+)$", open(said).read(), re.M):
    rows.append((label(what, key), int(count)))
for what, count in re.findall(r"^@(enters|overflowed): (\d+)$", open(said).read(), re.M):
    rows.append(({"enters": "enters", "overflowed": "completions without room"}[what], int(count)))
if not rows:
    sys.exit("scripts/uring-trace: this process did nothing with a ring meanwhile")
print(f"{'':44}{'total':>12}{'per second':>12}{'per record':>12}")
for name, count in sorted(rows):
    each = f"{count / records:12.5f}" if records else f"{'-':>12}"
    print(f"{name:44}{count:12d}{count / float(seconds):12.0f}{each}")
