//! Texts of others, such as a receiver's answer, made fit for a terminal.

/// The text with control characters (and whatever else moves a cursor or turns the writing direction) escaped.
pub(crate) fn printable(text: &str) -> String {
    escaped(text.chars())
}

/// The first characters of it, so escaped.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    let mut shown = escaped(text.chars().take(characters));
    if text.chars().nth(characters).is_some() {
        shown.push('…');
    }
    shown
}

/// The same over several lines, which stay lines.
pub(crate) fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

fn escaped(characters: impl Iterator<Item = char>) -> String {
    let mut shown = String::new();
    for character in characters {
        match character {
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(character.escape_unicode());
            }
            control if control.is_control() => shown.extend(control.escape_debug()),
            plain => shown.push(plain),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_moves_its_cursor_or_turns_the_text() {
        assert_eq!(printable("a\x1b[2Jb\r\u{202e}c\n"), "a\\u{1b}[2Jb\\r\\u{202e}c\\n");
        assert_eq!(lines("a\nb\tc\n"), "a\nb\\tc");
        assert_eq!(shortened("überall", 4), "über…");
        assert_eq!(shortened("über", 4), "über");
    }
}
