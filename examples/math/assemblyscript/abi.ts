// What passes between the host and this plugin: the canonical ABI, as far as it is needed here.
// The host has no types for AssemblyScript to bind to, so functions take and return addresses.

/** Memory that the host asks for, to put arguments into. */
export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  return old == 0 ? heap.alloc(size) : heap.realloc(old, size);
}

/** A `string` argument. */
export function text(address: usize, length: usize): string {
  return String.UTF8.decodeUnsafe(address, length);
}

/** Writes a `string` or a `list<u8>`, of the bytes of a text, to where a result has it. */
export function putText(at: usize, value: string): void {
  const bytes = String.UTF8.encode(value);
  const copy = heap.alloc(bytes.byteLength);
  memory.copy(copy, changetype<usize>(bytes), bytes.byteLength);
  store<u32>(at, <u32>copy);
  store<u32>(at, <u32>bytes.byteLength, 4);
}

/** Room for a result, of zeros. */
export function room(size: usize): usize {
  const at = heap.alloc(size);
  memory.fill(at, 0, size);
  return at;
}
