//! What is broken when, drawn from a seed and nothing else: the same seed is the same plan.
//!
//! The kinds are dealt like a deck of cards, shuffled again whenever it is used up, so that each kind comes as
//! often as any other. After some faults there is a calm, in which everything must heal.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

macro_rules! kinds {
    ($($name:ident => $text:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Kind { $($name,)* }

        impl Kind {
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    KillApi => "API: kill -9",
    KillDispatcher => "dispatcher: kill -9",
    KillPostgres => "PostgreSQL: kill -9",
    KillRedis => "Redis: kill -9",
    FreezeApi => "API: SIGSTOP",
    FreezeDispatcher => "dispatcher: SIGSTOP",
    FreezePostgres => "PostgreSQL: SIGSTOP",
    FreezeRedis => "Redis: SIGSTOP",
    RollApis => "APIs: rolling restart",
    RollDispatchers => "dispatchers: rolling restart",
    RestartPostgres => "PostgreSQL: restarted",
    RestartRedis => "Redis: restarted empty",
    PromoteReplica => "Redis: replica promoted",
    FlushAll => "Redis: FLUSHALL",
    DeleteStream => "Redis: DEL of a stream",
    RedisFull => "Redis: at maxmemory",
    DiskFull => "PostgreSQL: disk full",
    ClockForward => "clock: forward",
    ClockBack => "clock: back",
    LinkCut => "link to a server: cut",
    LinkDelayed => "link to a server: delayed",
    LinkHalfOpen => "link to a server: half-open",
    LinkSlow => "link to a server: slow",
    ReceiverCut => "link to a receiver: cut",
    ReceiverDelayed => "link to a receiver: delayed",
    ReceiverHalfOpen => "link to a receiver: half-open",
    ReceiverSlow => "link to a receiver: slow",
}

/// What is broken. Two faults of the same target never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The two APIs are 0 and 1, the two dispatchers 2 and 3.
    Process(usize),
    /// Both APIs (`false`) or both dispatchers, one after the other.
    Fleet {
        dispatchers: bool,
    },
    Postgres,
    Redis,
    /// The live stream of a group, by its number.
    Stream(usize),
    Link {
        process: usize,
        redis: bool,
    },
    Receiver(usize),
}

/// How a link is half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfOpen {
    /// The connections that there are go silent, new ones work.
    Abandoned,
    /// Nothing passes and nothing is closed.
    Stalled,
    /// Requests pass, answers do not.
    Deaf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// After the beginning of the run, at the earliest.
    pub(crate) at: Duration,
    /// From the fault to its healing; zero where it heals by itself.
    pub(crate) lasts: Duration,
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    /// By how much: milliseconds of delay, bytes a second, seconds that a clock is stepped by, milliseconds that
    /// a replica is behind.
    pub(crate) amount: u32,
    pub(crate) half_open: HalfOpen,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "at {at:6.1} s for {lasts:3.1} s  {:30} {}", self.kind.name(), self.target)?;
        match self.kind {
            Kind::ClockForward | Kind::ClockBack => write!(f, ", by {} s", self.amount),
            Kind::LinkDelayed | Kind::ReceiverDelayed => write!(f, ", by {} ms", self.amount),
            Kind::LinkSlow | Kind::ReceiverSlow => write!(f, ", {} bytes/s", self.amount),
            Kind::LinkHalfOpen | Kind::ReceiverHalfOpen => write!(f, ", {:?}", self.half_open),
            Kind::PromoteReplica => write!(f, ", {} ms behind", self.amount),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = |number| format!("{}-{}", if number < 2 { "api" } else { "dispatcher" }, number % 2);
        match self {
            Self::Process(number) => f.write_str(&process(*number)),
            Self::Fleet { dispatchers } => {
                f.write_str(if *dispatchers { "both dispatchers" } else { "both APIs" })
            }
            Self::Postgres => f.write_str("PostgreSQL"),
            Self::Redis => f.write_str("Redis"),
            Self::Stream(number) => write!(f, "stream {number}"),
            Self::Link { process: number, redis } => {
                write!(f, "{} to {}", process(*number), if *redis { "Redis" } else { "PostgreSQL" })
            }
            Self::Receiver(number) => write!(f, "receiver {number}"),
        }
    }
}

