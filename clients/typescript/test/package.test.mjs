// What is shipped: its size, its files, and the rules that it shares with the gateway.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { buildSync } from 'esbuild';
import { isPattern, matches } from '../dist/index.js';

const here = fileURLToPath(new URL('..', import.meta.url));
const manifest = JSON.parse(readFileSync(`${here}/package.json`, 'utf8'));

/** The bytes of an entry point with everything it imports, minified and compressed. */
function size(entry) {
  const { outputFiles } = buildSync({ entryPoints: [`${here}/${entry}`], bundle: true, minify: true, format: 'esm', target: 'es2022', write: false });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

test('the core has at most 12 KB, minified and compressed', (t) => {
  const bytes = size('dist/index.js');
  t.diagnostic(`${bytes} bytes; decimal: ${size('dist/decimal.js')}`);
  assert.ok(bytes <= 12 * 1024, `${bytes} bytes`);
});

test('the package has the compiled files of each source, their types, and nothing else', () => {
  const [{ files }] = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: here, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  const sources = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', 'src'], { cwd: here, encoding: 'utf8' }).trim().split('\n').map((path) => path.slice('src/'.length, -'.ts'.length));
  const expected = ['LICENSE-APACHE', 'LICENSE-MIT', 'README.md', 'package.json', ...sources.flatMap((name) => [`dist/${name}.d.ts`, `dist/${name}.js`])];
  assert.deepEqual(files.map(({ path }) => path).sort(), expected.sort());
  for (const { types, default: code } of Object.values(manifest.exports)) {
    for (const path of [types, code]) assert.ok(expected.includes(path.slice(2)), path);
  }
  assert.equal(manifest.dependencies, undefined, 'no runtime dependency');
});

test('the React package has the same kinds of files, and the client as a peer', () => {
  const react = `${here}/../react`;
  const [{ files }] = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: react, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  const expected = ['LICENSE-APACHE', 'LICENSE-MIT', 'README.md', 'dist/index.d.ts', 'dist/index.js', 'dist/store.d.ts', 'dist/store.js', 'package.json'];
  assert.deepEqual(files.map(({ path }) => path).sort(), expected);
  const { dependencies, peerDependencies } = JSON.parse(readFileSync(`${react}/package.json`, 'utf8'));
  assert.deepEqual([dependencies, peerDependencies], [undefined, { '@tickgate/client': manifest.version, react: '>=18' }]);
});

test("the demo's copy is what the compiler makes of the sources", (t) => {
  const file = join(mkdtempSync(join(tmpdir(), 'tickgate-')), 'client.js');
  t.after(() => rmSync(dirname(file), { recursive: true }));
  execFileSync('npm', ['run', '--silent', 'bundle', '--', `--outfile=${file}`], { cwd: here });
  const made = readFileSync(file, 'utf8');
  assert.ok(readFileSync(`${here}/../../crates/demo/src/client.js`, 'utf8') === made, 'run `npm run build && npm run bundle` in clients/typescript');
});

test('the API reference is generated without a warning', (t) => {
  const out = mkdtempSync(join(tmpdir(), 'tickgate-'));
  t.after(() => rmSync(out, { recursive: true }));
  execFileSync('npm', ['run', '--silent', 'docs', '--', '--out', out], { cwd: here, stdio: 'pipe', encoding: 'utf8' });
  assert.match(readFileSync(join(out, 'classes', 'index.Client.html'), 'utf8'), /subscribe/);
});

test('patterns are read and matched as the gateway does it', () => {
  const { grammar, matches: vectors, channels } = JSON.parse(readFileSync(`${here}/test/vectors/patterns.json`, 'utf8'));
  for (const { text, pattern } of grammar) assert.equal(isPattern(text), pattern, JSON.stringify(text));
  for (const { pattern, channels: matched } of vectors) {
    assert.deepEqual(channels.filter((channel) => matches(pattern, channel)), matched, pattern);
  }
  assert.ok(vectors.length > 30 && channels.length > 30);
});
