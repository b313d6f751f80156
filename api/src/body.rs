//! Bodies: read within a limit and a time, then parsed. Syntax is a 400, content a 422 with a pointer.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::problem::{Kind, Problem};
use crate::server::{BodyRoom, Guest};

/// A body that has not arrived by then is given up.
const READ_DEADLINE: Duration = Duration::from_secs(20);
/// So much of a body over the limit is read and dropped, so that its sender gets to read the answer.
const DRAINED_BYTES: usize = 16 << 20;
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// Parsers of many languages go no deeper than some hundreds.
const MAX_DEPTH: usize = 100;
/// Bodies other than events are small.
const SMALL_BODY_BYTES: usize = 64 << 10;

/// A body of JSON of at most 64 KiB, without unknown fields or repeated keys.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = read(request, SMALL_BODY_BYTES).await?;
        // Maps inside would take the last of several values for a key.
        parse::<UniqueKeys>(&bytes)?;
        parse::<Object<T>>(&bytes).map(|Object(body)| Self(body))
    }
}

/// A JSON merge patch (RFC 7396) of at most 64 KiB: an object without repeated keys.
pub(crate) struct MergePatch(pub(crate) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for MergePatch {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = read_as(&["application/merge-patch+json", "application/json"], request, SMALL_BODY_BYTES);
        let bytes = bytes.await?;
        parse::<UniqueKeys>(&bytes)?;
        parse::<Object<Map<String, Value>>>(&bytes).map(|Object(patch)| Self(patch))
    }
}

impl MergePatch {
    pub(crate) fn names(&self, member: &str) -> bool {
        self.0.contains_key(member)
    }

    /// What `document` becomes, read as if it had been sent whole; so pointers fit the patch as well.
    pub(crate) fn apply<T: DeserializeOwned>(&self, document: Map<String, Value>) -> Result<T, Problem> {
        let mut document = Value::Object(document);
        merge(&mut document, &Value::Object(self.0.clone()));
        parse::<Object<T>>(document.to_string().as_bytes()).map(|Object(whole)| whole)
    }
}

/// RFC 7396, section 2. As deep as the parser lets a patch be.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Reads a body that says it is JSON.
pub(crate) async fn read(request: Request, limit: usize) -> Result<Bytes, Problem> {
    read_as(&["application/json"], request, limit).await
}

async fn read_as(media_types: &[&str], request: Request, limit: usize) -> Result<Bytes, Problem> {
    expect_json(media_types, request.headers())?;
    let announced = content_length(request.headers());
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let guest = request.extensions().get::<Guest>().cloned();
    // From here on it is the client that is waited for.
    let waits = guest.as_ref().map(Guest::wait_for_client);
    let body = request.into_body();
    if announced.is_some_and(|length| length > limit as u64) {
        if !expects_continue {
            drain(body).await;
        }
        return Err(too_large(limit));
    }
    let body = tokio::time::timeout(READ_DEADLINE, collect(body, limit, BodyRoom::of(guest)))
        .await
        .unwrap_or_else(|_| Err(Problem::new(Kind::RequestTimeout, "The body had not arrived after 20 s")))?;
    drop(waits);
    check_depth(&body)?;
    Ok(body)
}

/// Payloads are kept as they are: what is nested deeper than parsers go would reach the receivers.
pub(crate) fn check_depth(json: &[u8]) -> Result<(), Problem> {
    if is_too_deep(json) {
        let detail = format!("The body may be nested {MAX_DEPTH} deep, so that everybody can read it");
        return Err(Problem::new(Kind::InvalidJson, detail));
    }
    Ok(())
}

fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

async fn collect(body: Body, limit: usize, mut room: BodyRoom) -> Result<Bytes, Problem> {
    let cut = |_| Problem::new(Kind::BadRequest, "The body broke off");
    let full = || Problem::new(Kind::Overloaded, "Too many bodies are being read; this one was not");
    let mut chunks = body.into_data_stream();
    let Some(first) = chunks.next().await.transpose().map_err(cut)? else { return Ok(Bytes::new()) };
    let Some(second) = chunks.next().await.transpose().map_err(cut)? else {
        return match first.len() {
            length if length > limit => Err(too_large(limit)),
            length if !room.holds(length).await => Err(full()),
            _ => Ok(room.with(first)),
        };
    };
    let mut whole = BytesMut::with_capacity((first.len() + second.len()).min(limit));
    let mut next = Some(second);
    whole.extend_from_slice(&first);
    while let Some(chunk) = next {
        if whole.len() + chunk.len() > limit {
            drain(Body::from_stream(chunks)).await;
            return Err(too_large(limit));
        }
        if !room.holds(whole.len() + chunk.len()).await {
            return Err(full());
        }
        whole.extend_from_slice(&chunk);
        next = chunks.next().await.transpose().map_err(cut)?;
    }
    Ok(room.with(whole.freeze()))
}

async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    let read = async {
        let mut left = DRAINED_BYTES;
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_DEADLINE, read).await;
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Kind::BodyTooLarge, format!("The body may have at most {limit} bytes"))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn expect_json(media_types: &[&str], headers: &HeaderMap) -> Result<(), Problem> {
    let value = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let media_type = value(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default();
    if !media_types.iter().any(|known| media_type.trim().eq_ignore_ascii_case(known)) {
        let detail = format!("Send JSON, with `Content-Type: {}`", media_types.join("` or `"));
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    match value(header::CONTENT_ENCODING) {
        None => Ok(()),
        Some(coding) if coding.trim().eq_ignore_ascii_case("identity") => Ok(()),
        Some(_) => Err(Problem::new(Kind::UnsupportedMediaType, "Send the body without a Content-Encoding")),
    }
}

/// Parses once; only a failure is looked into.
pub(crate) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, &error))
}

/// Says whether it is the syntax (400) or the content (422), and where.
#[cold]
fn explain<'a, T: Deserialize<'a>>(bytes: &'a [u8], error: &serde_json::Error) -> Problem {
    if error.classify() != Category::Data {
        return Problem::new(Kind::InvalidJson, error.to_string());
    }
    // A field of the wrong type may come before a syntax error: the syntax goes first.
    if let Err(syntax) = serde_json::from_slice::<IgnoredAny>(bytes) {
        return Problem::new(Kind::InvalidJson, syntax.to_string());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => Problem::field("", message(error)),
        Err(located) => Problem::field(pointer(located.path()), message(located.inner())),
    }
}

/// Without ` at line 1 column 20`: the pointer says where.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map(|(message, _)| message.to_owned()).unwrap_or(text)
}

/// The path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Map { key } => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => pointer.push_str(variant),
            Segment::Unknown => pointer.push('?'),
        }
    }
    pointer
}

/// A struct that is an object in JSON. Serde's own structs can be lists as well: `["a.b", "billing", 1]`
/// would be an event.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMaps<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMaps<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(OnlyMaps(PhantomData))
    }
}

/// Any JSON in which no object has a key twice.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if let Some(key) = seen.replace(key) {
                return Err(serde::de::Error::custom(format!("the key `{key}` comes twice")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn patches_merge_as_the_rfc_says() {
        for (original, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = original.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{original} {patch}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_too_deep(nested(MAX_DEPTH).as_bytes()));
        assert!(is_too_deep(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(!is_too_deep(format!("\"{}\"", "[".repeat(500)).as_bytes()));
        assert!(!is_too_deep(format!(r#""\"{}""#, "{".repeat(500)).as_bytes()));
        assert!(!is_too_deep("[{}],".repeat(500).as_bytes()));
    }
}
