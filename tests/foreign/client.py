"""Google's gRPC for Python against the test service: one line of JSON for each case.

    client.py --target TARGET --descriptors FILE [--seconds N] [CASE...]

TARGET is whatever grpcio takes: `127.0.0.1:7001`, or with `grpc_proxy` in the environment `dns:///db.iroh:443`. FILE is a FileDescriptorSet:
the messages are made from it, so nothing is generated. Without a case all run that need no other hand. The exit code is 0 if all passed.

Some cases say on standard output how far they are, {"event": ...}, and wait for a line on standard input: the test kills a server then.
"""

import argparse
import json
import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TESTING = "tower_iroh.testing.v1"
ECHO = "tower_iroh.echo.v1"
INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"
IN_STATUS = "x-test-in-status-bin"
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
BYTES = bytes(range(256))
# A call that takes longer hangs. The code of a call that fails is the case's to judge, so this is well above what any failure takes.
PATIENCE = 40
# What both sides take if nobody says otherwise, and the payload of an echo message that is as long as that.
LIMIT = 4 << 20
FITS = LIMIT - 5

# A ping each second, and a second for its answer: grpcio 1.85 ends a connection by the timeout of pings, not by that of keepalive. Left alone
# it also pings to measure the bandwidth, and sends no other ping before that one is answered.
PINGS = [
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
]

Code = grpc.StatusCode
CASES = {}
# These need somebody who kills or stops a server for them.
LED = set()


def case(function):
    CASES[function.__name__] = function
    return function


def led(function):
    LED.add(function.__name__)
    return case(function)


def payload(size, number=0):
    """The payload that message `number` of a call must have, as tests/support/payload.rs makes it."""
    counting = bytes(place % 251 for place in range(4096 + 251))
    blocks = (size + number) // 4096 + 1
    return b"".join(counting[block % 251:][:4096] for block in range(blocks))[number:number + size]


def same(seen, wanted, what="the answer"):
    if seen != wanted:
        raise AssertionError(f"{what} is {str(seen)[:300]}, not {str(wanted)[:300]}")


def event(name):
    print(json.dumps({"event": name}), flush=True)


def wait_for(word):
    same(sys.stdin.readline().strip(), word, "the next line on standard input")


