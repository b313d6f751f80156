//! What a receiver answers over HTTP/1.1: whatever it sends, however it is cut, no more is kept of it than may be, and
//! it reads the same in one piece as in three.

use eventrail_dispatcher::{ReadAnswer, read_answer};

const MOST_KEPT: usize = 4 << 10;

/// The first two bytes say where it is cut, the rest is the answer.
pub fn run(data: &[u8]) {
    let [first, second, bytes @ ..] = data else { return };
    let at = |part: u8| bytes.len() * usize::from(part) / 256;
    let (from, to) = (at(*first).min(at(*second)), at(*first).max(at(*second)));
    let whole = read_answer(&[bytes]);
    let cut = read_answer(&[&bytes[..from], &bytes[from..to], &bytes[to..]]);
    if let Ok(Some(answer)) = &whole {
        is_sound(answer, bytes);
    }
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => assert_eq!(whole, cut, "cut at {from} and {to}"),
        // A head that has begun well is not looked at again before it may have ended.
        (Err(_), Err(_) | Ok(None)) => {}
        // Each piece of a body counts for something, so one that is cut may be too much.
        (Ok(_), Err(error)) => assert!(is_too_much(&**error), "cut at {from} and {to}: {error}"),
        (Err(error), Ok(_)) => panic!("only whole, not cut at {from} and {to}: {error}"),
    }
}

fn is_too_much(error: &dyn std::error::Error) -> bool {
    error.to_string().contains("more than is read")
}

fn is_sound(answer: &ReadAnswer, bytes: &[u8]) {
    assert!(answer.status == 101 || (200..=999).contains(&answer.status), "{}", answer.status);
    assert!(answer.body.len() <= MOST_KEPT && answer.left <= bytes.len());
    assert!(!matches!(answer.status, 101 | 204 | 304) || answer.body.is_empty());
    let head = bytes.len() - answer.left;
    // What is kept was sent, behind a head: in one piece, unless it came in chunks.
    let is_chunked = bytes.to_ascii_lowercase().windows(7).any(|window| window == b"chunked");
    assert!(head >= 12 || answer.body.is_empty());
    if !is_chunked && answer.body.len() < MOST_KEPT {
        assert!(bytes[..head].ends_with(&answer.body));
    }
    // Whose body has not ended has taken all that there is, but for a line that is not whole.
    assert!(answer.is_whole || is_chunked || answer.left == 0);
}
