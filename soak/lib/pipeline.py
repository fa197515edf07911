"""What an analytical engine finds in segments, against what generators were promised, as JSON.

usage: pipeline.py LOGS TABLE.csv LOAD...

A LOAD is a directory with a generator's report and ledger. Identities are those that a generator writes in each line:
run, worker, connection, number, checksum. The table has a row for each run and worker.
"""

import json
import sys
import time

import duckdb

# Whoever reads a segment skips what describes it: those lines have no record's members.
STORED = """
create table stored as
select id, level, message,
       id[1:8] as run, try_cast(id[10:12] as int) as worker, try_cast(id[14:19] as int) as conn,
       try_cast(id[21:32] as bigint) as seq
from read_ndjson($files, columns = {'$seg': 'JSON', '$blk': 'JSON', '$end': 'JSON',
                                    id: 'VARCHAR', level: 'VARCHAR', message: 'JSON'})
where "$seg" is null and "$blk" is null and "$end" is null
"""

REFUSED = """
select count(*) from stored join refused using (run, worker, conn) where seq between low and high
"""

STRANGE = """
select count(*) from stored left join sent using (run, worker, conn) where upto is null or seq not between 1 and upto
"""

# A worker that has too many rows does not make up for one that has too few.
BY_WORKER = """
with promised as (select run, worker, sum(high - low + 1) - any_value(filtered) as promised from acked
                  join (select run, worker, sum(filtered) as filtered from sent group by all) using (run, worker) group by all),
     found as (select run, worker, count(*) as stored, count(distinct id) as distinct_rows from stored group by all),
     kept as (select run, worker, count(distinct (conn, seq)) as promised_and_stored
              from stored join acked using (run, worker, conn) where seq between low and high group by all)
select run, worker, coalesce(promised, 0) as promised, coalesce(stored, 0) as stored,
       coalesce(promised, 0) - coalesce(promised_and_stored, 0) as lost, coalesce(stored - distinct_rows, 0) as twice
from promised full join found using (run, worker) full join kept using (run, worker) order by all
"""


def main(logs, table, *loads):
    engine = duckdb.connect()
    began = time.monotonic()
    engine.execute(STORED, {"files": f"{logs}/shard-*/*.ndjson*"})
    engine.execute("create table sent (run text, worker int, conn int, upto bigint, filtered bigint)")
    for name in ("acked", "refused"):
        engine.execute(f"create table {name} (run text, worker int, conn int, low bigint, high bigint)")
    reported = reconnects = 0
    for load in loads:
        report, books = read(f"{load}/generator.json"), read(f"{load}/ledger")
        results = report["tests"][0]["results"]
        reported += results["acked"] - results["filtered"]
        reconnects += results["habits"].get("reconnects", 0)
        fill(engine, books)

    def one(query):
        return engine.execute(query).fetchone()[0]

    workers = engine.execute(BY_WORKER).fetchall()
    engine.execute(f"copy ({BY_WORKER}) to '{table}' (header)")
    promised = sum(row[2] for row in workers)
    json.dump(
        {
            "stored": one("select count(*) from stored"),
            "promised": promised,
            "lost": sum(max(row[4], 0) for row in workers),
            "twice": one("select count(*) - count(distinct (run, worker, conn, seq)) from stored where seq is not null"),
            "phantom": one(REFUSED) + one(STRANGE),
            "malformed": one("select count(*) from stored where seq is null or level is null or message is null"),
            "unreported": abs(promised - reported),
            "workers": len(workers),
            "reconnects": reconnects,
            "engine_ms": round((time.monotonic() - began) * 1000),
        },
        sys.stdout,
    )


def fill(engine, books):
    """A ledger's connections, its ranges as rows."""
    rows = {"sent": [], "acked": [], "refused": []}
    for entry in books["connections"]:
        who = [books["run"], entry["worker"], entry["conn"]]
        rows["sent"].append([*who, entry["sent_upto"], entry["filtered"]])
        rows["acked"] += [[*who, *pair] for pair in entry["acked"]]
        rows["refused"] += [[*who, *pair] for pair in entry["rejected"]]
    for name, these in rows.items():
        if these:
            engine.executemany(f"insert into {name} values ({', '.join('?' * len(these[0]))})", these)


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


main(*sys.argv[1:])
