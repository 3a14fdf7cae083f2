// Builds dist/main.js and dist/package.json, which together are the plugin, with the settings of Headlamp's plugin kit.
//
// React, MUI and Headlamp's own parts come from Headlamp at run time. Nothing of others is to be in the bundle, so that
// there is no licence to be told but this project's; the build fails otherwise, and when the bundle grows unawares.
import config from '@kinvolk/headlamp-plugin/config/vite.config.mjs';
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { build } from 'vite';

/** Bytes. */
const LARGEST = 100_000;

const root = new URL('../', import.meta.url).pathname;
process.chdir(root);
rmSync('dist', { recursive: true, force: true });

const ownOnly = {
  name: 'own-only',
  generateBundle(_, bundle) {
    const modules = Object.values(bundle).flatMap(chunk => Object.keys(chunk.modules ?? {}));
    const foreign = modules.filter(id => id.includes('node_modules'));
    if (foreign.length > 0) this.error(`the bundle has parts of others: ${foreign.join(', ')}`);
  },
};

await build({
  ...config,
  configFile: false,
  root,
  plugins: [...config.plugins, ownOnly],
  logLevel: 'warn',
});

const { name, version, description, license, devDependencies } = JSON.parse(
  readFileSync('package.json', 'utf8')
);
const kit = '@kinvolk/headlamp-plugin';
const told = {
  name,
  version,
  description,
  license,
  main: 'main.js',
  devDependencies: { [kit]: devDependencies[kit] },
};
mkdirSync('dist', { recursive: true });
writeFileSync('dist/package.json', JSON.stringify(told, null, 2) + '\n');

const { size } = statSync('dist/main.js');
console.log(
  `dist/main.js: ${size} bytes, ${gzipSync(readFileSync('dist/main.js')).length} compressed`
);
if (size > LARGEST) throw new Error(`dist/main.js is larger than ${LARGEST} bytes`);
