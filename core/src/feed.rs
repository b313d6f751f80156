//! The kinds of feeds: cursors over the log, each copied by the relay into one Redis stream of one group.

use serde::{Deserialize, Serialize};

use crate::event::Source;
use crate::ids::ReplayId;
use crate::matching::Pattern;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedKind {
    /// A group's own: it has no end.
    Live,
    /// Brings one endpoint what it missed while it was parked.
    CatchUp,
    /// Brings one endpoint a window of the log again.
    Replay,
    /// Tries one endpoint's dead letters again.
    Redrive,
}

impl FeedKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::CatchUp => "catch_up",
            Self::Replay => "replay",
            Self::Redrive => "redrive",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Live, Self::CatchUp, Self::Replay, Self::Redrive]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }

    /// Whether it belongs to a replay that somebody asked for.
    pub fn is_asked_for(self) -> bool {
        matches!(self, Self::Replay | Self::Redrive)
    }
}

/// What a feed that goes back does up to the position at which it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoesBack {
    /// Up to here, inclusive, the endpoints and filters of this very position are addressed.
    pub as_of: i64,
    /// What was delivered before is left out.
    pub only_missing: bool,
    /// What receivers are told, where they may get something again on purpose.
    pub resend: Option<ReplayId>,
}

/// What a replay or redrive picks out of its window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub replay_id: ReplayId,
    pub event_type: Option<Pattern>,
    pub source: Option<Source>,
    /// The fingerprint of the dead letters of a redrive.
    pub error: Option<String>,
    /// Deliveries to publish in a second, over all feeds of the replay.
    pub rate_per_second: Option<u32>,
}

impl Selection {
    pub fn matches(&self, event_type: &str, source: &str) -> bool {
        self.event_type.as_ref().is_none_or(|pattern| pattern.matches(event_type))
            && self.source.as_ref().is_none_or(|wanted| wanted.as_str() == source)
    }
}
