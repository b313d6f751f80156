//! What a payload may hold beyond being JSON: every receiver's parser must be able to read it. RFC 8259 allows
//! halves of surrogate pairs and numbers of any size, on which parsers differ or fail; I-JSON (RFC 7493,
//! sections 2.1 and 2.2) does not. A payload is refused where it comes in, since afterwards it would be a dead
//! letter of each endpoint.

/// Why some receivers could not read a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("must hold whole characters: one of its \\u escapes is half of a surrogate pair")]
    HalfCharacter,
    #[error("must hold no number beyond 1.8e308, the range of a double")]
    HugeNumber,
}

/// A number with fewer bytes than this, and no exponent, is in range.
const SHORT_NUMBER: usize = 300;

/// # Errors
/// What some receivers could not read.
///
/// `json` is valid JSON; of anything else the answer says nothing.
pub fn check(json: &[u8]) -> Result<(), Unreadable> {
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = string(json, at + 1)?,
            b'-' | b'0'..=b'9' => at = number(json, at)?,
            _ => at += 1,
        }
    }
    Ok(())
}

/// Checks the string whose text begins here; answers where it is over.
fn string(json: &[u8], mut at: usize) -> Result<usize, Unreadable> {
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return Ok(at + 1),
            b'\\' => {
                at += match unit(json, at) {
                    None => 2,
                    Some(0xd800..=0xdbff) => match unit(json, at + 6) {
                        Some(0xdc00..=0xdfff) => 12,
                        _ => return Err(Unreadable::HalfCharacter),
                    },
                    Some(0xdc00..=0xdfff) => return Err(Unreadable::HalfCharacter),
                    Some(_) => 6,
                }
            }
            _ => at += 1,
        }
    }
    Ok(at)
}

/// The UTF-16 code unit of a `\u` escape.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn number(json: &[u8], at: usize) -> Result<usize, Unreadable> {
    let rest = json.get(at..).unwrap_or_default();
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
    let (digits, _) = rest.split_at(length);
    if length >= SHORT_NUMBER || digits.iter().any(|byte| byte.eq_ignore_ascii_case(&b'e')) {
        let read = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<f64>().ok());
        if read.is_some_and(f64::is_infinite) {
            return Err(Unreadable::HugeNumber);
        }
    }
    Ok(at + length.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_of_characters_and_huge_numbers_are_found() {
        let long = "9".repeat(400);
        for (json, expected) in [
            (r#""\ud800""#, Unreadable::HalfCharacter),
            (r#"{"\udc00":1}"#, Unreadable::HalfCharacter),
            (r#"["\uD83D\u0041"]"#, Unreadable::HalfCharacter),
            (r#"["\ud83d\\ude00"]"#, Unreadable::HalfCharacter),
            (r#"["\ude00\ud83d"]"#, Unreadable::HalfCharacter),
            (r#"{"a":[1,-1e400]}"#, Unreadable::HugeNumber),
            ("1E309", Unreadable::HugeNumber),
            (&long, Unreadable::HugeNumber),
        ] {
            assert_eq!(check(json.as_bytes()), Err(expected), "{json}");
        }
    }

    #[test]
    fn what_parsers_read_is_let_through() {
        let small = format!("0.{}1", "0".repeat(400));
        for json in [
            "",
            "null",
            r#""\ud83d\ude00 😀 \\ud800 \" \\""#,
            r#"{"\\":"\\","a":"\u00e9"}"#,
            "[1e308,-1.7e308,1e-400,0,-0.5,18446744073709551616,1]",
            r#"["1e400"]"#,
            &small,
        ] {
            assert_eq!(check(json.as_bytes()), Ok(()), "{json}");
        }
    }

    proptest! {
        #[test]
        fn text_that_is_written_by_a_parser_is_let_through(text in "\\PC{0,20}|[\"\\\\ude0-9a-f]{0,20}", number: f64) {
            let json = serde_json::json!({ &text: [&text, number] }).to_string();
            prop_assert_eq!(check(json.as_bytes()), Ok(()));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = check(&bytes);
        }
    }
}
