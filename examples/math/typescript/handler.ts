// Functions with types, as a plugin: nothing of rpchost's is in here. The types are those of the
// WIT, as TypeScript sees them.

type Reading = { sensor: string; value: number };

type Summary = {
  count: number;
  mean: number;
  median: number;
  lowest: Reading;
  highest: Reading;
};

type Fault =
  | { tag: "too-large" }
  | { tag: "no-readings" }
  | { tag: "not-a-number"; val: string };

// The last one below 2^53: beyond, numbers are not exact.
const LAST = 78;

export const api = {
  fib(n: number): number {
    if (n > LAST) fail({ tag: "too-large" });
    let [a, b] = [0, 1];
    for (let i = 0; i < n; i++) [a, b] = [b, a + b];
    return a;
  },

  statistics(readings: Reading[]): Summary {
    if (readings.length === 0) fail({ tag: "no-readings" });
    const odd = readings.find(({ value }) => !Number.isFinite(value));
    if (odd) fail({ tag: "not-a-number", val: odd.sensor });
    const count = readings.length;
    return {
      count,
      mean: readings.reduce((sum, { value }) => sum + value, 0) / count,
      median: median(readings),
      lowest: readings.reduce((least, next) => (next.value < least.value ? next : least)),
      highest: readings.reduce((most, next) => (next.value > most.value ? next : most)),
    };
  },
};

/** What is thrown is the `err` that callers get. `throw` alone would take a value of any type. */
function fail(fault: Fault): never {
  throw fault;
}

function median(readings: Reading[]): number {
  // An array of numbers alone is sorted as numbers, not as texts.
  const values = Float64Array.from(readings, ({ value }) => value).sort();
  const middle = Math.floor(values.length / 2);
  return values.length % 2 === 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}
