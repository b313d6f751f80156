//! Each way in which a request can fail has its word in `attempt.error`.

use std::net::{Ipv4Addr, SocketAddr};

use eventrail_core::testing::{Answer, Endpoint, Receiver};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::task::AbortOnDropHandle;

use crate::rail::Rail;

const SET_URL: &str = "update endpoint set url = $2, version = raise_topology_version() where id = $1";

/// An address that refuses connections, for as long as the socket is kept: bound, so that nobody else gets
/// the port, but not listening.
fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// What a raw server does once it has read something.
#[derive(Clone, Copy)]
enum Then {
    Answer(&'static str),
    /// Closes so that the other side gets an RST.
    Reset,
}

/// A server below HTTP, on a port of its own.
async fn raw_server(then: Then) -> (AbortOnDropHandle<()>, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 64];
            let _ = stream.read(&mut some).await;
            match then {
                Then::Answer(text) => {
                    let _ = stream.write_all(text.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
                Then::Reset => stream.set_zero_linger().unwrap(),
            }
        }
    });
    (AbortOnDropHandle::new(serving), address)
}

#[tokio::test]
async fn each_kind_of_failure_is_recorded_by_its_name() {
    let mut rail = Rail::without_dispatcher().await;
    let (_bound, closed) = closed_port();
    let plain = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let (_plain, plain) = raw_server(Then::Answer(plain)).await;
    let (_resets, resets) = raw_server(Then::Reset).await;
    rail.receiver.always("/closes", Answer::close());
    rail.receiver.always("/garbage", Answer::raw("this is not HTTP\r\n\r\n"));
    rail.receiver.always("/many", Answer::raw(too_many_headers()));
    rail.receiver.always("/hangs", Answer::hang());
    rail.receiver.always("/fails", Answer::status(500).body("broken"));
    rail.receiver.always("/asks", Answer::status(401));

    let mut endpoints: Vec<(Endpoint, &str)> = Vec::new();
    for (path, error) in [
        ("/closes", "reset"),
        ("/garbage", "protocol"),
        ("/many", "protocol"),
        ("/fails", "status"),
        ("/asks", "status"),
    ] {
        endpoints.push((rail.endpoint("default", path).await, error));
    }
    let impatient = rail.endpoint_with("default", "/hangs", json!({ "timeout_ms": 400 })).await;
    endpoints.push((impatient.clone(), "timeout"));
    // The rest can't be registered, or does not resolve, so the record is changed.
    for (n, (url, error)) in [
        (format!("http://{closed}/"), "connect"),
        (format!("http://{resets}/"), "reset"),
        (format!("https://{plain}/"), "tls"),
        (format!("https://{}/", rail.receiver.address()), "tls"),
        ("http://nosuch.invalid/".to_owned(), "dns"),
        ("http://10.0.0.1/".to_owned(), "egress_denied"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), "egress_denied"),
        ("http://[::ffff:10.0.0.1]/".to_owned(), "egress_denied"),
    ]
    .into_iter()
    .enumerate()
    {
        let endpoint = rail.endpoint("default", &format!("/changed-{n}")).await;
        rail.change(&endpoint, SET_URL, &url).await;
        endpoints.push((endpoint, error));
    }
    rail.add_dispatcher(&[("MAX_RETRIES", "0")]).await;
    let id = rail.api.post_event("a.b", "test", json!(1)).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;

    let mut wrong = Vec::new();
    for (endpoint, error) in &endpoints {
        let attempts = rail.attempts(&id, endpoint).await;
        assert_eq!(attempts.len(), 1, "{error}");
        let attempt = &attempts[0];
        eprintln!("{error}: {:?}, {:?}, {} ms", attempt.error, attempt.error_detail, attempt.duration_ms);
        if attempt.error.as_deref() != Some(*error) {
            wrong.push(format!("{error}: {attempt:?}"));
        }
        assert_eq!(attempt.status_code.is_some(), *error == "status", "{attempt:?}");
        let detail = attempt.error_detail.as_deref().unwrap_or_default();
        assert_eq!(detail.is_empty(), *error == "status", "{attempt:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rail.attempts(&id, &impatient).await[0].duration_ms >= 400);
    let rows = rail.stack.deliveries().await;
    assert_eq!(rows.len(), endpoints.len());
    for row in rows {
        let expected = endpoints.iter().find(|(endpoint, _)| endpoint.id == row.endpoint_id.to_string());
        assert_eq!(
            (row.status.as_str(), row.last_error.as_deref()),
            ("dead", expected.map(|(_, error)| *error))
        );
    }
    rail.end().await;
}

fn too_many_headers() -> String {
    let lines: String = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\n{lines}content-length: 0\r\n\r\n")
}

#[tokio::test]
async fn a_name_that_leads_to_a_forbidden_address_is_denied_when_it_is_connected_to() {
    let mut rail = Rail::without_dispatcher().await;
    let allowed = Receiver::start_on((Ipv4Addr::new(127, 0, 0, 2), 0).into()).await;
    let forbidden = &rail.receiver;
    let fine = rail.api.create_endpoint("default", &allowed.url("/")).await;
    let by_address = rail.api.create_endpoint("default", &forbidden.url("/")).await;
    let url = format!("http://localhost:{}/", forbidden.address().port());
    let by_name = rail.api.create_endpoint("default", &url).await;
    rail.add_dispatcher(&[("MAX_RETRIES", "0"), ("EGRESS_ALLOW", "127.0.0.2/32")]).await;
    let id = rail.api.post_event("a.b", "test", json!(1)).await;
    allowed.wait_for(1).await;
    rail.stack.assert_settled().await;
    for endpoint in [&by_address, &by_name] {
        let attempts = rail.attempts(&id, endpoint).await;
        assert_eq!((attempts.len(), attempts[0].error.as_deref()), (1, Some("egress_denied")));
        let detail = attempts[0].error_detail.as_deref().unwrap();
        assert!(detail.contains("loopback"), "{detail}");
    }
    assert_eq!(rail.attempts(&id, &fine).await[0].status_code, Some(200));
    assert_eq!(rail.receiver.count(), 0, "nothing was sent there");
    rail.end().await;
}
