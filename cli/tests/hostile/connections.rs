//! Clients that take up room: many connections, slow heads and bodies, answers that nobody reads.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::door::{ADMIN, Door, read_answer};
use crate::http2::frame;

/// How many of these the other side has closed by now.
fn closed(streams: &[TcpStream]) -> usize {
    let is_closed = |stream: &&TcpStream| match stream.try_read(&mut [0; 16]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    streams.iter().filter(is_closed).count()
}

#[tokio::test]
async fn ten_thousand_idle_connections_keep_nobody_out() {
    // Two ends of each, and what else both processes have open.
    let given = eventrail_core::descriptors::raise().unwrap_or(u64::MAX);
    let most = usize::try_from(given.saturating_sub(500)).unwrap().min(11_000);
    let door = Door::open(&[]).await;
    let mut idle = Vec::new();
    door.holds("10,000 idle connections", async {
        while idle.len() < most {
            let more: JoinSet<_> = (0..100.min(most - idle.len()))
                .map(|_| {
                    let address = door.address;
                    async move { TcpStream::connect(address).await.unwrap() }
                })
                .collect();
            idle.extend(more.join_all().await);
        }
    })
    .await;
    let gone = closed(&idle);
    eprintln!("{} idle connections (11,000 if files allow), {gone} of them closed for others", idle.len());
    assert!(gone + 10_000 >= idle.len(), "no more were closed than had to be");
    assert!(gone > 0 || most < 10_500, "10,000 are kept at most");
    // One of those that are left is as good as any.
    let last = idle.last_mut().unwrap();
    last.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_answer(last).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn slow_heads_and_bodies_give_way_to_honest_requests() {
    let door = Door::open(&[("MAX_CONNECTIONS", "200")]).await;
    let mut slow = Vec::new();
    door.holds("slow heads and bodies, twice as many as there is room", async {
        for n in 0..400 {
            let mut stream = door.connect().await;
            let begun = match n % 4 {
                0 => "G".to_owned(),
                1 => format!("POST /events HTTP/1.1\r\nhost: x\r\nx-slow: {}", "y".repeat(8_000)),
                2 => "POST /events HTTP/1.1\r\nhost: x\r\n".to_owned(),
                _ => format!(
                    "POST /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\
                     content-type: application/json\r\ncontent-length: 9999\r\n\r\n{{\"event_type\":"
                ),
            };
            stream.write_all(begun.as_bytes()).await.unwrap();
            slow.push(stream);
        }
        // A further byte of each: whoever drips is no better off.
        for stream in &mut slow {
            let _ = stream.write_all(b"x").await;
        }
    })
    .await;
    let gone = closed(&slow);
    eprintln!("{gone} of {} slow requests were closed for others", slow.len());
    assert!(gone >= 200, "{gone}");
}

#[tokio::test]
async fn slow_batches_take_no_more_memory_than_bodies_may() {
    let door = Door::open(&[]).await;
    // 420 MiB, where bodies may take 128.
    let mut slow = Vec::new();
    door.holds("60 batches of 7 MiB that never end", async {
        let begun = format!(
            "POST /events/batch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\
             content-type: application/json\r\ncontent-length: 8000000\r\n\r\n{{\"events\":[\"",
        );
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..60 {
            let mut stream = door.connect().await;
            stream.write_all(begun.as_bytes()).await.unwrap();
            for _ in 0..7 {
                if stream.write_all(&chunk).await.is_err() {
                    break;
                }
            }
            slow.push(stream);
        }
    })
    .await;
    let gone = closed(&slow);
    eprintln!("{gone} of {} slow batches had to go", slow.len());
    assert!(gone > 20, "{gone}");
}

#[tokio::test]
async fn answers_that_nobody_reads_are_not_kept_in_memory() {
    let door = Door::open(&[]).await;
    let one = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    let many = one.repeat(500);
    let mut deaf = Vec::new();
    door.holds("pipelined requests whose answers nobody reads", async {
        for _ in 0..20 {
            let mut stream = door.connect().await;
            for _ in 0..40 {
                // Once the API does not take more, neither do its buffers.
                let sent = tokio::time::timeout(Duration::from_millis(100), stream.write_all(&many));
                if sent.await.is_err() {
                    break;
                }
            }
            deaf.push(stream);
        }
    })
    .await;

    // Those who read are answered, in order, however many they send at once.
    let mut stream = door.connect().await;
    let paths = ["/livez", "/nowhere"];
    let requests: String = (0..100)
        .map(|n| format!("GET {} HTTP/1.1\r\nhost: x\r\nx-request-id: {n}\r\n\r\n", paths[n % 2]))
        .collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut all = String::new();
    let mut some = [0; 4096];
    while all.matches("x-request-id: ").count() < 100 {
        let bytes = stream.read(&mut some).await.unwrap();
        assert!(bytes > 0, "{all}");
        all.push_str(&String::from_utf8_lossy(&some[..bytes]));
    }
    let order: Vec<usize> =
        all.lines().filter_map(|line| line.strip_prefix("x-request-id: ")?.trim().parse().ok()).collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn floods_of_http_2_frames_end_with_their_connection() {
    let door = Door::open(&[]).await;
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    // `:method: GET`, `:scheme: http`, `:path: /` and `:authority: x`.
    let head = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
    let opens_and_resets = |n: u32| {
        let stream = 2 * n + 1;
        [frame(1, 5, stream, &head), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let continues = |n: u32| match n {
        0 => frame(1, 0, 1, &head),
        _ => frame(9, 0, 1, &[&[0, 1, b'x', 127, 201, 30][..], &[b'y'; 4000]].concat()),
    };
    let settings = |_: u32| frame(4, 0, 0, &[]);
    let pings = |_: u32| frame(6, 0, 0, &[7; 8]);
    type Make<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let floods: [(&str, bool, Make<'_>); 4] = [
        ("HTTP/2, opened and reset", true, &opens_and_resets),
        ("HTTP/2, heads without an end", true, &continues),
        ("HTTP/2, settings that nobody reads the answers of", false, &settings),
        ("HTTP/2, pings that nobody reads the answers of", false, &pings),
    ];
    for (name, is_refused, make) in floods {
        let sent = door
            .holds(name, async {
                let mut stream = door.connect().await;
                stream.write_all(&preface).await.unwrap();
                let mut sent = 0_u32;
                for batch in 0..2_000 {
                    let frames: Vec<u8> = (0..50).flat_map(|n| make(batch * 50 + n)).collect();
                    // It is closed, or no more is read of it.
                    let writes = tokio::time::timeout(Duration::from_millis(100), stream.write_all(&frames));
                    if !matches!(writes.await, Ok(Ok(()))) {
                        break;
                    }
                    sent += 50;
                }
                sent
            })
            .await;
        eprintln!("{name}: {sent} were sent before the end");
        assert!(sent < 100_000 || !is_refused, "{name}: all were taken");
    }
}
