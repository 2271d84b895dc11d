// A provider of identities for tests: oidc-provider with everything in memory and its own pages to sign
// in. Whoever signs in as NAME gets the subject NAME; the roles are those after a plus sign, as in
// `ada+clinician`. Usage: node server.mjs REDIRECT_URI
import http from 'node:http';
import Provider from 'oidc-provider';

const [redirect] = process.argv.slice(2);
const server = http.createServer();
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
      client_id: 'moongate',
      client_secret: 'a secret & more: 100%',
      redirect_uris: [redirect],
      grant_types: ['authorization_code'],
      response_types: ['code'],
    }],
    claims: { openid: ['sub', 'roles'] },
    conformIdTokenClaims: false,
    cookies: { keys: ['not a secret'] },
    features: { devInteractions: { enabled: true } },
    pkce: { required: () => true },
    async findAccount(ctx, id) {
      const [, ...roles] = id.split('+');
      return { accountId: id, claims: async () => ({ sub: id, roles }) };
    },
  });
  server.on('request', provider.callback());
  console.log(JSON.stringify({ event: 'listening', listener: 'oidc', address: `127.0.0.1:${port}` }));
});
