// grpc-js against the test service: one line of JSON for each case.
//
//     client.js --target TARGET --protos FOLDER [--seconds N] [CASE...]
//
// TARGET is whatever grpc-js takes: `127.0.0.1:7001`, or with `grpc_proxy` in the environment `dns:///db.iroh:443`. The services are read from
// FOLDER as the program starts. Without a case all run that need no other hand. The exit code is 0 if all passed.
//
// Some cases say on standard output how far they are, {"event": ...}, and wait for a line on standard input: the test kills a server then.

'use strict';

const assert = require('node:assert/strict');
const http2 = require('node:http2');
const readline = require('node:readline');
const { parseArgs } = require('node:util');
const zlib = require('node:zlib');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const INITIAL = 'x-grpc-test-echo-initial';
const TRAILING = 'x-grpc-test-echo-trailing-bin';
const IN_STATUS = 'x-test-in-status-bin';
const SPECIAL = '\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \u{1f608}\t\n';
const BYTES = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
// A call that takes longer hangs. The code of a call that fails is the case's to judge, so this is well above what any failure takes.
const PATIENCE = 40_000;
// What both sides take if nobody says otherwise, and the payload of an echo message that is as long as that.
const LIMIT = 4 << 20;
const FITS = LIMIT - 5;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { target: { type: 'string' }, protos: { type: 'string' }, seconds: { type: 'string', default: '30' } },
});
const seconds = Number(options.seconds);
const files = ['tower_iroh/testing/v1/testing.proto', 'tower_iroh/echo/v1/echo.proto'];
const loaded = loader.loadSync(files, { includeDirs: [options.protos], keepCase: true, longs: Number, defaults: true });
const { testing, echo } = grpc.loadPackageDefinition(loaded).tower_iroh;

// A ping each second, and a second for its answer.
const PINGS = { 'grpc.keepalive_time_ms': 1000, 'grpc.keepalive_timeout_ms': 1000 };
// grpc-js compresses where the channel is told to, by this number.
const GZIP = { 'grpc.default_compression_algorithm': 2 };

/** The payload that message `number` of a call must have, as tests/support/payload.rs makes it. */
function payload(size, number = 0) {
  const bytes = Buffer.alloc(size);
  for (let index = 0; index < size; index += 1) {
    const place = number + index;
    bytes[index] = ((place % 4096) + (Math.floor(place / 4096) % 251)) % 251;
  }
  return bytes;
}

/** assert.equal for bytes: its own message would be all of them. */
function same(seen, wanted) {
  assert.equal(seen.length, wanted.length);
  assert.ok(Buffer.compare(seen, wanted) === 0, `${seen.length} bytes differ from what was wanted`);
}

function within(milliseconds = PATIENCE) {
  return { deadline: Date.now() + milliseconds };
}

async function withClient(use, channelOptions = {}, service = testing.v1.TestService) {
  // A channel of its own for each: by default grpc-js shares the connections of channels with the same options.
  const channel = { 'grpc.use_local_subchannel_pool': 1, ...channelOptions };
  const client = new service(options.target, grpc.credentials.createInsecure(), channel);
  try {
    return await use(client);
  } finally {
    client.close();
  }
}

/** A call with one answer: the answer, and the metadata around it. */
function ask(client, method, request, metadata = new grpc.Metadata(), call = within()) {
  return new Promise((resolve, reject) => {
    let head;
    let answered;
    const started = client[method](request, metadata, call, (error, answer) => {
      if (error) reject(error);
      answered = answer;
    });
    started.on('metadata', (metadata) => { head = metadata; });
    started.on('status', (status) => { if (status.code === 0) resolve({ answer: answered, head, trailers: status.metadata }); });
  });
}

/** The error that a call ends with. */
async function fails(call) {
  try {
    await call;
  } catch (error) {
    // Anything else is the case's own mistake.
    if (typeof error.code !== 'number') throw error;
    return error;
  }
  throw new Error('the call succeeded');
}

async function all(call) {
  const answers = [];
  for await (const answer of call) answers.push(answer);
  return answers;
}

/** The answers of a call, one by one; throws what it ends with. */
function answers(call) {
  const iterator = call[Symbol.asyncIterator]();
  return async () => (await iterator.next()).value;
}

