//! One macro for the texts that exist only valid (event types, sources, keys, names): parsed once at the
//! edge, cheap to clone, the same in JSON, in the database and in logs.

/// `text_value!(/// docs  Name, InvalidName, is_valid: fn(&str) -> bool, "what a valid one looks like")`.
/// The rule is the error's whole text, so that a caller can put the field's name before it.
macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident, $error:ident, $is_valid:path, $rule:literal) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
        #[error($rule)]
        pub struct $error;

        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                if $is_valid(text) { Ok(Self(text.into())) } else { Err($error) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::text::parsed(deserializer, $rule)
            }
        }
    };
}

pub(crate) use text_value;

/// Deserialises a string by its `FromStr`, without a copy of the text in between.
pub(crate) fn parsed<'de, T, D>(deserializer: D, expecting: &'static str) -> Result<T, D::Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
    D: serde::Deserializer<'de>,
{
    struct Parse<T>(&'static str, std::marker::PhantomData<T>);

    impl<T: std::str::FromStr<Err: std::fmt::Display>> serde::de::Visitor<'_> for Parse<T> {
        type Value = T;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a string that {}", self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Parse(expecting, std::marker::PhantomData))
}
