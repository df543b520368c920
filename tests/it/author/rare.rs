//! Languages of the long runs: `tests/soak.sh`.

use super::examples::{RARE, called};
use super::languages::whole;

#[test]
fn zig() {
    whole("author", "zig", &["typed", "handler", "command"]);
}

#[test]
fn assemblyscript() {
    whole("author-rare", "assemblyscript", &["typed", "handler"]);
}

#[test]
fn the_example_in_zig() {
    called(&RARE[0]);
}

#[test]
fn the_example_in_assemblyscript() {
    called(&RARE[1]);
}
