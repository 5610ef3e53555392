// The packages as a project gets them: packed, unpacked into an empty folder, compiled, bundled and run.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildSync } from 'esbuild';
import { directory, root } from './support.mjs';

const clients = join(root, 'clients');
const here = join(clients, 'typescript/test/project');
const STRICT = ['--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--skipLibCheck', 'false'];

/** An empty project with the packed packages, and React beside them. */
function project(t) {
  const where = directory(t);
  for (const [folder, name] of [['typescript', 'client'], ['react', 'react']]) {
    const options = { cwd: join(clients, folder), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] };
    const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', where], options));
    const home = join(where, 'node_modules/@tickgate', name);
    mkdirSync(home, { recursive: true });
    execFileSync('tar', ['-xzf', join(where, filename), '-C', home, '--strip-components=1']);
  }
  for (const name of ['react', '@types', 'csstype']) symlinkSync(join(clients, 'react/node_modules', name), join(where, 'node_modules', name));
  writeFileSync(join(where, 'package.json'), '{"type":"module","private":true}');
  for (const name of ['app.ts', 'globals.d.ts']) copyFileSync(join(here, name), join(where, name));
  return where;
}

/** Compiles files of a project as a new project does, without output. Fails with what the compiler says. */
function compile(where, files, ...flags) {
  const compiler = join(clients, 'typescript/node_modules/typescript/bin/tsc');
  const args = [compiler, '--noEmit', '--target', 'es2022', '--lib', 'es2022,dom,dom.iterable', '--types', 'react', '--jsx', 'react-jsx', ...flags, ...files];
  try {
    execFileSync(process.execPath, args, { cwd: where, encoding: 'utf8' });
  } catch (error) {
    assert.fail(error.stdout);
  }
}

test('an application compiles with strict types, for Node and for a bundler, and runs', (t) => {
  const where = project(t);
  compile(where, ['app.ts'], ...STRICT, '--module', 'nodenext');
  compile(where, ['app.ts'], ...STRICT, '--module', 'esnext', '--moduleResolution', 'bundler');
  const { outputFiles: [{ text }] } = buildSync({ entryPoints: [join(where, 'app.ts')], bundle: true, format: 'esm', platform: 'browser', write: false });
  assert.doesNotMatch(text, /\bimport\b.*\bfrom\b|require\(/, 'a page needs nothing else');
  writeFileSync(join(where, 'run.mjs'), `
    import { createClient } from '@tickgate/client';
    import { parseDecimals } from '@tickgate/client/decimal';
    import { ZigQuantWebSocket } from '@tickgate/client/zigquant';
    console.log(createClient({ url: 'ws://127.0.0.1:1/ws', WebSocket: class {} }).state, String(parseDecimals('1.10')), new ZigQuantWebSocket().client);
  `);
  assert.equal(execFileSync(process.execPath, ['run.mjs'], { cwd: where, encoding: 'utf8' }), 'idle 1.10 undefined\n');
});

test('the examples in the documentation compile', (t) => {
  const where = project(t);
  const written = { strict: [], loose: [] };
  for (const page of ['clients/typescript/README.md', 'clients/react/README.md', 'docs/clients.md']) {
    for (const [, language, text] of readFileSync(join(root, page), 'utf8').matchAll(/```(ts|js|jsx)\n(.*?)```/gs)) {
      const kind = language === 'ts' ? 'strict' : 'loose';
      const name = `${page.replaceAll(/\W/g, '_')}_${written[kind].length}.${language}`;
      writeFileSync(join(where, name), `${text}\nexport {};\n`);
      written[kind].push(name);
    }
  }
  assert.ok(written.strict.length >= 5 && written.loose.length >= 3, JSON.stringify(written));
  compile(where, ['globals.d.ts', ...written.strict], ...STRICT, '--module', 'nodenext');
  // JavaScript declares no types, but it must not use what is not there.
  compile(where, ['globals.d.ts', ...written.loose], '--strict', '--noImplicitAny', 'false', '--allowJs', '--checkJs', '--module', 'nodenext');
});
