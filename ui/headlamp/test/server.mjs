// What Headlamp's server does, as far as the pages need it: the page, plugins, and the way to the API server.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { Agent, request } from 'node:https';
import { extname, join, normalize } from 'node:path';

const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
};

const LOCALES = new URL(
  '../node_modules/@kinvolk/headlamp-plugin/lib/i18n/locales',
  import.meta.url
).pathname;

// The API server of the test has made its certificate itself, and is on loopback.
const agent = new Agent({ rejectUnauthorized: false, keepAlive: true });

/** One request to the API server; rejects where it says no. */
export function ask(api, method, path, body) {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${api.token}`, 'content-type': 'application/json' };
    const outgoing = request(new URL(path, api.url), { method, headers, agent }, response => {
      let text = '';
      response.setEncoding('utf8').on('data', part => (text += part));
      response.on('end', () => {
        if (response.statusCode < 300) resolve(JSON.parse(text));
        else reject(new Error(`${method} ${path}: ${response.statusCode} ${text}`));
      });
    });
    outgoing.on('error', reject).end(body && JSON.stringify(body));
  });
}

/** Serves on loopback until `close`; `host` and `plugin` are folders. */
export async function serve({ api, host, plugin }) {
  const target = url => url.replace(/^\/clusters\/[^/]+/, '');
  const outgoing = incoming =>
    request(new URL(target(incoming.url), api.url), {
      method: incoming.method,
      headers: {
        ...incoming.headers,
        host: new URL(api.url).host,
        authorization: `Bearer ${api.token}`,
        origin: api.url,
      },
      agent: incoming.headers.upgrade ? new Agent({ rejectUnauthorized: false }) : agent,
    });

  const file = async (folder, name, response) => {
    const content = await readFile(join(folder, normalize(`/${name}`)));
    response
      .writeHead(200, { 'content-type': TYPES[extname(name)] ?? 'application/octet-stream' })
      .end(content);
  };
  const json = (response, value) =>
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));

  const server = createServer(async (incoming, response) => {
    const { pathname } = new URL(incoming.url, 'http://host');
    try {
      if (pathname === '/plugins') {
        json(response, [{ path: 'plugins/antrea', type: 'user', name: 'antrea' }]);
      } else if (pathname.startsWith('/plugins/antrea/')) {
        const name = pathname.slice('/plugins/antrea/'.length);
        // Plugins may bring translations; this one has none.
        if (name.startsWith('locales/')) json(response, {});
        else await file(plugin, name, response);
      } else if (pathname.startsWith('/clusters/') || pathname === '/api') {
        const forwarded = outgoing(incoming);
        forwarded.on('error', () => response.destroy());
        forwarded.on('response', answer => {
          response.writeHead(answer.statusCode, answer.headers);
          answer.pipe(response);
        });
        incoming.pipe(forwarded);
      } else if (pathname.startsWith('/assets/locales/')) {
        // Headlamp's translations, which its page imports as modules.
        const name = join(LOCALES, normalize(pathname.slice('/assets/locales'.length)));
        const text = await readFile(name, 'utf8').catch(() => '{}');
        response
          .writeHead(200, { 'content-type': 'text/javascript' })
          .end(`export default ${text}`);
      } else if (pathname.startsWith('/assets/')) {
        await file(host, pathname, response);
      } else {
        await file(host, 'index.html', response);
      }
    } catch {
      response.writeHead(404).end();
    }
  });
  server.on('upgrade', (incoming, socket) => {
    const forwarded = outgoing(incoming);
    const end = () => socket.destroy();
    socket.on('error', () => forwarded.destroy());
    forwarded.on('error', end).on('response', end);
    forwarded.on('upgrade', (answer, other, first) => {
      const lines = Object.entries(answer.headers).map(([name, value]) => `${name}: ${value}`);
      socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join('\r\n')}\r\n\r\n`);
      if (first.length > 0) socket.write(first);
      other.on('error', end).pipe(socket).pipe(other);
    });
    forwarded.end();
  });
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      server.close();
      agent.destroy();
    },
  };
}
