//! The names of all keys and channels. The group stands in literal braces, a hash tag of Redis Cluster:
//! what one script touches lies in one slot.

use crate::group::GroupName;
use crate::ids::EndpointId;

/// The Redis consumer group of every stream.
pub const CONSUMER_GROUP: &str = "eventrail";

/// Entries that a DLQ stream holds, about; the record of dead letters is PostgreSQL.
pub const DLQ_CAP: usize = 10_000;

/// Makes keys under one prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The stream of a group's live feed. The first epoch has no number.
    pub fn live_stream(&self, group: &GroupName, epoch: i64) -> String {
        match epoch {
            0 => format!("{}.{{{group}}}.events", self.prefix),
            _ => format!("{}.{{{group}}}.events.{epoch}", self.prefix),
        }
    }

    /// The stream of a feed that has an end.
    pub fn feed_stream(&self, group: &GroupName, feed_id: i64, epoch: i64) -> String {
        match epoch {
            0 => format!("{}.{{{group}}}.feed.{feed_id}", self.prefix),
            _ => format!("{}.{{{group}}}.feed.{feed_id}.{epoch}", self.prefix),
        }
    }

    /// Position and event id of a stream's last entry.
    pub fn tail(stream: &str) -> String {
        format!("{stream}.tail")
    }

    /// The ZSET of a group's retries: member `event:endpoint`, score the due time in milliseconds.
    pub fn retry(&self, group: &GroupName) -> String {
        format!("{}.{{{group}}}.retry", self.prefix)
    }

    /// The streams that a group's dead letters are written to.
    pub fn dead_letters(&self, group: &GroupName) -> Vec<String> {
        let own = format!("{}.{{{group}}}.dlq", self.prefix);
        if group.as_ref() == "default" { vec![own, format!("{}.events.dlq", self.prefix)] } else { vec![own] }
    }

    /// When an endpoint with a rate limit may be sent to next.
    pub fn rate(&self, group: &GroupName, endpoint: EndpointId) -> String {
        format!("{}.{{{group}}}.rate.{endpoint}", self.prefix)
    }

    /// The key by which a consumer says that it lives.
    pub fn alive(&self, consumer: &str) -> String {
        format!("{}.consumer.{consumer}", self.prefix)
    }

    /// What probes write, to see whether anything can be written.
    pub fn probe(&self) -> String {
        format!("{}.probe", self.prefix)
    }

    /// Where relays hear that the log or the topology has grown.
    pub fn doorbell(&self) -> String {
        format!("{}.doorbell", self.prefix)
    }

    /// Where dispatchers hear which streams and retry sets have work.
    pub fn ready(&self) -> String {
        format!("{}.ready", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_carry_the_group_in_braces() {
        let keys = Keys::new("eventrail");
        let group: GroupName = "orders".parse().unwrap();
        assert_eq!(keys.live_stream(&group, 0), "eventrail.{orders}.events");
        assert_eq!(keys.live_stream(&group, 3), "eventrail.{orders}.events.3");
        assert_eq!(keys.feed_stream(&group, 7, 0), "eventrail.{orders}.feed.7");
        assert_eq!(keys.retry(&group), "eventrail.{orders}.retry");
        assert_eq!(keys.dead_letters(&group), ["eventrail.{orders}.dlq"]);
        assert_eq!(
            keys.dead_letters(&GroupName::default_group()),
            ["eventrail.{default}.dlq", "eventrail.events.dlq"]
        );
    }
}
