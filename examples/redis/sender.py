"""An outbound sender: takes replies from the outbound stream, sends them, and says how far they got.

    pip install redis
    python sender.py

It acknowledges an entry after it was sent. If it is killed in between, the entry comes again, under the same id: a
real sender gives that id to the provider, or remembers the last ones, as this one does.
"""

import json
import os
import sys
import time

import redis

from gateway import CHANNEL, PARTITIONS, TENANT, stream_for

GROUP, CONSUMER = "delivery", os.environ.get("CONSUMER", "sender-1")
NAME = f"events.outbound.{TENANT}.{CHANNEL}"
STREAMS = [f"{NAME}.p{n}" for n in range(PARTITIONS)] or [NAME]


def make_groups(connection: redis.Redis) -> None:
    for stream in STREAMS:
        try:
            connection.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def send(envelope: dict) -> None:
    """Stands for the call to the channel's provider."""
    print(f"to {envelope['interlocutor']}: {envelope['payload'].get('text', '')}", flush=True)


def receipt(connection: redis.Redis, envelope: dict, status: str) -> None:
    who, reply_id = envelope["interlocutor"], envelope["payload"]["reply_id"]
    said = {
        "v": 1,
        "id": f"{reply_id}/{status}",
        "type": "receipt",
        "tenant": TENANT,
        "channel": CHANNEL,
        "time": int(time.time() * 1000),
        "payload": {"reply_id": reply_id, "status": status},
    }
    connection.xadd(stream_for(who), {"id": said["id"], "key": who, "envelope": json.dumps(said)})


def main() -> None:
    connection = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), decode_responses=True)
    sent: dict[str, None] = {}
    # What was handed out before we were killed comes first ("0"), then what is new (">").
    start = "0"
    while True:
        try:
            streams = dict.fromkeys(STREAMS, start)
            found = connection.xreadgroup(GROUP, CONSUMER, streams, count=50, block=None if start == "0" else 5000)
            entries = [(stream, *entry) for stream, of_stream in found or [] for entry in of_stream]
            for stream, entry, fields in entries:
                if fields:
                    envelope = json.loads(fields["envelope"])
                    if envelope["id"] not in sent:
                        send(envelope)
                        sent[envelope["id"]] = None
                        receipt(connection, envelope, "sent")
                    if len(sent) > 10_000:
                        sent.pop(next(iter(sent)))
                connection.xack(stream, GROUP, entry)
            if not entries:
                start = ">"
        except redis.ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            # The first start, or Redis was flushed.
            make_groups(connection)
        except redis.RedisError as error:
            print(f"Redis is away, trying again: {error}", file=sys.stderr)
            time.sleep(1)
            start = "0"


if __name__ == "__main__":
    main()
