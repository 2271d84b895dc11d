// Calls the service as pages do, by both clients that there are, and writes what came of it as JSON.
// Usage: node client.mjs BASE_URL
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import grpcWeb from 'grpc-web';
import xhr2 from 'xhr2';
import { Echo, Word } from './echo.mjs';

globalThis.XMLHttpRequest = xhr2.XMLHttpRequest ?? xhr2;
const [baseUrl] = process.argv.slice(2);
const authorization = 'Bearer anybody';

const failure = (error) => ({ code: error.code, message: error.rawMessage ?? error.message });

async function byConnect() {
  const client = createClient(Echo, createGrpcWebTransport({ baseUrl }));
  const said = {};
  const say = await client.say({ text: 'hello' }, {
    headers: { authorization },
    onHeader: (headers) => { said.initial = headers.get('x-initial'); },
    onTrailer: (trailers) => { said.custom = trailers.get('x-custom'); },
  });
  said.say = say.text;
  said.repeat = [];
  for await (const word of client.repeat({ text: 'again', count: 3 })) {
    said.repeat.push(word.count);
  }
  const broken = [];
  try {
    for await (const word of client.repeat({ text: 'break', count: 2 })) {
      broken.push(word.count);
    }
  } catch (error) {
    said.broken = { words: broken, ...failure(ConnectError.from(error)) };
  }
  said.fail = await client.fail({ text: 'x' }).catch((error) => failure(ConnectError.from(error)));
  said.late = await client.sleep({}, { headers: { 'grpc-timeout': '300m' } })
    .catch((error) => failure(ConnectError.from(error)).code);
  const refused = createClient(Echo, createGrpcWebTransport({ baseUrl: `${baseUrl}/signed` }));
  said.refused = await refused.say({ text: 'x' }).catch((error) => failure(ConnectError.from(error)).code);
  return said;
}

/// Google's own, which the compiler of protobuf writes clients for.
async function byGrpcWeb(format) {
  const client = new grpcWeb.GrpcWebClientBase({ format });
  const describe = (name, type) => new grpcWeb.MethodDescriptor(
    `/echo.Echo/${name}`, type, Object, Object,
    (word) => toBinary(Word, create(Word, word)),
    (bytes) => fromBinary(Word, new Uint8Array(bytes)),
  );
  const unary = (name, word, base = baseUrl, metadata = {}) => new Promise((resolve) => {
    client.rpcCall(`${base}/echo.Echo/${name}`, word, metadata, describe(name, grpcWeb.MethodType.UNARY), (error, answer) => {
      resolve(error ? failure(error) : answer.text);
    });
  });
  const streamed = (word) => new Promise((resolve) => {
    const words = [];
    const repeat = describe('Repeat', grpcWeb.MethodType.SERVER_STREAMING);
    const stream = client.serverStreaming(`${baseUrl}/echo.Echo/Repeat`, word, {}, repeat);
    stream.on('data', (answer) => words.push(answer.count));
    stream.on('error', (error) => resolve({ words, ...failure(error) }));
    stream.on('end', () => resolve(words));
  });
  const said = {};
  said.say = await unary('Say', { text: 'hello' });
  said.fail = await unary('Fail', { text: 'x' });
  said.refused = (await unary('Say', { text: 'x' }, `${baseUrl}/signed`)).code;
  said.late = (await unary('Sleep', {}, baseUrl, { 'grpc-timeout': '300m' })).code;
  if (format === 'text') { // this client streams in no other form
    said.repeat = await streamed({ text: 'again', count: 3 });
  }
  return said;
}

const said = { connect: await byConnect(), text: await byGrpcWeb('text'), binary: await byGrpcWeb('binary') };
console.log(JSON.stringify(said));
process.exit(0);
