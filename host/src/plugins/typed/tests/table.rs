//! The table of the mapping in `wit/README.md`, held to the code.

use super::{read, text, ty};

/// The rows of the first table behind this heading.
const HEADING: &str = "### The table";

#[test]
fn every_example_of_the_readme_holds_both_ways() {
    let readme = include_str!("../../../../../wit/README.md");
    let (_, section) = readme.split_once(HEADING).expect("the heading");
    let rows: Vec<&str> = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .collect();
    assert!(rows.len() >= 25, "the table was not found");
    let mut seen = String::new();
    for row in rows {
        // A `|` within a cell would be another cell: no example needs one.
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [types, canonical, also, _] = cells.as_slice() else { panic!("{row}") };
        let example = spans(canonical);
        let [example] = example.as_slice() else { panic!("one example: {row}") };
        for notation in spans(types) {
            let ty = ty(notation);
            let value = read(&ty, example).unwrap_or_else(|error| panic!("{row}: {error:?}"));
            assert_eq!(text(&ty, &value), *example, "{row}");
            for other in spans(also) {
                let other_value = read(&ty, other).unwrap_or_else(|e| panic!("{row}: {e:?}"));
                assert_eq!(text(&ty, &other_value), *example, "{other}: {row}");
            }
            seen.push_str(notation);
            seen.push(' ');
        }
    }
    for kind in [
        "bool",
        "u8 ",
        "s8",
        "u16",
        "s16",
        "u32",
        "s32",
        "u64",
        "s64",
        "f32",
        "f64",
        "char",
        "string",
        "list<u8>",
        "list<",
        "tuple<",
        "record",
        "variant",
        "enum",
        "flags",
        "option<",
        "option<option<",
        "result",
        "map<",
    ] {
        assert!(seen.contains(kind), "no example of `{kind}`");
    }
}

/// What stands between backticks.
fn spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}