function outputs(sizes, rest = {}, interval_ms = 0) {
  return { responses: sizes.map((size) => ({ size, interval_ms })), ...rest };
}

function named(pairs) {
  const metadata = new grpc.Metadata();
  for (const [name, value] of pairs) metadata.add(name, value);
  return metadata;
}

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const event = (name) => console.log(JSON.stringify({ event: name }));
const waitFor = async (word) => assert.equal((await lines.next()).value, word);
const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

const cases = {
  async unary() {
    await withClient(async (client) => {
      const { answer } = await ask(client, 'UnaryCall', { response_size: 314159, payload: { body: payload(271828) } });
      assert.equal(answer.received_size, 271828);
      same(answer.payload.body, payload(314159));
    });
  },

  async server_stream() {
    const sizes = [31415, 0, 9, 2653, 58979];
    await withClient(async (client) => {
      const answers = await all(client.StreamingOutputCall(outputs(sizes), within()));
      assert.equal(answers.length, sizes.length);
      answers.forEach((answer, number) => {
        assert.equal(answer.sequence, number);
        same(answer.payload.body, payload(sizes[number], number));
      });
    });
  },

  async client_stream() {
    const sizes = [27182, 8, 0, 1828, 45904];
    await withClient(async (client) => {
      const answer = await new Promise((resolve, reject) => {
        const call = client.StreamingInputCall(within(), (error, answer) => (error ? reject(error) : resolve(answer)));
        sizes.forEach((size, number) => call.write({ payload: { body: payload(size, number) } }));
        call.end();
      });
      assert.deepEqual([answer.count, answer.aggregated_size], [sizes.length, sizes.reduce((sum, size) => sum + size)]);
    });
  },

  /** All requests at once, each for two answers. */
  async bidi_stream() {
    const numbers = Array.from({ length: 200 }, (_, number) => number);
    await withClient(async (client) => {
      const call = client.FullDuplexCall(within());
      for (const number of numbers) call.write(outputs([number, 2 * number], { payload: { body: payload(number, number) } }));
      call.end();
      const sizes = (await all(call)).map((answer) => answer.payload.body.length);
      assert.deepEqual(sizes, numbers.flatMap((number) => [number, 2 * number]));
    });
  },

  /** Each side waits for the other, a hundred times; the server's head waits for the first request. */
  async ping_pong() {
    await withClient(async (client) => {
      const call = client.FullDuplexCall(named([['x-test-wait-for-message', '1']]), within());
      const next = answers(call);
      for (let number = 0; number < 100; number += 1) {
        call.write(outputs([number], { payload: { body: payload(7, number) } }));
        const answer = await next();
        assert.equal(answer.sequence, number);
        same(answer.payload.body, payload(number, number));
      }
      call.end();
      assert.equal(await next(), undefined);
    });
  },

  async metadata() {
    const sent = named([[INITIAL, 'one'], [INITIAL, 'two'], [TRAILING, BYTES], [TRAILING, Buffer.from([255])], [IN_STATUS, BYTES]]);
    // node joins the values of a name that is there twice with a comma and a blank.
    const texts = (metadata) => metadata.get(INITIAL).join(', ');
    const bytes = (metadata, name) => Buffer.concat(metadata.get(name));
    const twice = Buffer.concat([BYTES, Buffer.from([255])]);
    await withClient(async (client) => {
      const { head, trailers } = await ask(client, 'UnaryCall', {}, sent);
      assert.equal(texts(head), 'one, two');
      same(bytes(trailers, TRAILING), twice);

      const call = client.FullDuplexCall(sent, within());
      const seen = {};
      call.on('metadata', (metadata) => { seen.head = metadata; });
      const status = new Promise((resolve) => { call.on('status', resolve); });
      call.end(outputs([1]));
      assert.equal((await all(call)).length, 1);
      assert.equal(texts(seen.head), 'one, two');
      same(bytes((await status).metadata, TRAILING), twice);

      const error = await fails(ask(client, 'UnaryCall', { response_status: { code: 10 } }, named([[IN_STATUS, BYTES]])));
      same(bytes(error.metadata, IN_STATUS), BYTES);
    });
  },

  /** Every code with a message that is more than ASCII, before and after messages. Then the peer is still well. */
  async status() {
    await withClient(async (client) => {
      for (let code = 1; code <= 16; code += 1) {
        const response_status = { code, message: `${code}${SPECIAL}` };
        const error = await fails(ask(client, 'UnaryCall', { response_status }));
        assert.deepEqual([error.code, error.details], [code, response_status.message]);
        const next = answers(client.StreamingOutputCall(outputs([1], { response_status }), within()));
        assert.equal((await next()).sequence, 0);
        const last = await fails(next());
        assert.deepEqual([last.code, last.details], [code, response_status.message]);
      }
      for (let times = 0; times < 10; times += 1) {
        const error = await fails(ask(client, 'UnaryCall', { response_status: { code: 13, message: 'mine' } }));
        assert.deepEqual([error.code, error.details], [13, 'mine']);
      }
      await ask(client, 'UnaryCall', {});
      const error = await fails(ask(client, 'UnimplementedCall', {}));
      assert.equal(error.code, grpc.status.UNIMPLEMENTED);
    });
  },

  async status_details() {
    await withClient(async (client) => {
      const response_status = { code: 9, message: 'not now', details: BYTES };
      const error = await fails(ask(client, 'UnaryCall', { response_status }));
      assert.deepEqual([error.code, error.details], [9, 'not now']);
      same(error.metadata.get('grpc-status-details-bin')[0], BYTES);
    });
  },

  async deadline() {
    await withClient(async (client) => {
      await ask(client, 'UnaryCall', {});
      let error;
      let took;
      // tonic's server says CANCELLED of a deadline that it sees first. Over plain TCP as well, so it is not held against the way.
      for (let times = 0; times < 5; times += 1) {
        const began = Date.now();
        error = await fails(ask(client, 'UnaryCall', { sleep_ms: 60_000 }, undefined, within(500)));
        took = Date.now() - began;
        if (error.code !== grpc.status.CANCELLED || error.details !== 'Timeout expired') break;
      }
      assert.equal(error.code, grpc.status.DEADLINE_EXCEEDED, error.message);
      assert.ok(took > 400 && took < 5000, `after ${took} ms`);
    });
  },

  /** Of a stream whose requests have ended: node ends those of any other before it cancels, and a server may take that for the end. */
  async cancellation() {
    await withClient(async (client) => {
      const call = client.StreamingOutputCall({ responses: [{ size: 1 }, { interval_ms: 60_000 }] }, within());
      const next = answers(call);
      assert.equal((await next()).sequence, 0);
      call.cancel();
      assert.equal((await fails(next())).code, grpc.status.CANCELLED);
    });
  },

  async gzip() {
    await withClient(async (client) => {
      const request = { response_size: 314159, payload: { body: payload(271828) }, compress_response: true, expect_compressed: true };
      const { answer } = await ask(client, 'UnaryCall', request);
      assert.equal(answer.received_size, 271828);
      same(answer.payload.body, payload(314159));
    }, GZIP);
    await withClient(async (client) => {
      const { answer } = await ask(client, 'UnaryCall', { response_size: 9, expect_compressed: false });
      same(answer.payload.body, payload(9));
    });
  },

  /** grpc-js does not say whether an answer came compressed, so this one is spoken by hand over node's HTTP/2. */
  async gzip_on_the_wire() {
    const request = testing.v1.TestService.service.UnaryCall.requestSerialize({ response_size: 9999, compress_response: true });
    const head = Buffer.alloc(5);
    head.writeUInt32BE(request.length, 1);
    const session = http2.connect(`http://${options.target}`);
    try {
      const call = session.request({
        ':method': 'POST',
        ':path': '/tower_iroh.testing.v1.TestService/UnaryCall',
        'content-type': 'application/grpc',
        te: 'trailers',
        'grpc-accept-encoding': 'gzip',
      });
      const seen = {};
      call.on('response', (headers) => { seen.headers = headers; });
      call.on('trailers', (trailers) => { seen.trailers = trailers; });
      call.end(Buffer.concat([head, request]));
      const body = Buffer.concat(await all(call));
      assert.equal(seen.headers['grpc-encoding'], 'gzip');
      assert.equal(seen.trailers['grpc-status'], '0');
      assert.equal(body[0], 1, 'the flag of a compressed message');
      const answer = testing.v1.TestService.service.UnaryCall.responseDeserialize(zlib.gunzipSync(body.subarray(5)));
      same(answer.payload.body, payload(9999));
    } finally {
      session.close();
    }
  },

  async size_limits() {
    await withClient(async (client) => {
      const { answer } = await ask(client, 'Echo', { payload: payload(FITS) });
      same(answer.payload, payload(FITS));
      const large = await fails(ask(client, 'Echo', { payload: payload(FITS + 1) }));
      assert.equal(large.code, grpc.status.OUT_OF_RANGE, large.message);
      const stream = (size) => all(client.ServerStream({ count: 2, size }, within()));
      assert.deepEqual((await stream(FITS)).map((answer) => answer.payload.length), [FITS, FITS]);
      const error = await fails(stream(FITS + 1));
      assert.equal(error.code, grpc.status.RESOURCE_EXHAUSTED, error.message);
      await ask(client, 'Echo', {});
    }, {}, echo.v1.Echo);
  },

  /** A thousand calls by fifty callers over one channel. */
  async many_callers() {
    await withClient(async (client) => {
      const caller = async (_, first) => {
        for (let number = first; number < 1000; number += 50) {
          const request = { response_size: number, payload: { body: payload(1000 - number) } };
          const { answer } = await ask(client, 'UnaryCall', request);
          assert.deepEqual([answer.payload.body.length, answer.received_size], [number, 1000 - number]);
        }
      };
      await Promise.all(Array.from({ length: 50 }, caller));
    });
  },

  /** Pings are answered while a stream says nothing. */
  async keepalive() {
    await withClient(async (client) => {
      const call = client.StreamingOutputCall(outputs([1, 2], {}, seconds * 500), within(seconds * 1000 + PATIENCE));
      assert.deepEqual((await all(call)).map((answer) => answer.payload.body.length), [1, 2]);
      await ask(client, 'UnaryCall', {});
    }, PINGS);
  },

  /** The server goes and comes back: UNAVAILABLE, then well again. */
  async restart() {
    const backoff = { 'grpc.initial_reconnect_backoff_ms': 200, 'grpc.max_reconnect_backoff_ms': 200 };
    await withClient(async (client) => {
      await ask(client, 'UnaryCall', {});
      event('well');
      await waitFor('gone');
      for (let times = 0; times < 3; times += 1) {
        const error = await fails(ask(client, 'UnaryCall', {}));
        assert.equal(error.code, grpc.status.UNAVAILABLE, error.message);
      }
      event('unavailable');
      await waitFor('back');
      const ends = Date.now() + PATIENCE;
      for (;;) {
        try {
          await ask(client, 'UnaryCall', {});
          return;
        } catch (error) {
          assert.equal(error.code, grpc.status.UNAVAILABLE, error.message);
          assert.ok(Date.now() < ends, 'well again in time');
          // Asking is all one can do: the channel's own state says nothing of a server behind a gateway.
          await pause(50);
        }
      }
    }, backoff);
  },

  /** The server, or the peer on the way to it, is killed in the middle of a stream. The detail is the code. */
  async killed() {
    return withClient(async (client) => {
      const call = client.FullDuplexCall(within());
      const next = answers(call);
      call.write(outputs([1]));
      assert.equal((await next()).sequence, 0);
      event('streaming');
      const error = await fails(next());
      return grpc.status[error.code];
    });
  },

  /** As `keepalive`, and whoever should answer the pings is stopped. */
  async unanswered_pings() {
    await withClient(async (client) => {
      const call = client.FullDuplexCall(within());
      const next = answers(call);
      call.write(outputs([1]));
      assert.equal((await next()).sequence, 0);
      event('streaming');
      const error = await fails(next());
      assert.equal(error.code, grpc.status.UNAVAILABLE, error.message);
    }, PINGS);
  },
};

// These need somebody who kills or stops a server for them.
const LED = ['restart', 'killed', 'unanswered_pings'];

async function main() {
  const names = positionals.length ? positionals : Object.keys(cases).filter((name) => !LED.includes(name));
  let passed = true;
  for (const name of names) {
    const began = Date.now();
    let ok = true;
    let detail;
    try {
      detail = await cases[name]();
    } catch (error) {
      ok = false;
      detail = String(error.stack).slice(0, 1500);
    }
    passed &&= ok;
    console.log(JSON.stringify({ case: name, ok, detail: detail ?? '', seconds: (Date.now() - began) / 1000 }));
  }
  process.exit(passed ? 0 : 1);
}

main();
