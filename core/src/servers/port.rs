//! Loopback ports of our own choice, remembered in the data directory so that addresses survive restarts.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use rand::Rng;

use super::ServerError;

/// Below the ranges from which Linux (32768..) and macOS (49152..) take ports for outgoing connections, so
/// that nobody's outgoing connection can hold the port of a server that restarts.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// The port remembered in `file` if it is free, else a new one, which is remembered.
pub(super) fn remembered(file: &Path) -> Result<u16, ServerError> {
    let known = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    if let Some(port) = known.filter(|port| is_free(*port)) {
        return Ok(port);
    }
    fresh(file)
}

/// A port that is free, remembered in `file`. Another process may still take it first: the caller tries
/// again when its server can't bind.
pub(super) fn fresh(file: &Path) -> Result<u16, ServerError> {
    let port = choose().map_err(ServerError::file("choose a port for", file))?;
    fs::write(file, port.to_string()).map_err(ServerError::file("write", file))?;
    Ok(port)
}

pub(super) fn choose() -> std::io::Result<u16> {
    let mut random = rand::rng();
    std::iter::repeat_with(|| random.random_range(RANGE))
        .take(1000)
        .find(|port| is_free(*port))
        .ok_or_else(|| std::io::Error::other("no free port between 20000 and 32000"))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_remembered_while_it_is_free_and_replaced_when_it_is_taken() {
        let file = std::env::temp_dir().join(format!("eventrail-port-{}", uuid::Uuid::new_v4()));
        let first = remembered(&file).unwrap();
        assert_eq!(remembered(&file).unwrap(), first);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        assert_ne!(remembered(&file).unwrap(), first);
        fs::remove_file(file).unwrap();
    }
}
