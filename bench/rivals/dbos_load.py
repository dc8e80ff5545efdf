"""Load on DBOS, which is a library: WORKLOAD CALLERS WARM COUNTED [MOST]. Callers, workflows and queue are threads of this one
process."""

import os
import sys
import time

from dbos import DBOS, DBOSConfig

import common

workload, callers, warm, counted = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
most = int(sys.argv[5]) if len(sys.argv) > 5 else None
config: DBOSConfig = {
    "name": "bench",
    "system_database_url": os.environ["DATABASE"].replace("postgresql://", "postgresql+psycopg://"),
    "log_level": "ERROR",
    "run_admin_server": False,
    "max_executor_threads": max(64, callers + 16),
    "sys_db_pool_size": 50,
}
DBOS(config=config)
tally = common.Tally()


@DBOS.workflow()
def noop() -> None:
    tally.add_one()


@DBOS.step()
def step(number: int) -> int:
    return number


@DBOS.workflow()
def steps() -> int:
    return step(1) + step(2) + step(3)


def ask():
    if workload == "a":
        noop()
    elif workload == "b":
        steps()
    else:
        DBOS.enqueue_workflow("bench", noop)


DBOS.launch()
DBOS.register_queue("bench", polling_interval_sec=0.05)
before = tally.number
latencies, accepted, errors, seconds = common.closed_loops(callers, warm, counted, ask, common.edge, most)
if workload == "d":
    # The queue is worked off by this process: it stays until nothing moves any more.
    seen, at = tally.number, time.monotonic()
    while tally.number - before < accepted and time.monotonic() - at < 20:
        time.sleep(0.01)
        if tally.number != seen:
            seen, at = tally.number, time.monotonic()
common.tell(latencies, accepted, errors, seconds)
sys.stdout.flush()
# Threads of the library may go on for long; what is measured is over.
os._exit(0)
