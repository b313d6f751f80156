//! Which groups a request is about, where it is no path that names one: another team's group or endpoint is not
//! there, and all groups at once are the operators'.

use std::str::FromStr;

use eventrail_core::db::{endpoint, group};
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use serde::{Deserialize, Deserializer};

use crate::Api;
use crate::caller::Caller;
use crate::extract::{no_such_endpoint, no_such_group};
use crate::problem::Problem;

/// A group, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    Group(GroupName),
}

impl Reach {
    pub(super) fn group(self) -> Option<GroupName> {
        match self {
            Self::All => None,
            Self::Group(name) => Some(name),
        }
    }
}

impl<'de> Deserialize<'de> for Reach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "*" => Ok(Self::All),
            text => GroupName::from_str(text).map(Self::Group).map_err(serde::de::Error::custom),
        }
    }
}

/// The groups that a body means: the one that it names, or that of the endpoint that it names, or else
/// `otherwise`. All of this is there, and the caller's.
pub(super) async fn of_body(
    api: &Api,
    caller: &Caller,
    named: Option<Reach>,
    endpoint: Option<EndpointId>,
    otherwise: impl FnOnce(&Caller) -> Result<Reach, Problem>,
) -> Result<Reach, Problem> {
    let named = match named {
        Some(Reach::All) => {
            caller.may_operate()?;
            None
        }
        Some(Reach::Group(name)) => Some(existing(api, caller, name).await?),
        None if endpoint.is_some() => None,
        None => match otherwise(caller)? {
            Reach::All => None,
            Reach::Group(name) => Some(existing(api, caller, name).await?),
        },
    };
    let Some(endpoint) = endpoint else { return Ok(named.map_or(Reach::All, Reach::Group)) };
    let home = endpoint::group_of(&api.reads, endpoint).await?.ok_or_else(no_such_endpoint)?;
    let is_elsewhere = named.is_some_and(|name| name.as_str() != home);
    if is_elsewhere || caller.may_enter(&home).is_err() {
        return Err(no_such_endpoint());
    }
    home.parse().map(Reach::Group).map_err(|_| no_such_endpoint())
}

/// A group that is there and the caller's.
pub(super) async fn existing(api: &Api, caller: &Caller, name: GroupName) -> Result<GroupName, Problem> {
    caller.may_enter(name.as_str())?;
    group::get(&api.reads, &name).await?.ok_or_else(no_such_group)?;
    Ok(name)
}
