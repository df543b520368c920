//! A function with types, as a plugin: nothing of rpchost's is in here. The host
//! makes `math.fib` of it, whatever its callers speak.

use exports::example::math::api::{Fault, Guest};

wit_bindgen::generate!({ path: "wit", world: "plugin" });

/// The last one that fits into 64 bits.
const LAST: u32 = 92;

struct Math;

impl Guest for Math {
    fn fib(n: u32) -> Result<u64, Fault> {
        if n > LAST {
            return Err(Fault::TooLarge);
        }
        let (mut a, mut b) = (0u64, 1u64);
        for _ in 0..n {
            (a, b) = (b, a.wrapping_add(b));
        }
        Ok(a)
    }
}

export!(Math);
