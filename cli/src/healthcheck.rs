//! `eventrail healthcheck URL`: one GET over plain HTTP, for images that have no curl.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

#[derive(Debug, Clone, Args)]
pub(crate) struct HealthcheckArgs {
    /// Such as http://127.0.0.1:8080/readyz
    url: Url,
    /// How long to wait for the answer
    #[arg(long, default_value_t = 3000)]
    timeout_ms: u64,
}

/// # Errors
/// There was no answer, or another than 200.
pub(crate) async fn run(args: &HealthcheckArgs) -> anyhow::Result<()> {
    let status = tokio::time::timeout(Duration::from_millis(args.timeout_ms), status(&args.url))
        .await
        .with_context(|| format!("{} did not answer in time", args.url))?
        .with_context(|| args.url.to_string())?;
    ensure!(status == 200, "{} answered {status}", args.url);
    Ok(())
}

async fn status(url: &Url) -> anyhow::Result<u16> {
    if url.scheme() != "http" {
        bail!("only http is spoken here");
    }
    let host = url.host_str().context("no host")?;
    let port = url.port_or_known_default().unwrap_or(80);
    let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let request = format!("GET {} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n", url.path());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    // HTTP/1.1 200 OK (RFC 9112, section 4)
    let code = answer.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    code.context("not an answer in HTTP")
}
