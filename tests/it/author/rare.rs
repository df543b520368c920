//! Languages of the long runs: `tests/soak.sh`.

use super::languages::whole;

#[test]
fn zig() {
    whole("author", "zig", &["typed", "handler", "command"]);
}

#[test]
fn assemblyscript() {
    whole("author-rare", "assemblyscript", &["typed", "handler"]);
}
