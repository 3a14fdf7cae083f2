// Builds host/dist, the page of Headlamp that the browser test opens.
import react from '@vitejs/plugin-react';
import { build } from 'vite';
import svgr from 'vite-plugin-svgr';

const root = new URL('../host/', import.meta.url).pathname;
const out = process.argv[2] ?? 'dist';

await build({
  configFile: false,
  root,
  logLevel: 'warn',
  plugins: [react(), svgr({ svgrOptions: { titleProp: true, ref: true }, include: '**/*.svg' })],
  resolve: { alias: { path: 'path-browserify' } },
  define: { 'process.env': {}, global: 'globalThis' },
  build: {
    outDir: out,
    emptyOutDir: true,
    target: 'es2022',
    // Read by nobody, and minifying takes most of the time.
    minify: false,
    chunkSizeWarningLimit: 100_000,
    rollupOptions: { onwarn() {} },
  },
});
