//! Waiting for a condition that nothing announces, such as a row.

use std::time::Duration;

/// How long a test waits for what it expects, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until `condition` answers `Ok`; panics with its last complaint after [`PATIENCE`].
pub async fn eventually<T, E: std::fmt::Display>(condition: impl AsyncFnMut() -> Result<T, E>) -> T {
    eventually_within(PATIENCE, condition).await
}

/// Asks until `condition` answers `Ok`; panics with its last complaint after `patience`.
pub async fn eventually_within<T, E: std::fmt::Display>(
    patience: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(complaint) if tokio::time::Instant::now() > deadline => {
                panic!("after {} s still: {complaint}", patience.as_secs_f32())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
