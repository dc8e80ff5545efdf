"""What the load programs share: a number kept in a file, closed loops of threads, and what is said at the end."""

import json
import mmap
import os
import struct
import threading
import time


class Tally:
    """A number in a file named after this process, which whoever measures reads meanwhile."""

    def __init__(self):
        path = os.path.join(os.environ["TALLY"], str(os.getpid()))
        with open(path, "w+b") as file:
            file.write(bytes(8))
            file.flush()
            self.bytes = mmap.mmap(file.fileno(), 8)
        self.number = 0
        self.lock = threading.Lock()

    def add_one(self):
        with self.lock:
            self.number += 1
            struct.pack_into("<Q", self.bytes, 0, self.number)


def closed_loops(threads, warm, counted, ask, at_edge=lambda edge: None, most=None):
    """So many threads ask again as soon as they are answered. Returns latencies of what ended within the time counted,
    all that was accepted, errors by what they were, and how long was counted. With `most`, threads ask so often together
    at most, nothing is a warm-up, and the time counted ends with the last answer."""
    each = None if most is None else -(-most // threads)
    begin = time.monotonic() + (0 if each else warm)
    end = begin + counted
    results = [None] * threads

    def loop(nth):
        latencies, accepted, errors = [], 0, {}
        while True:
            sent = time.monotonic()
            if sent >= end or accepted == each:
                break
            try:
                ask()
            except Exception as error:  # noqa: BLE001: whatever it is, it is told
                text = f"{type(error).__name__}: {error}"[:200]
                errors[text] = errors.get(text, 0) + 1
                time.sleep(0.01)
                continue
            now = time.monotonic()
            accepted += 1
            if begin <= now < end:
                latencies.append(int((now - sent) * 1e9))
        results[nth] = (latencies, accepted, errors)

    at_edge("START")
    all_threads = [threading.Thread(target=loop, args=(nth,)) for nth in range(threads)]
    for thread in all_threads:
        thread.start()
    time.sleep(max(0.0, begin - time.monotonic()))
    at_edge("BEGIN")
    if each is None:
        time.sleep(max(0.0, end - time.monotonic()))
        at_edge("END")
    for thread in all_threads:
        thread.join()
    if each is not None:
        at_edge("END")
    seconds = counted if each is None else time.monotonic() - begin
    latencies, accepted, errors = [], 0, {}
    for own_latencies, own_accepted, own_errors in results:
        latencies += own_latencies
        accepted += own_accepted
        for text, count in own_errors.items():
            errors[text] = errors.get(text, 0) + count
    return latencies, accepted, errors, seconds


def edge(name):
    print(name, flush=True)


def tell(latencies, accepted, errors, seconds):
    said = {"latencies_ns": latencies, "seconds": seconds, "accepted": accepted, "errors": errors}
    print(json.dumps(said), flush=True)
