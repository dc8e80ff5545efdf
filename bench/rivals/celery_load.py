"""Load on Celery by its own client: WORKLOAD CALLERS WARM COUNTED [MOST]. Threads, shared among at most two processes, because
one process of Python is one core at most."""

import multiprocessing
import sys

import common

PROCESSES_MAX = 2


def load(workload, threads, warm, counted, most, barrier, edges, out):
    from celery_tasks import forget, noop

    def ask():
        if workload == "a":
            # Nothing is to be waited for longer than an answer may take anywhere here.
            noop.delay().get(timeout=60, interval=0.001)
        else:
            forget.delay()

    barrier.wait()
    out.put(common.closed_loops(threads, warm, counted, ask, common.edge if edges else lambda _: None, most))


def main():
    workload, callers, warm, counted = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    most = int(sys.argv[5]) if len(sys.argv) > 5 else None
    processes = min(callers, PROCESSES_MAX)
    out, barrier = multiprocessing.Queue(), multiprocessing.Barrier(processes)
    all_processes = []
    for nth in range(processes):
        threads = callers // processes + (1 if nth < callers % processes else 0)
        share = most and most * threads // callers
        args = (workload, threads, warm, counted, share, barrier, nth == 0, out)
        all_processes.append(multiprocessing.Process(target=load, args=args))
    for process in all_processes:
        process.start()
    latencies, accepted, errors, seconds = [], 0, {}, 0.0
    for _ in all_processes:
        own_latencies, own_accepted, own_errors, own_seconds = out.get()
        seconds = max(seconds, own_seconds)
        latencies += own_latencies
        accepted += own_accepted
        for text, count in own_errors.items():
            errors[text] = errors.get(text, 0) + count
    for process in all_processes:
        process.join()
    common.tell(latencies, accepted, errors, seconds)


if __name__ == "__main__":
    main()