class Client:
    def __init__(self, target, descriptors, seconds):
        self.target = target
        self.seconds = seconds
        pool = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet()
        with open(descriptors, "rb") as file:
            files.ParseFromString(file.read())
        for file in files.file:
            pool.Add(file)
        self.pool = pool

    def channel(self, *options, compression=None):
        # A channel of its own for each: by default grpcio shares the connections of channels with the same options.
        local = ("grpc.use_local_subchannel_pool", 1)
        return grpc.insecure_channel(self.target, options=(local, *options), compression=compression)

    def message(self, name, **fields):
        package = ECHO if name in ("EchoRequest", "StreamRequest") else TESTING
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"{package}.{name}"))(**fields)

    def method(self, channel, name, package=TESTING):
        service = "Echo" if package == ECHO else "TestService"
        method = self.pool.FindMethodByName(f"{package}.{service}.{name}")
        kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
        return getattr(channel, kind)(
            f"/{package}.{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )

    def unary(self, channel, **fields):
        options = {"timeout": fields.pop("timeout", PATIENCE), "metadata": fields.pop("metadata", None)}
        return self.method(channel, "UnaryCall").with_call(self.message("SimpleRequest", **fields), **options)

    def outputs(self, *sizes, interval_ms=0, **fields):
        responses = [{"size": size, "interval_ms": interval_ms} for size in sizes]
        return self.message("StreamingOutputRequest", responses=responses, **fields)


def fails(call):
    """The error that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call succeeded")


def values(metadata, name):
    return [value for key, value in metadata or () if key == name]


class Duplex:
    """A duplex call whose requests are sent one by one."""

    def __init__(self, client, channel, **options):
        self.requests = queue.Queue()
        requests = iter(self.requests.get, None)
        self.call = client.method(channel, "FullDuplexCall")(requests, **{"timeout": PATIENCE} | options)

    def send(self, message):
        self.requests.put(message)

    def done(self):
        self.requests.put(None)


@case
def unary(client):
    with client.channel() as channel:
        answer, call = client.unary(channel, response_size=314159, payload={"body": payload(271828)})
    same(answer.received_size, 271828)
    same(answer.payload.body, payload(314159))
    same(call.code(), Code.OK)


@case
def server_stream(client):
    sizes = [31415, 0, 9, 2653, 58979]
    with client.channel() as channel:
        call = client.method(channel, "StreamingOutputCall")(client.outputs(*sizes), timeout=PATIENCE)
        for number, answer in enumerate(call):
            same(answer.sequence, number)
            same(answer.payload.body, payload(sizes[number], number))
    same(number + 1, len(sizes), "the number of messages")


@case
def client_stream(client):
    sizes = [27182, 8, 0, 1828, 45904]
    requests = [client.message("StreamingInputRequest", payload={"body": payload(size, number)}) for number, size in enumerate(sizes)]
    with client.channel() as channel:
        answer = client.method(channel, "StreamingInputCall")(iter(requests), timeout=PATIENCE)
    same((answer.count, answer.aggregated_size), (len(sizes), sum(sizes)))


@case
def bidi_stream(client):
    """All requests at once, each for two answers."""
    requests = [client.outputs(number, 2 * number, payload={"body": payload(number, number)}) for number in range(200)]
    with client.channel() as channel:
        call = client.method(channel, "FullDuplexCall")(iter(requests), timeout=PATIENCE)
        sizes = [len(answer.payload.body) for answer in call]
    same(sizes, [size for number in range(200) for size in (number, 2 * number)])


@case
def ping_pong(client):
    """Each side waits for the other, a hundred times; the server's head waits for the first request."""
    with client.channel() as channel:
        duplex = Duplex(client, channel, metadata=[("x-test-wait-for-message", "1")])
        for number in range(100):
            duplex.send(client.outputs(number, payload={"body": payload(7, number)}))
            answer = next(duplex.call)
            same((answer.sequence, answer.payload.body), (number, payload(number, number)))
        duplex.done()
        same(list(duplex.call), [])


@case
def metadata(client):
    sent = [(INITIAL, "one"), (INITIAL, "two"), (TRAILING, BYTES), (TRAILING, b"\xff"), (IN_STATUS, BYTES)]
    with client.channel() as channel:
        _, call = client.unary(channel, metadata=sent)
        same(values(call.initial_metadata(), INITIAL), ["one", "two"], "the head's metadata")
        same(values(call.trailing_metadata(), TRAILING), [BYTES, b"\xff"], "the trailers' metadata")

        duplex = client.method(channel, "FullDuplexCall")(iter([client.outputs(1)]), metadata=sent, timeout=PATIENCE)
        same(len(list(duplex)), 1)
        same(values(duplex.initial_metadata(), INITIAL), ["one", "two"], "a stream's head")
        same(values(duplex.trailing_metadata(), TRAILING), [BYTES, b"\xff"], "a stream's trailers")

        error = fails(lambda: client.unary(channel, metadata=sent[-1:], response_status={"code": 10}))
        same(values(error.trailing_metadata(), IN_STATUS), [BYTES], "a status's metadata")


@case
def status(client):
    """Every code with a message that is more than ASCII, before and after messages. Then the peer is still well."""
    with client.channel() as channel:
        for code in Code:
            number = code.value[0]
            if number == 0:
                continue
            wanted = {"code": number, "message": f"{number}{SPECIAL}"}
            error = fails(lambda: client.unary(channel, response_status=wanted))
            same((error.code(), error.details()), (code, wanted["message"]))
            call = client.method(channel, "StreamingOutputCall")(client.outputs(1, response_status=wanted), timeout=PATIENCE)
            same(next(call).sequence, 0)
            error = fails(lambda: next(call))
            same((error.code(), error.details()), (code, wanted["message"]))
        for _ in range(10):
            error = fails(lambda: client.unary(channel, response_status={"code": 13, "message": "mine"}))
            same((error.code(), error.details()), (Code.INTERNAL, "mine"))
        client.unary(channel)
        error = fails(lambda: client.method(channel, "UnimplementedCall")(client.message("Empty"), timeout=PATIENCE))
        same(error.code(), Code.UNIMPLEMENTED)


@case
def status_details(client):
    wanted = {"code": 9, "message": "not now", "details": BYTES}
    with client.channel() as channel:
        error = fails(lambda: client.unary(channel, response_status=wanted))
    same((error.code(), error.details()), (Code.FAILED_PRECONDITION, "not now"))
    same(values(error.trailing_metadata(), "grpc-status-details-bin"), [BYTES], "grpc-status-details-bin")


@case
def deadline(client):
    with client.channel() as channel:
        client.unary(channel)
        # tonic's server says CANCELLED of a deadline that it sees first. Over plain TCP as well, so it is not held against the way.
        for _ in range(5):
            began = time.monotonic()
            error = fails(lambda: client.unary(channel, sleep_ms=60_000, timeout=0.5))
            took = time.monotonic() - began
            if (error.code(), error.details()) != (Code.CANCELLED, "Timeout expired"):
                break
        same(error.code(), Code.DEADLINE_EXCEEDED)
        same(0.4 < took < 5, True, f"in time, after {took:.2f} s,")


@case
def cancellation(client):
    with client.channel() as channel:
        duplex = Duplex(client, channel)
        duplex.send(client.outputs(1))
        same(next(duplex.call).sequence, 0)
        duplex.call.cancel()
        same(fails(lambda: next(duplex.call)).code(), Code.CANCELLED)
        duplex.done()


@case
def gzip(client):
    with client.channel(compression=grpc.Compression.Gzip) as channel:
        fields = {"response_size": 314159, "payload": {"body": payload(271828)}, "compress_response": True}
        answer, _ = client.unary(channel, expect_compressed=True, **fields)
        same((answer.received_size, answer.payload.body), (271828, payload(314159)))
        requests = [client.message("StreamingInputRequest", payload={"body": payload(9999, number)}) for number in range(3)]
        answer = client.method(channel, "StreamingInputCall")(iter(requests), timeout=PATIENCE)
        same((answer.count, answer.compressed_count), (3, 3))
    with client.channel() as channel:
        answer, _ = client.unary(channel, response_size=9, expect_compressed=False)
        same(answer.payload.body, payload(9))


@case
def size_limits(client):
    with client.channel() as channel:
        echo = client.method(channel, "Echo", ECHO)
        answer = echo(client.message("EchoRequest", payload=payload(FITS)), timeout=PATIENCE)
        same(answer.payload, payload(FITS))
        error = fails(lambda: echo(client.message("EchoRequest", payload=payload(FITS + 1)), timeout=PATIENCE))
        same(error.code(), Code.OUT_OF_RANGE, "the code of a request above the limit")
        stream = client.method(channel, "ServerStream", ECHO)
        answers = list(stream(client.message("StreamRequest", count=2, size=FITS), timeout=PATIENCE))
        same([len(answer.payload) for answer in answers], [FITS, FITS])
        error = fails(lambda: list(stream(client.message("StreamRequest", count=2, size=FITS + 1), timeout=PATIENCE)))
        same(error.code(), Code.RESOURCE_EXHAUSTED, "the code of a response above the limit")
        client.unary(channel)


@case
def many_callers(client):
    """A thousand calls by fifty callers over one channel."""
    with client.channel() as channel, ThreadPoolExecutor(50) as pool:
        def call(number):
            answer, _ = client.unary(channel, response_size=number, payload={"body": payload(1000 - number)})
            return len(answer.payload.body), answer.received_size
        same(list(pool.map(call, range(1000))), [(number, 1000 - number) for number in range(1000)])


@case
def keepalive(client):
    """Pings are answered while a stream says nothing."""
    with client.channel(*PINGS) as channel:
        call = client.method(channel, "StreamingOutputCall")(
            client.outputs(1, 2, interval_ms=client.seconds * 500), timeout=client.seconds + PATIENCE)
        same([len(answer.payload.body) for answer in call], [1, 2])
        client.unary(channel)


@led
def restart(client):
    """The server goes and comes back: UNAVAILABLE, then well again."""
    options = [(f"grpc.{name}_reconnect_backoff_ms", 200) for name in ("initial", "min", "max")]
    with client.channel(*options) as channel:
        client.unary(channel)
        event("well")
        wait_for("gone")
        for _ in range(3):
            error = fails(lambda: client.unary(channel))
            same(error.code(), Code.UNAVAILABLE, f"the code ({error.details()})")
        event("unavailable")
        wait_for("back")
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                client.unary(channel)
                return
            except grpc.RpcError as error:
                same(error.code(), Code.UNAVAILABLE, f"the code ({error.details()})")
                same(time.monotonic() < ends, True, "well again in time")
                # Asking is all one can do: the channel's own state says nothing of a server behind a gateway.
                time.sleep(0.05)


@led
def killed(client):
    """The server, or the peer on the way to it, is killed in the middle of a stream. The detail is the code."""
    with client.channel() as channel:
        duplex = Duplex(client, channel)
        duplex.send(client.outputs(1))
        same(next(duplex.call).sequence, 0)
        event("streaming")
        error = fails(lambda: next(duplex.call))
        duplex.done()
        return error.code().name


@led
def unanswered_pings(client):
    """As `keepalive`, and whoever should answer the pings is stopped."""
    with client.channel(*PINGS) as channel:
        duplex = Duplex(client, channel)
        duplex.send(client.outputs(1))
        same(next(duplex.call).sequence, 0)
        event("streaming")
        error = fails(lambda: next(duplex.call))
        duplex.done()
        same(error.code(), Code.UNAVAILABLE, f"the code ({error.details()})")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--target", required=True)
    arguments.add_argument("--descriptors", required=True)
    arguments.add_argument("--seconds", type=int, default=30)
    arguments.add_argument("cases", nargs="*", default=[name for name in CASES if name not in LED])
    arguments = arguments.parse_args()
    client = Client(arguments.target, arguments.descriptors, arguments.seconds)
    passed = True
    for name in arguments.cases:
        began = time.monotonic()
        try:
            ok, detail = True, CASES[name](client) or ""
        except Exception as error:
            ok, detail = False, f"{type(error).__name__}: {error}"
        passed &= ok
        seconds = round(time.monotonic() - began, 2)
        print(json.dumps({"case": name, "ok": ok, "detail": detail, "seconds": seconds}), flush=True)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
