//! Languages of the long runs: `tests/soak.sh`.

use super::examples::{RARE, USUAL, called};
use super::languages::whole;
use super::swaps::swapped;

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

#[tokio::test(flavor = "multi_thread")]
async fn all_eight_take_turns_under_load_and_answer_alike() {
    swapped(&USUAL.iter().chain(&RARE).collect::<Vec<_>>()).await;
}
