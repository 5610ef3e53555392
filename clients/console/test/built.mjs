// Compiles the page's modules into a folder of their own, for the tests.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const here = dirname(fileURLToPath(import.meta.url));

export const built = mkdtempSync(join(tmpdir(), 'tickgate-console-'));
process.on('exit', () => rmSync(built, { recursive: true, force: true }));
execFileSync(process.execPath, [join(here, '../../typescript/node_modules/typescript/bin/tsc'), '-p', join(here, '..'), '--outDir', built], { stdio: 'inherit' });
writeFileSync(join(built, 'package.json'), '{"type":"module"}');
