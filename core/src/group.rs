//! Names of consumer groups. They appear in URLs, in Redis keys (within braces) and as metric labels, hence
//! the narrow grammar.

use crate::text::text_value;

text_value!(
    /// A consumer group: a set of endpoints with one stream and one cursor.
    GroupName,
    InvalidGroupName,
    is_group_name,
    "must be 1 to 64 characters of a-z 0-9 _ -, the first a letter or digit"
);

impl GroupName {
    /// The group that exists from the start.
    pub fn default_group() -> Self {
        Self("default".into())
    }

    pub fn is_default(&self) -> bool {
        self.as_str() == "default"
    }
}

fn is_group_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 64
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slugs_are_group_names() {
        for text in ["default", "a", "0", "billing-eu_2", &"x".repeat(64)] {
            assert_eq!(text.parse::<GroupName>().unwrap().as_str(), text);
        }
        assert!(GroupName::default_group().is_default());
        assert_eq!("default".parse(), Ok(GroupName::default_group()));
    }

    #[test]
    fn other_texts_are_no_group_names() {
        for text in ["", "-a", "_a", "A", "a.b", "a{b}", "a b", "é", &"x".repeat(65)] {
            assert_eq!(text.parse::<GroupName>(), Err(InvalidGroupName), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_the_grammar_makes_is_a_group_name(text in "[a-z0-9][a-z0-9_-]{0,63}") {
            prop_assert_eq!(text.parse::<GroupName>().unwrap().to_string(), text);
        }
    }
}
