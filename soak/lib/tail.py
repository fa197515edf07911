"""Whether what is missing of the lines that were acknowledged is missing at the end only, as JSON.

usage: tail.py LEDGER < RECORDS

Of each connection, the lines that are stored have to be the first ones of those that were acknowledged.
"""

import json
import sys


def main(path):
    with open(path, encoding="utf-8") as file:
        books = json.load(file)
    stored = {}
    for line in sys.stdin:
        run, worker, conn, seq, _ = json.loads(line)["id"].split("-")
        if run == books["run"]:
            stored.setdefault((int(worker), int(conn)), set()).add(int(seq))
    figures = {"acked": 0, "stored": 0, "missing": 0, "missing_within": 0, "connections": 0}
    for entry in books["connections"]:
        here = stored.get((entry["worker"], entry["conn"]), set())
        acked = {seq for low, high in entry["acked"] for seq in range(low, high + 1)}
        missing = acked - here
        last = max(here, default=0)
        figures["connections"] += 1
        figures["acked"] += len(acked)
        figures["stored"] += len(here)
        figures["missing"] += len(missing)
        figures["missing_within"] += sum(seq < last for seq in missing)
    json.dump(figures, sys.stdout)


main(sys.argv[1])
