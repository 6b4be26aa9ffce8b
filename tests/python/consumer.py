#!/usr/bin/env python3
"""A gateway in Python: registers one subscription over HTTP, consumes its changes over gRPC, acks them.

The gRPC client is generated from the proto at the start, into a temporary folder. Prints one JSON line a
change, and what it does on standard error. Ends with status 0 once it has acked --count changes, with 1
if a change is missing by `seq`, and with 3 if the hub closes the session before.

    scripts/python tests/python/consumer.py --grpc 127.0.0.1:7701 --http 127.0.0.1:7700 \\
        --gateway py-1 --tenant acme --collection messages --count 10
"""

import argparse
import json
import pathlib
import queue
import sys
import tempfile
import urllib.error
import urllib.request

import grpc
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]


def generated():
    """The message and service modules of the contract."""
    with tempfile.TemporaryDirectory(prefix="streamer-proto-") as out:
        file = "streamer/v1/streamer.proto"
        status = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", f"--grpc_python_out={out}", file])
        if status != 0:
            raise SystemExit("protoc failed")
        sys.path.insert(0, out)
        from streamer.v1 import streamer_pb2, streamer_pb2_grpc

    return streamer_pb2, streamer_pb2_grpc


def call(options, path, body):
    """One HTTP call with a JSON body; answers the status and the JSON of the answer."""
    request = urllib.request.Request(
        f"http://{options.http}{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=options.timeout) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{path}: {error.code} {error.read().decode()}")


def register(options):
    subscription = {
        "subscriptionId": options.subscription,
        "gatewayId": options.gateway,
        "tenant": options.tenant,
        "collection": options.collection,
        "transitions": options.transitions,
    }
    if options.cel:
        subscription["cel"] = options.cel
    status, answer = call(options, "/v1/subscriptions", subscription)
    print(f"registered: {status} {answer.get('state')}", file=sys.stderr, flush=True)


def body_of(data):
    return json.loads(data) if data is not None else None


def optional(message, field):
    """A field with presence, or None."""
    return getattr(message, field) if message.HasField(field) else None


def as_json(change):
    changed = optional(change, "changed")
    transaction = optional(change, "transaction")
    return {
        "partition": change.partition,
        "seq": change.seq,
        "cursor": change.cursor,
        "position": change.position,
        "id": change.id,
        "tenant": optional(change, "tenant"),
        "collection": optional(change, "collection"),
        "key": change.key,
        "operation": change.operation,
        "document": body_of(optional(change, "document")),
        "before": body_of(optional(change, "before")),
        "changed": changed and {"set": body_of(changed.set), "removed": list(changed.removed)},
        "clusterTime": {"t": change.cluster_time.t, "i": change.cluster_time.i},
        "wallTime": change.wall_time or None,
        "transaction": transaction and {"id": transaction.id, "number": transaction.number},
        "matches": [
            {"subscriptionId": match.subscription_id, "generation": match.generation}
            | ({"transition": match.transition} if match.transition else {})
            | ({"certainty": match.certainty} if match.certainty else {})
            for match in change.matches
        ],
        "flags": list(change.flags),
    }


def consume(options, pb, pb_grpc):
    requests = queue.SimpleQueue()
    try:
        return consume_with(options, pb, pb_grpc, requests)
    finally:
        # Ends the thread that waits for requests to send.
        requests.put(None)


def consume_with(options, pb, pb_grpc, requests):
    hello = pb.Hello(gateway_id=options.gateway, body=pb.BODY_EXTENDED_JSON)
    if options.cursor:
        hello.cursor = options.cursor
    requests.put(pb.ConsumeRequest(hello=hello))
    sequence = {}
    left = options.count
    with grpc.insecure_channel(options.grpc) as channel:
        stub = pb_grpc.DeliveryStub(channel)
        responses = stub.Consume(iter(requests.get, None), timeout=options.timeout)
        for response in responses:
            kind = response.WhichOneof("message")
            if kind == "welcome":
                print(f"welcome: session {response.welcome.session}", file=sys.stderr, flush=True)
            elif kind == "changes":
                for change in response.changes.changes:
                    expected = sequence.get(change.partition, 0) + 1
                    if change.seq != expected:
                        print(f"expected seq {expected}, got {change.seq}", file=sys.stderr)
                        return 1
                    sequence[change.partition] = expected
                    print(json.dumps(as_json(change)), flush=True)
                    cursor = change.cursor
                    left -= 1
                    if left == 0:
                        # By HTTP, whose answer says that the ack has been taken.
                        call(options, f"/v1/gateways/{options.gateway}/ack", {"cursor": cursor})
                        responses.cancel()
                        return 0
                requests.put(pb.ConsumeRequest(ack=pb.Ack(cursor=cursor)))
            elif kind == "progress":
                requests.put(pb.ConsumeRequest(heartbeat=pb.Heartbeat()))
            elif kind == "resync":
                # A gateway would read its documents anew here.
                print(f"resync: {response.resync.reason}", file=sys.stderr, flush=True)
                requests.put(pb.ConsumeRequest(ack=pb.Ack(cursor=response.resync.cursor)))
            elif kind == "closed":
                print(f"closed: {response.closed.reason}", file=sys.stderr)
                return 3
    return 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grpc", default="127.0.0.1:7701", metavar="HOST:PORT")
    parser.add_argument("--http", default="127.0.0.1:7700", metavar="HOST:PORT")
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--subscription", default="all", help="its id (default: all)")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--cel", help="only changes for which this holds")
    parser.add_argument("--transitions", action="store_true")
    parser.add_argument("--cursor", help="where to resume (default: the last acked)")
    parser.add_argument("--count", type=int, default=1, help="end after so many changes")
    parser.add_argument("--timeout", type=float, default=60, help="seconds in all")
    options = parser.parse_args()
    pb, pb_grpc = generated()
    register(options)
    return consume(options, pb, pb_grpc)


if __name__ == "__main__":
    sys.exit(main())
