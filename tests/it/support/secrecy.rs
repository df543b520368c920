//! Whether a secret stands in a text, in any way that programs write bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// The first line that holds the secret: as text, as base64 of something around
/// it, as numbers or in hexadecimal.
pub fn betrayed<'a>(text: &'a str, secret: &str) -> Option<&'a str> {
    let ways = notations(secret);
    text.lines().find(|line| ways.iter().any(|way| line.contains(way.as_str())))
}

fn notations(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let each = |write: &dyn Fn(&u8) -> String, between: &str| {
        bytes.iter().map(write).collect::<Vec<_>>().join(between)
    };
    let mut ways = vec![
        secret.to_owned(),
        each(&|byte| format!("{byte}"), ", "),
        each(&|byte| format!("{byte}"), ","),
        each(&|byte| format!("0x{byte:02x}"), ", "),
        each(&|byte| format!("{byte:02x}"), ""),
        each(&|byte| format!("{byte:02X}"), ""),
        each(&|byte| format!("{byte:02x}"), " "),
    ];
    // Where it begins within a group of three bytes changes all characters; the
    // first and the last may belong to a neighbour, too.
    for before in 0..3 {
        let all = [&vec![0; before], bytes].concat();
        let first = (before * 8).div_ceil(6);
        ways.push(STANDARD_NO_PAD.encode(&all)[first..all.len() * 8 / 6].to_owned());
    }
    ways
}

#[test]
fn a_secret_is_found_however_it_is_written() {
    let secret = "kanarienvogel42";
    for (user, line) in [("a", "a:kanarienvogel42"), ("ab", "ab:kanarienvogel42!")] {
        let credentials = format!("\0{user}\0{secret}");
        for text in [
            line.to_owned(),
            format!("{:?}", credentials.as_bytes()),
            format!("Basic {}", STANDARD_NO_PAD.encode(format!("{user}:{secret}"))),
            format!("Basic {}", STANDARD_NO_PAD.encode(format!("{user}:{secret}!?"))),
            format!("Basic {}", STANDARD_NO_PAD.encode(format!("{user}.:{secret}!"))),
        ] {
            assert_eq!(betrayed(&format!("ok\n{text}\nok"), secret), Some(text.as_str()));
        }
    }
    assert_eq!(betrayed("kanarienvogel 42, [107, 97]", secret), None);
}
