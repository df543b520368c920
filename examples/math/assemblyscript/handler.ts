// Functions with types, as a plugin: nothing of rpchost's is in here. A type of WIT is a place in
// memory, laid out as the canonical ABI has it: of a class that is `@unmanaged`, the compiler lays
// out the fields alike.
import { room } from "./abi";

export { cabi_realloc } from "./abi";

/** `record reading`. Its sensor is the address and the length of a text, which is only passed on. */
@unmanaged
class Reading {
  sensor: usize;
  length: usize;
  value: f64;
}

/** The cases of `variant fault`. */
const TOO_LARGE: u8 = 0;
const NO_READINGS: u8 = 1;
const NOT_A_NUMBER: u8 = 2;

/** The last one below 2^53. */
const LAST: u32 = 78;

/** `fib` of the interface `api`: the address of a `result<u64, fault>`. */
export function apiFib(n: u32): usize {
  if (n > LAST) return err(24, TOO_LARGE);
  let a: u64 = 0;
  let b: u64 = 1;
  for (let i: u32 = 0; i < n; i++) {
    const next = a + b;
    a = b;
    b = next;
  }
  const result = room(24);
  store<u64>(result, a, 8);
  return result;
}

/** `statistics`: where `readings` are and how many, the address of a `result<summary, fault>`. */
export function apiStatistics(readings: usize, count: u32): usize {
  if (count == 0) return err(64, NO_READINGS);
  let lowest = reading(readings, 0);
  let highest = lowest;
  const values = new Float64Array(count);
  let sum: f64 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const next = reading(readings, i);
    if (!isFinite(next.value)) {
      const result = err(64, NOT_A_NUMBER);
      store<usize>(result, next.sensor, 12);
      store<usize>(result, next.length, 16);
      return result;
    }
    if (next.value < lowest.value) lowest = next;
    if (next.value > highest.value) highest = next;
    values[i] = next.value;
    sum += next.value;
  }
  // 0 for `ok`, and behind it, where 8 bytes are aligned, the fields of the summary.
  const result = room(64);
  store<u32>(result, count, 8);
  store<f64>(result, sum / count, 16);
  store<f64>(result, median(values), 24);
  memory.copy(result + 32, changetype<usize>(lowest), offsetof<Reading>());
  memory.copy(result + 48, changetype<usize>(highest), offsetof<Reading>());
  return result;
}

function reading(readings: usize, index: u32): Reading {
  return changetype<Reading>(readings + index * offsetof<Reading>());
}

/** The value in the middle, or half of the sum of the two there. Sorts them. */
function median(values: Float64Array): f64 {
  values.sort();
  const middle = values.length / 2;
  return values.length % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/** A result of that size: 1 for `err`, and behind it, where 8 bytes are aligned, the fault's case. */
function err(size: usize, fault: u8): usize {
  const result = room(size);
  store<u8>(result, 1);
  store<u8>(result, fault, 8);
  return result;
}
