"""A reader of published configuration: what the pointer names, and word when it moves.

    pip install redis
    python config.py

It reads the pointer, then the bundles of that version, which never change. Word that the pointer moved may be lost (the
connection broke, Redis was started anew), so it also looks at the pointer every two seconds.
"""

import gzip
import hashlib
import json
import os
import sys
import time

import redis

TENANT = os.environ.get("TENANT", "acme")
AGENT = os.environ.get("AGENT", "orders")
POINTER = f"{TENANT}:{AGENT}:cfg"


def bundles_of(connection: redis.Redis, version: int) -> dict[str, bytes] | None:
    """All bundles of a version by kind, or None if it is not all there (yet): then ask again in a moment."""
    bundles = {}
    for kind, about in connection.hgetall(f"{TENANT}:{AGENT}:v{version}").items():
        about = json.loads(about)
        content = connection.get(f"{TENANT}:{AGENT}:v{version}:{kind.decode()}")
        if content is not None and about["encoding"] == "gzip":
            content = gzip.decompress(content)
        if content is None or "sha256:" + hashlib.sha256(content).hexdigest() != about["digest"]:
            return None
        bundles[kind.decode()] = content
    return bundles or None


def told(channel: "redis.client.PubSub") -> bool:
    """Waits up to two seconds for word about our agent. Whatever it is, what counts is the pointer."""
    message = channel.get_message(ignore_subscribe_messages=True, timeout=2)
    if not message:
        return False
    said = json.loads(message["data"])
    return (said["tenant_id"], said["agent_id"]) == (TENANT, AGENT)


def main() -> None:
    connection = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
    channel, current, heard = connection.pubsub(), None, False
    while True:
        try:
            if not channel.subscribed:
                channel.subscribe("cfg-updated")
            version = connection.get(POINTER)
            if version is not None and version != current and (bundles := bundles_of(connection, int(version))):
                current = version
                kinds = ", ".join(f"{kind} {len(content)} bytes" for kind, content in sorted(bundles.items()))
                print(f"version {int(version)} ({'told' if heard else 'looked'}): {kinds}", flush=True)
            heard = told(channel)
        except redis.RedisError as error:
            # What was read stays in use.
            print(f"Redis is away, trying again: {error}", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
