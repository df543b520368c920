//! Programs of other languages' own tools, which run as they are.

use crate::core::{error, house};
use crate::support::fake_broker::delivery;
use crate::support::guests;

#[tokio::test]
async fn programs_in_go_zig_and_c_are_served_as_their_tools_made_them() {
    for (name, prefix) in
        [("go", "go.loud go.loud "), ("zig", "zig.loud "), ("c", "c.loud c.loud ")]
    {
        let wasm = guests::built(&format!("shout-{name}"));
        // A core module, not a component.
        assert!(wasm.starts_with(b"\0asm\x01\0\0\0"), "{name}");
        let house = house(&[(name, &wasm, "")], None);
        for _ in 0..20 {
            let answer = house.call(&format!("{name}.loud"), "shout this").await;
            assert_eq!(answer, ("ok".to_owned(), format!("{prefix}SHOUT THIS")), "{name}");
        }
        let failed = error(&house.reply(&delivery(Some(&format!("{name}.fail")), "")).await);
        assert_eq!(failed["kind"], "application", "{failed}");
        assert_eq!(failed["code"], 42, "{failed}");
        let said = failed["data"]["stderr"].as_str().unwrap().to_lowercase();
        assert_eq!(said, format!("the program in {name} has failed"));
    }
}

#[tokio::test]
async fn a_library_in_c_has_its_types_in_a_file_beside_it() {
    let wit = std::fs::read_to_string(guests::root().join("tests/fixtures/programs/sums.wit"));
    let house = super::core_modules::with_wit("sums", &guests::built("sums"), &wit.unwrap());
    let house = house.unwrap();
    assert_eq!(house.call("sums.add", "[2, 3]").await, ("ok".to_owned(), "5".to_owned()));
    assert_eq!(house.call("sums.mean", "[1, 2, 6]").await, ("ok".to_owned(), "3.0".to_owned()));
    assert_eq!(house.call("sums.add", "[2]").await.0, "invalid-params");
}
