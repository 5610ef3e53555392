// The parser that keeps the digits of numbers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Decimal, parseDecimals, stringifyDecimals } from '../dist/decimal.js';
import { randomSource } from './world.mjs';

test('texts come back digit by digit', () => {
  for (const text of [
    '0', '-0', '0.10', '1e400', '-1.50E-7', '12345678901234567890123', '[]', '{}', '[1,[2.0,{"a":3.00}]]', '"\\u0000\\"\\\\é😀"', 'true', 'null',
    '{"price":94000.5,"id":9007199254740993,"__proto__":{"x":1}}', '{"":0.1}',
  ]) assert.equal(stringifyDecimals(parseDecimals(text)), text === '"\\u0000\\"\\\\é😀"' ? JSON.stringify(JSON.parse(text)) : text);
  assert.equal({}.x, undefined, 'no prototype is changed');
  assert.deepEqual(parseDecimals(' [ "a" , false ] '), ['a', false]);
});

test('everything but numbers is read as JSON.parse reads it, and what is not JSON is refused', () => {
  const random = randomSource(1);
  const pieces = ['{', '}', '[', ']', ',', ':', '"a"', '"\\n"', '1', '-', '.5', 'true', 'null', ' ', '\\', '"', '\t', 'e', '01', '2.', '"\u0001"', '\u00a0'];
  const plain = (value) => (value instanceof Decimal ? Number(value) : Array.isArray(value) ? value.map(plain)
    : value && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([key, member]) => [key, plain(member)])) : value);
  let valid = 0;
  for (let n = 0; n < 40_000; n++) {
    const text = Array.from({ length: 1 + Math.floor(random() * 7) }, () => pieces[Math.floor(random() * pieces.length)]).join('');
    let expected;
    try { expected = { value: JSON.parse(text) }; } catch { expected = undefined; }
    let got;
    try { got = { value: plain(parseDecimals(text)) }; } catch (error) { assert.ok(error instanceof SyntaxError); got = undefined; }
    assert.deepEqual(got, expected, text);
    if (expected) valid += 1;
  }
  assert.ok(valid > 200);
  assert.throws(() => parseDecimals('['.repeat(200) + ']'.repeat(200)), /nested deeper/);
});

test('decimals compare by value and convert', () => {
  const values = ['-1e3', '-2', '-0.5', '0', '1e-400', '0.1', '0.10000000000000000001', '1', '1.5', '20', '12345678901234567890', '1e400'];
  for (const [a, left] of values.entries()) {
    for (const [b, right] of values.entries()) {
      assert.equal(Math.sign(new Decimal(left).compare(new Decimal(right))), Math.sign(a - b), `${left} ${right}`);
    }
  }
  assert.ok(new Decimal('1.0').equals(new Decimal('10e-1')) && new Decimal('-0').equals(new Decimal('0.00')));
  assert.equal(new Decimal('0.1') * 10, 1);
  assert.equal(new Decimal('12345678901234567890').toBigInt(), 12345678901234567890n);
  assert.equal(new Decimal('1.5e1').toBigInt(), 15n);
  assert.throws(() => new Decimal('1.5').toBigInt(), RangeError);
  assert.throws(() => new Decimal('01'), SyntaxError);
  assert.equal(JSON.stringify({ price: new Decimal('0.10') }), '{"price":"0.10"}');
});
