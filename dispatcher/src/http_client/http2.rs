//! A connection of HTTP/2, which is hyper's: many requests at once, by a task of its own.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::destination::{Destination, OwnHeader};
use super::dial::Link;
use super::meter::Meter;
use super::taken::Taken;
use super::{MOST_BYTES, NotAnswered};

/// With what is read of an answer, as much as is ever sent of it.
const STREAM_WINDOW: u32 = MOST_BYTES as u32 / 2;
/// What is read of a body at most.
pub(super) const MOST_OF_BODY: usize = STREAM_WINDOW as usize;
const CONNECTION_WINDOW: u32 = 512 << 10;
pub(super) const HEADER_BYTES: u32 = 16 << 10;

#[derive(Clone)]
pub(super) struct Http2 {
    sender: SendRequest<Full<Bytes>>,
    meter: Meter,
}

impl Http2 {
    pub(super) async fn begin(link: Link) -> hyper::Result<Self> {
        let meter = link.meter().clone();
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_BYTES)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(TokioIo::new(link))
            .await?;
        // It ends with the connection, or once nobody holds a sender. Whoever waits for an answer hears why.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, meter })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) async fn ask(
        &mut self,
        to: &Destination,
        own: &[OwnHeader<'_>],
        body: Bytes,
    ) -> Result<Response<Incoming>, NotAnswered> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = to.uri.clone();
        *request.headers_mut() = to.headers.clone();
        for (name, value) in own {
            let value = HeaderValue::from_str(value).map_err(|error| NotAnswered::Failed(error.into()))?;
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        self.sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
            Some(_) => NotAnswered::Unsent(error.into_error().into()),
            None => NotAnswered::Failed(error.into_error().into()),
        })
    }

    /// # Errors
    /// Not all of it came, or it is more than is read of one: what came is in `taken`.
    pub(super) async fn read_body(&self, mut body: Incoming, taken: &mut Taken) -> Result<(), NotAnswered> {
        self.meter.answered();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| NotAnswered::Failed(error.into()))?;
            let piece = frame.into_data().unwrap_or_default();
            self.meter.took(piece.len());
            taken.add(&piece).map_err(|error| NotAnswered::Failed(error.into()))?;
        }
        Ok(())
    }
}
