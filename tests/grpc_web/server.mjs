// A server of gRPC, and of nothing else, over HTTP/2 in the clear.
import http2 from 'node:http2';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { Echo, Word } from './echo.mjs';

const handler = connectNodeAdapter({
  grpc: true,
  grpcWeb: false,
  connect: false,
  routes(router) {
    router.service(Echo, {
      say(word, context) {
        context.responseHeader.set('x-initial', 'first');
        context.responseTrailer.set('x-custom', 'last');
        return create(Word, { text: `you said ${word.text}` });
      },
      async *repeat(word) {
        for (let count = 1; count <= word.count; count += 1) {
          yield create(Word, { text: word.text, count });
        }
        if (word.text === 'break') {
          throw new ConnectError('it broke: 100 %', Code.DataLoss);
        }
      },
      fail(word) {
        throw new ConnectError(`no such word: ${word.text}`, Code.NotFound);
      },
      sleep(word, context) {
        return new Promise((_, reject) => {
          context.signal.addEventListener('abort', () => reject(context.signal.reason));
        });
      },
    });
  },
});
const server = http2.createServer(handler);
server.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ event: 'listening', listener: 'grpc', address: `127.0.0.1:${server.address().port}` }));
});
