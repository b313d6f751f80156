//! Structured logs to standard error: one readable line, or one JSON object, for each thing that happened.

use crate::config::{LogFormat, TelemetryConfig};
use tracing_subscriber::EnvFilter;

/// Installs the process's subscriber.
///
/// # Errors
/// `RUST_LOG` does not parse, or a subscriber is installed already.
pub fn install(config: &TelemetryConfig) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&config.rust_log).map_err(|error| anyhow::anyhow!("RUST_LOG: {error}"))?;
    let on_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(on_terminal).with_writer(std::io::stderr);
    let installed = match config.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("{error}"))
}
