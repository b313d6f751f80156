//! Clients whose requests are broken, forged, or made to be expensive.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use eventrail_core::testing::Api;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::door::{ADMIN, Door, read_answer};
use crate::wire::gzip_bomb;

/// A `POST /events` with these headers and this body.
fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The same with the length of the body.
fn event(body: &[u8]) -> Vec<u8> {
    post(&format!("content-length: {}\r\n", body.len()), body)
}

fn with_payload(payload: &[u8]) -> Vec<u8> {
    event(&[br#"{"event_type":"a.b","source":"s","payload":"#, payload, b"}"].concat())
}

fn status_of(answer: &str) -> &str {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or("none")
}

#[tokio::test]
async fn heads_that_are_too_large_or_broken_are_refused() {
    let door = Door::open(&[]).await;
    let get = |more: &[u8]| [&b"GET /livez HTTP/1.1\r\nhost: x\r\n"[..], more, b"\r\n"].concat();
    let large = |bytes: usize| [&b"x-large: "[..], &vec![b'y'; bytes], b"\r\n"].concat();
    let many: String = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let url = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(70_000));
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("a header of 40 KiB", get(&large(40 << 10)), &["431"]),
        ("a header of 1 MiB", get(&large(1 << 20)), &["431", "none"]),
        ("5,000 headers", get(many.as_bytes()), &["431", "none"]),
        ("a path of 70,000 bytes", url.into_bytes(), &["414", "431", "none"]),
        ("a NUL in a header", get(b"x-nul: a\0b\r\n"), &["400"]),
        ("a header without a name", get(b": x\r\n"), &["400"]),
        ("a space before the colon", get(b"x-space : y\r\n"), &["400"]),
        ("a folded header", get(b"x-folded: a\r\n b\r\n"), &["400"]),
        ("a bare carriage return", get(b"x-bare: a\rb\r\n"), &["400"]),
        ("no HTTP", b"this is not HTTP\r\n\r\n".to_vec(), &["400"]),
        ("HTTP/9.9", b"GET / HTTP/9.9\r\nhost: x\r\n\r\n".to_vec(), &["400"]),
        (
            "TLS where plain HTTP is spoken",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(9),
            &["400"],
        ),
        ("two lengths", post("content-length: 1\r\ncontent-length: 2\r\n", b"{}"), &["400"]),
        ("a length of -1", post("content-length: -1\r\n", b"{}"), &["400"]),
        ("a length of +1", post("content-length: +1\r\n", b"{}"), &["400"]),
        ("a length beyond numbers", post("content-length: 99999999999999999999999\r\n", b"{}"), &["400"]),
        ("a length of 2^63", post("content-length: 9223372036854775808\r\n", b"{}"), &["400", "413"]),
        (
            "an encoding that is not the last",
            post("transfer-encoding: chunked, gzip\r\n", b"0\r\n\r\n"),
            &["400"],
        ),
        ("an unknown encoding", post("transfer-encoding: identity\r\n", b"{}"), &["400"]),
        ("a chunk of no size", post("transfer-encoding: chunked\r\n", b"xyz\r\n{}\r\n0\r\n\r\n"), &["400"]),
        (
            "a chunk beyond all sizes",
            post("transfer-encoding: chunked\r\n", b"fffffffffffffffff\r\n"),
            &["400"],
        ),
    ];
    door.holds("broken heads", async {
        let mut wrong = Vec::new();
        for (name, request, expected) in &cases {
            let answer = door.say(request).await;
            let status = status_of(&answer);
            eprintln!("{name}: {status}");
            if !expected.contains(&status) {
                wrong.push(format!("{name}: {answer}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn a_request_within_a_request_is_not_answered() {
    let door = Door::open(&[]).await;
    let inner = format!("GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\r\n");
    for lengths in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n".to_owned(),
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n".to_owned(),
        "transfer-encoding: chunked\r\n".to_owned(),
    ] {
        let mut stream = door.connect().await;
        let both = [post(&lengths, b"0\r\n\r\n"), inner.clone().into_bytes()].concat();
        stream.write_all(&both).await.unwrap();
        let first = read_answer(&mut stream).await;
        assert_eq!(status_of(&first), "400", "{lengths}: an empty body is no event: {first}");
        assert!(first.to_ascii_lowercase().contains("connection: close"), "{lengths}: {first}");
        assert_eq!(read_answer(&mut stream).await, "", "{lengths}: the connection ends with it");
    }
}

#[tokio::test]
async fn bodies_made_to_break_parsers_are_refused() {
    let door = Door::open(&[]).await;
    let deep = |open: &str, close: &str, depth: usize| [open.repeat(depth), close.repeat(depth)].concat();
    let many_keys: String = (0..20_000).map(|n| format!("\"k{n}\":1,")).collect();
    let same_keys = r#"{"event_type":"a.b","source":"s","payload":1,"payload":2}"#;
    let bomb = gzip_bomb(64 << 20);
    let coded = |coding: &str| {
        post(&format!("content-encoding: {coding}\r\ncontent-length: {}\r\n", bomb.len()), &bomb)
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("100,000 brackets", with_payload(deep("[", "]", 100_000).as_bytes()), "400"),
        ("40,000 objects", with_payload(deep("{\"a\":", "}", 40_000).as_bytes()), "400"),
        ("brackets that never close", with_payload("[".repeat(200_000).as_bytes()), "400"),
        ("a key twice", event(same_keys.as_bytes()), "422"),
        ("the first half of a character", with_payload(br#""\ud83d""#), "422"),
        ("the second half of a character", with_payload(br#"{"\udc00":1}"#), "422"),
        ("a NUL as it is", with_payload(b"\"a\0b\""), "400"),
        ("a NUL in a source", event(br#"{"event_type":"a.b","source":"s\u0000","payload":1}"#), "422"),
        ("a NUL in a type", event(br#"{"event_type":"a.\u0000b","source":"s","payload":1}"#), "422"),
        ("bytes that are no UTF-8", with_payload(b"\"\xff\xfe\""), "400"),
        ("UTF-8 that is longer than it need be", with_payload(b"\"\xc0\x80\""), "400"),
        ("a half of a character in UTF-8", with_payload(b"\"\xed\xa0\x80\""), "400"),
        ("a byte order mark", event(b"\xef\xbb\xbf{}"), "400"),
        ("a number of 100,000 digits", with_payload("9".repeat(100_000).as_bytes()), "422"),
        ("an exponent beyond all numbers", with_payload(b"1e999999999"), "422"),
        ("20,000 unknown fields", event(format!("{{{many_keys}\"z\":1}}").as_bytes()), "422"),
        ("a bomb of gzip", coded("gzip"), "415"),
        ("a bomb in a bomb", coded("gzip, gzip"), "415"),
        ("a body of deflate", coded("deflate"), "415"),
        // These are odd, and harmless.
        ("an escaped NUL", with_payload(br#""a\u0000b""#), "201"),
        ("a whole character in halves", with_payload(br#""\ud83d\ude00""#), "201"),
        ("a key of a payload twice", with_payload(br#"{"a":1,"a":2}"#), "201"),
    ];
    door.holds("broken bodies", async {
        let mut wrong = Vec::new();
        for (name, request, expected) in &cases {
            let answer = door.say(request).await;
            eprintln!("{name}: {}", status_of(&answer));
            if status_of(&answer) != *expected {
                wrong.push(format!("{name}: {answer}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn keys_are_not_found_by_guessing_and_guesses_keep_no_known_key_waiting() {
    let door = Door::open(&[]).await;
    let made = door
        .api
        .post("/api-keys", &json!({ "name": "producer", "role": "producer", "sources": ["mine"] }))
        .await;
    let key = made.expect(201).body["key"].as_str().unwrap().to_owned();
    let producer = door.api.with_key(&key);
    let nobody = Api::new(door.api.base());
    let near = format!("{}{}", &key[..key.len() - 1], if key.ends_with('A') { 'B' } else { 'A' });
    for guess in [near.as_str(), &key[..key.len() - 1], &format!("{key}A"), "", "er_", &key.to_uppercase()] {
        let reply = nobody.with_key(guess).get("/events").await;
        assert_eq!(reply.status, 401, "{guess}: {}", reply.text);
        assert!(!reply.text.contains(&key));
    }
    let posted = Api::send(
        producer
            .request("POST", "/events")
            .json(&json!({ "event_type": "a.b", "source": "mine", "payload": 1 })),
    );
    let _ = posted.await.unwrap().expect(201);

    let (refused, later) = door
        .holds("5,000 guesses at keys", async {
            let guessing: JoinSet<_> = (0_u64..50)
                .map(|guesser| {
                    let nobody = nobody.clone();
                    async move {
                        let mut statuses = Vec::new();
                        for n in 0_u64..100 {
                            let mut guess = [7; 32];
                            guess[..8].copy_from_slice(&(guesser * 1000 + n).to_be_bytes());
                            let guess = format!("er_{}", URL_SAFE_NO_PAD.encode(guess));
                            statuses.push(nobody.with_key(guess).get("/events").await.status);
                        }
                        statuses
                    }
                })
                .collect();
            let honest = async {
                // A key that is in use is looked up again each second; none of these look-ups may fail.
                for _ in 0..60 {
                    let reply = producer.get("/events?limit=1").await;
                    assert_eq!(reply.status, 200, "{}", reply.text);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let (guessed, ()) = tokio::join!(guessing.join_all(), honest);
            let statuses: Vec<u16> = guessed.into_iter().flatten().collect();
            let count = |status: u16| statuses.iter().filter(|found| **found == status).count();
            assert_eq!(count(401) + count(503), statuses.len(), "{statuses:?}");
            (count(401), count(503))
        })
        .await;
    eprintln!("{refused} guesses were refused, {later} put off");
}

#[tokio::test]
async fn what_belongs_to_others_is_as_if_it_were_not_there() {
    let door = Door::open(&[]).await;
    let api = &door.api;
    api.create_group("theirs").await;
    api.create_group("mine").await;
    let theirs = api.create_endpoint("theirs", "http://127.0.0.1:9/theirs").await;
    let event = api.post_event("a.b", "theirs", json!("secret")).await;
    let key = async |body: Value| {
        let made = api.post("/api-keys", &body).await.expect(201);
        api.with_key(made.body["key"].as_str().unwrap())
    };
    let producer = key(json!({ "name": "p", "role": "producer", "sources": ["mine"] })).await;
    let subscriber = key(json!({ "name": "s", "role": "subscriber", "groups": ["mine"] })).await;
    let unknown_event = "evt_01h455vb4pex5vsknk084sn02q";
    let unknown_endpoint = "ep_01h455vb4pex5vsknk084sn02q";
    let paths = |group: &str, endpoint: &str, event: &str| {
        [
            format!("/consumer-groups/{group}"),
            format!("/consumer-groups/{group}/endpoints"),
            format!("/consumer-groups/{group}/endpoints/{endpoint}"),
            format!("/consumer-groups/{group}/endpoints/{endpoint}/secret"),
            format!("/consumer-groups/{group}/deliveries"),
            format!("/events/{event}"),
            format!("/events/{event}/deliveries"),
            format!("/deliveries/{event}/{endpoint}"),
        ]
    };
    let real = paths("theirs", &theirs.id, &event);
    let made_up = paths("nobodys", unknown_endpoint, unknown_event);
    for who in [&producer, &subscriber] {
        for (real, made_up) in real.iter().zip(&made_up) {
            let (real_reply, made_up_reply) = (who.get(real).await, who.get(made_up).await);
            assert!(matches!(real_reply.status, 403 | 404), "{real}: {}", real_reply.text);
            let told = |reply: &eventrail_core::testing::Reply| (reply.status, reply.body["detail"].clone());
            assert_eq!(told(&real_reply), told(&made_up_reply), "{real} is told from {made_up}");
            assert!(!real_reply.text.contains("secret\""), "{}", real_reply.text);
        }
    }
    let moved = format!("/consumer-groups/mine/endpoints/{}", theirs.id);
    assert_eq!(subscriber.get(&moved).await.status, 404, "another group's endpoint under one's own group");
    assert_eq!(subscriber.delete(&moved).await.status, 404);
    for odd in [
        "/events/%00",
        "/events/..%2f..%2fapi-keys",
        "/consumer-groups/%2e%2e/endpoints",
        "/events/evt_%F0%9F%98%80",
    ] {
        assert_eq!(api.get(odd).await.status, 404, "{odd}");
    }
}

#[tokio::test]
async fn nothing_is_smuggled_by_the_headers_that_endpoints_ask_for() {
    let door = Door::open(&[]).await;
    let endpoints = "/consumer-groups/default/endpoints";
    let made = door.api.create_endpoint("default", "http://127.0.0.1:9/a").await;
    let own = format!("{endpoints}/{}", made.id);
    // The characters of the second line have CR and LF as their low bytes.
    for value in
        ["a\r\nhost: b", "a\nb", "\u{560d}\u{560a}x: y", "a\0b", "\u{7f}", " a", "é", "a\u{2028}b", "a\u{b}b"]
    {
        for body in
            [json!({ "headers": { "x-a": value } }), json!({ "headers": { format!("x{value}"): "a" } })]
        {
            let mut whole = body.clone();
            whole["url"] = "http://127.0.0.1:9/b".into();
            assert_eq!(door.api.post(endpoints, &whole).await.status, 422, "{whole}");
            let patch = door.api.request("PATCH", &own).json(&body);
            assert_eq!(Api::send(patch).await.unwrap().status, 422, "{body}");
        }
    }
    for auth in [
        json!({ "type": "bearer", "token": "a\r\nx: y" }),
        json!({ "type": "bearer", "token": "\u{560d}\u{560a}" }),
    ] {
        let body = json!({ "url": "http://127.0.0.1:9/c", "auth": auth });
        assert_eq!(door.api.post(endpoints, &body).await.status, 422, "{body}");
    }
    for url in [
        "http://127.0.0.1:9/a\r\nx: y",
        "http://127.0.0.1:9/a b",
        "http://u:p@127.0.0.1:9/",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:9/",
    ] {
        assert_eq!(door.api.post(endpoints, &json!({ "url": url })).await.status, 422, "{url}");
    }
    // Answers carry what requests asked for nowhere but in the id, and there only plain words.
    let split = door.api.request("GET", "/livez").header("x-request-id", "a%0d%0ax:y");
    assert_ne!(Api::send(split).await.unwrap().header("x-request-id"), "a%0d%0ax:y");
}

#[tokio::test]
async fn patterns_cannot_be_made_slow() {
    let door = Door::open(&[]).await;
    let endpoints = "/consumer-groups/default/endpoints";
    for pattern in ["*.*", "**", "a*", "*.a", "a.*.b", "(a+)+$", "a.*.*", ".*", "a..*", ""] {
        let body = json!({ "url": "http://127.0.0.1:9/x", "event_types": [pattern] });
        assert_eq!(door.api.post(endpoints, &body).await.status, 422, "{pattern}");
        // Quotation marks and stars stand in queries as they are.
        let list = format!("/events?event_type={}", pattern.replace('+', "%2B"));
        assert_eq!(door.api.get(&list).await.status, 400, "{pattern}");
    }
    let long = |n: usize| format!("{}{n:03}.*", "a.".repeat(60));
    let many: Vec<String> = (0..100).map(long).collect();
    door.holds("300 endpoints with 100 patterns of 60 segments", async {
        for n in 0..300 {
            let body = json!({ "url": format!("http://127.0.0.1:9/{n}"), "event_types": many });
            let _ = door.api.post(endpoints, &body).await.expect(201);
        }
        let event_type = format!("{}zzz.z", "a.".repeat(60));
        for _ in 0..20 {
            let id = door.api.post_event(&event_type, "s", json!(1)).await;
            let _ = door.api.get(&format!("/events/{id}/deliveries")).await.expect(200);
            let _ = door.api.get(&format!("/events?event_type={}", long(5))).await.expect(200);
        }
        let _ = door
            .api
            .post(
                "/replay",
                &json!({ "from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "dry_run": true }),
            )
            .await
            .expect(200);
    })
    .await;
}