/// Faults of these kinds for so long, each beginning within `length`.
pub(crate) fn draw(seed: u64, length: Duration, kinds: &[Kind]) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut deck: Vec<Kind> = Vec::new();
    let mut faults = Vec::new();
    let mut at = Duration::from_millis(random.random_range(1000..2500));
    while at < length {
        if deck.is_empty() {
            deck = kinds.to_vec();
            deck.shuffle(&mut random);
        }
        let Some(kind) = deck.pop() else { break };
        faults.push(draw_one(&mut random, at, kind));
        // One or two at a time: the next may come before this one is healed.
        let calm = if faults.len().is_multiple_of(6) { 5000 } else { 0 };
        at += Duration::from_millis(calm + random.random_range(1000..3000));
    }
    faults
}

fn draw_one(random: &mut StdRng, at: Duration, kind: Kind) -> Fault {
    use Kind as K;
    let milliseconds = match kind {
        K::FlushAll | K::DeleteStream | K::RollApis | K::RollDispatchers | K::RestartPostgres => 0..1,
        K::KillApi | K::KillDispatcher | K::KillPostgres | K::KillRedis => 0..1500,
        K::RestartRedis | K::PromoteReplica => 0..1500,
        // At times longer than the relay's lease and a dispatcher's announcement.
        K::FreezeApi | K::FreezeDispatcher => 300..8000,
        K::FreezePostgres | K::FreezeRedis | K::RedisFull | K::DiskFull => 500..3000,
        K::ClockForward | K::ClockBack => 1500..6000,
        K::LinkCut | K::LinkDelayed | K::LinkHalfOpen | K::LinkSlow => 500..5000,
        K::ReceiverCut | K::ReceiverDelayed | K::ReceiverHalfOpen | K::ReceiverSlow => 500..3000,
    };
    let amount = match kind {
        K::ClockForward | K::ClockBack => 1..3600,
        K::LinkDelayed | K::ReceiverDelayed => 20..400,
        K::LinkSlow | K::ReceiverSlow => 2_000..50_000,
        K::PromoteReplica => 0..1000,
        _ => 0..1,
    };
    // Drawn in any case, so that a fault's kind does not change what comes after it.
    let (process, other) = (random.random_range(0..4), random.random_range(0..3));
    let half_open = *[HalfOpen::Abandoned, HalfOpen::Stalled, HalfOpen::Deaf].choose(random).expect("three");
    let target = match kind {
        K::KillApi | K::FreezeApi => Target::Process(process % 2),
        K::KillDispatcher | K::FreezeDispatcher => Target::Process(2 + process % 2),
        K::ClockForward | K::ClockBack => Target::Process(process),
        K::RollApis => Target::Fleet { dispatchers: false },
        K::RollDispatchers => Target::Fleet { dispatchers: true },
        K::KillPostgres | K::FreezePostgres | K::RestartPostgres | K::DiskFull => Target::Postgres,
        K::KillRedis | K::FreezeRedis | K::RestartRedis | K::PromoteReplica | K::FlushAll | K::RedisFull => {
            Target::Redis
        }
        K::DeleteStream => Target::Stream(process % 2),
        K::LinkCut | K::LinkDelayed | K::LinkHalfOpen | K::LinkSlow => {
            Target::Link { process, redis: other == 0 }
        }
        K::ReceiverCut | K::ReceiverDelayed | K::ReceiverHalfOpen | K::ReceiverSlow => {
            Target::Receiver(other)
        }
    };
    let lasts = Duration::from_millis(random.random_range(milliseconds));
    Fault { at, lasts, kind, target, amount: random.random_range(amount), half_open }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(180);

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(draw(7, LENGTH, Kind::ALL), draw(7, LENGTH, Kind::ALL));
        assert_ne!(draw(7, LENGTH, Kind::ALL), draw(8, LENGTH, Kind::ALL));
    }

    #[test]
    fn twenty_seeds_of_three_minutes_draw_each_kind_ten_times() {
        let faults: Vec<Fault> = (1..=20).flat_map(|seed| draw(seed, LENGTH, Kind::ALL)).collect();
        for kind in Kind::ALL {
            let drawn = faults.iter().filter(|fault| fault.kind == *kind).count();
            assert!(drawn >= 10, "{} was drawn {drawn} times", kind.name());
        }
    }
}
