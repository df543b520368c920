// Functions with types, as a plugin: nothing of rpchost's is in here. What they throw has the form
// of the WIT's `fault`, and is the `err` that callers get.

// The last one below 2^53: beyond, numbers are not exact.
const LAST = 78;

export const api = {
  fib(n) {
    if (n > LAST) throw { tag: "too-large" };
    let [a, b] = [0, 1];
    for (let i = 0; i < n; i++) [a, b] = [b, a + b];
    return a;
  },

  statistics(readings) {
    if (readings.length === 0) throw { tag: "no-readings" };
    const odd = readings.find(({ value }) => !Number.isFinite(value));
    if (odd) throw { tag: "not-a-number", val: odd.sensor };
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

function median(readings) {
  // An array of numbers alone is sorted as numbers, not as texts.
  const values = Float64Array.from(readings, ({ value }) => value).sort();
  const middle = Math.floor(values.length / 2);
  return values.length % 2 === 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}
