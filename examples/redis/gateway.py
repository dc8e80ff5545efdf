"""A channel gateway: adds what people type to the inbound stream.

    pip install redis
    python gateway.py            # then type: NAME: what they say, or with an id: #ID NAME: what they say

Each line becomes an entry with an id of its own. In a real gateway that is the provider's id for the message. It adds
an entry again when it does not know whether the first try arrived, and so does its provider; the message counts once.
"""

import json
import os
import sys
import time
import uuid

import redis

TENANT = os.environ.get("TENANT", "acme")
AGENT = os.environ.get("AGENT", "orders")
CHANNEL = os.environ.get("CHANNEL", "web")
PARTITIONS = int(os.environ.get("PARTITIONS", "8"))
# Shorter than Mainspring remembers ids, which is what decides: this only keeps repeats out of the stream.
SEEN_S = 24 * 60 * 60

# "Seen" and the entry are one step: a mark without its entry would lose the message, because every repeat would be
# taken for known. The mark says which entry it is, so a repeat gets the same answer.
ADD_ONCE = """
local entry = redis.call('GET', KEYS[1])
if entry then return {entry, 'known'} end
entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[1], 'key', ARGV[2], 'envelope', ARGV[3])
redis.call('SET', KEYS[1], entry, 'NX', 'EX', ARGV[4])
return {entry, 'added'}
"""


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def stream_for(key: str) -> str:
    """The partition's stream. The key keeps a conversation together, so it is always the same for one person."""
    name = f"events.inbound.{TENANT}.{CHANNEL}"
    return f"{name}.p{crc32c(key.encode()) % PARTITIONS}" if PARTITIONS else name


def add(connection: redis.Redis, who: str, text: str, message_id: str) -> tuple[str, str]:
    """The entry, and whether it was `added` or `known`."""
    envelope = {
        "v": 1,
        "id": message_id,
        "type": "message",
        "tenant": TENANT,
        "agent": AGENT,
        "channel": CHANNEL,
        "interlocutor": who,
        "time": int(time.time() * 1000),
        "payload": {"text": text, "message_id": message_id},
    }
    stream = stream_for(who)
    # What stands in braces is where the stream is, also in a cluster.
    seen = f"{{{stream}}}:seen:{message_id}"
    while True:
        try:
            # No MAXLEN: it would remove what nobody has read. Mainspring trims what is acknowledged.
            entry, what = connection.eval(
                ADD_ONCE, 2, seen, stream, message_id, who, json.dumps(envelope), SEEN_S
            )
            return entry, what
        except redis.RedisError as error:
            print(f"not added, trying again: {error}", file=sys.stderr)
            time.sleep(1)


def main() -> None:
    connection = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), decode_responses=True)
    for line in sys.stdin:
        who, colon, text = line.strip().partition(":")
        message_id = str(uuid.uuid4())
        if who.startswith("#"):
            message_id, _, who = who[1:].partition(" ")
        if colon and who.strip() and text.strip():
            entry, what = add(connection, who.strip(), text.strip(), message_id)
            print(f"{message_id} {what} as {entry}", flush=True)


if __name__ == "__main__":
    main()
