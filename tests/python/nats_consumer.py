#!/usr/bin/env python3
"""A gateway in Python that takes its changes from NATS JetStream.

Keeps what it has had, the newest position for each subscription, in the file --state, and drops by it what comes
again: the position is written before the ack, so a crash between the two repeats a message and loses none. Prints one JSON
line for each change that it has not had before, and what it does on standard error. Ends with status 0 after --count
of them; with --crash it does not ack the message that the last of them came with, as if it had been killed there.

    scripts/python tests/python/nats_consumer.py --nats nats://127.0.0.1:4222 --gateway py-1 --state py-1.json --count 10
"""

import argparse
import asyncio
import json
import os
import pathlib
import sys

import nats
from nats.errors import TimeoutError as Nothing
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

STREAM = "STREAMER"
# Longer than any change takes to be handled: what is not acked comes again when the consumer is made anew.
ACK_WAIT_SECONDS = 24 * 3600
PULL_SECONDS = 5


def token(name):
    """A name as one token of a subject."""
    special = {".", "*", ">", "%"}
    is_plain = lambda c: c not in special and not c.isspace() and c.isprintable()
    return "".join(c if is_plain(c) else "".join(f"%{byte:02X}" for byte in c.encode()) for c in name)


class State:
    """What has been had, in a file that is replaced as a whole."""

    def __init__(self, file):
        self.file = pathlib.Path(file)
        self.positions = json.loads(self.file.read_text()) if self.file.exists() else {}

    def take(self, change):
        """The matches that have not been had before."""
        new = []
        for match in change["matches"]:
            of_match = f"{change['partition']} {match['subscriptionId']} {match['generation']}"
            # Positions are ordered as texts are.
            if "redelivered" in change["flags"] or change["position"] > self.positions.get(of_match, ""):
                new.append(match)
                self.positions[of_match] = change["position"]
        return new

    def save(self):
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.positions))
        os.replace(new, self.file)


async def consumer(jetstream, gateway):
    """Made anew, so that what was handed over and not acked comes first, in order."""
    # A consumer's name may have no dot, and no percent sign, for which the server would put a number.
    name, subject = gateway.replace(".", "="), f"streamer.v1.deliver.{token(gateway)}.>"
    try:
        await jetstream.delete_consumer(STREAM, name)
    except NotFoundError:
        pass
    config = ConsumerConfig(
        durable_name=name,
        filter_subject=subject,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=ACK_WAIT_SECONDS,
    )
    await jetstream.add_consumer(STREAM, config)
    return await jetstream.pull_subscribe_bind(durable=name, stream=STREAM)


async def consume(options):
    state, left = State(options.state), options.count
    client = await nats.connect(options.nats)
    try:
        subscription = await consumer(client.jetstream(), options.gateway)
        while left > 0:
            try:
                messages = await subscription.fetch(1, timeout=PULL_SECONDS)
            except Nothing:
                continue
            for message in messages:
                name = (message.headers or {}).get("Streamer-Message")
                print(f"{name}, {message.header.get('Nats-Msg-Id')}", file=sys.stderr, flush=True)
                for change in json.loads(message.data).get("changes", []) if name == "changes" else []:
                    if matches := state.take(change):
                        print(json.dumps(change | {"matches": matches}), flush=True)
                        left -= 1
                state.save()
                if left > 0 or not options.crash:
                    await message.ack_sync()
    finally:
        await client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nats", default="nats://127.0.0.1:4222")
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--state", required=True, help="the file with what has been had")
    parser.add_argument("--count", type=int, required=True, help="changes to take")
    parser.add_argument("--crash", action="store_true", help="leave the last message unacked")
    asyncio.run(consume(parser.parse_args()))


if __name__ == "__main__":
    main()
