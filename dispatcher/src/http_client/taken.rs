//! What is taken of an answer's body, whichever version of HTTP brought it.

use super::{KEEP_BYTES, PIECE_BYTES, TooMuch};

#[derive(Debug)]
pub(super) struct Taken {
    /// The beginning.
    pub(super) kept: Vec<u8>,
    read: usize,
    most: usize,
}

impl Taken {
    pub(super) fn at_most(most: usize) -> Self {
        Self { kept: Vec::new(), read: 0, most }
    }

    /// One more piece.
    ///
    /// # Errors
    /// It is more than is read.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<(), TooMuch> {
        let room = KEEP_BYTES - self.kept.len();
        self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
        self.read += piece.len().max(PIECE_BYTES);
        if self.read < self.most { Ok(()) } else { Err(TooMuch) }
    }
}
