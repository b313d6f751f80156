//! What the caller may do: the one place where it is decided. Each handler states its role by what it
//! extracts: [`Operator`], [`Insider`], [`Member`] of a group, [`Sender`] or [`Reader`] of events. Another
//! team's group is not there for a caller: 404, never 403.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use eventrail_core::db::audit::Author;
use eventrail_core::db::event_list::Scope;
use eventrail_core::db::key::ApiKey;
use eventrail_core::event::Source;
use eventrail_core::group::GroupName;
use eventrail_core::key::Role;

use crate::extract::{group_name, no_such_group};
use crate::problem::{Kind, Problem};

#[derive(Clone)]
pub(crate) enum Who {
    /// The API is open.
    Anonymous,
    /// Has `ADMIN_TOKEN`.
    Admin,
    Key(Arc<ApiKey>),
}

/// Who asks, from where. Set by [`crate::auth`] on each request that needs a key.
#[derive(Clone)]
pub(crate) struct Caller {
    who: Who,
    address: Option<IpAddr>,
}

impl Caller {
    pub(crate) fn new(who: Who, address: Option<IpAddr>) -> Self {
        Self { who, address }
    }

    fn role(&self) -> Option<Role> {
        match &self.who {
            Who::Anonymous | Who::Admin => Some(Role::Operator),
            Who::Key(key) => key.role(),
        }
    }

    pub(crate) fn may_operate(&self) -> Result<(), Problem> {
        self.is_any_of(&[Role::Operator])
    }

    pub(crate) fn may_send(&self) -> Result<(), Problem> {
        self.is_any_of(&[Role::Producer, Role::Operator])
    }

    /// A producer's key may be bound to some sources.
    pub(crate) fn may_send_as(&self, source: &Source) -> Result<(), Problem> {
        match &self.who {
            Who::Key(key)
                if !key.sources.is_empty() && !key.sources.iter().any(|own| own == source.as_ref()) =>
            {
                let detail = format!("This key may not send events of the source {source}");
                Err(Problem::new(Kind::Forbidden, detail))
            }
            _ => Ok(()),
        }
    }

    /// What is inside of groups is for subscribers and operators.
    pub(crate) fn may_look_inside(&self) -> Result<(), Problem> {
        self.is_any_of(&[Role::Subscriber, Role::Operator])
    }

    pub(crate) fn may_enter(&self, group: &str) -> Result<(), Problem> {
        self.may_look_inside()?;
        match self.groups() {
            Some(own) if !own.iter().any(|name| name == group) => Err(no_such_group()),
            _ => Ok(()),
        }
    }

    /// The groups that a subscriber is bound to; `None` for who sees all.
    pub(crate) fn groups(&self) -> Option<&[String]> {
        match &self.who {
            Who::Key(key) if key.role() != Some(Role::Operator) => Some(&key.groups),
            _ => None,
        }
    }

    /// Which events the caller may read.
    pub(crate) fn scope(&self) -> Result<Scope, Problem> {
        match (&self.who, self.role()) {
            (_, Some(Role::Operator)) => Ok(Scope::All),
            (Who::Key(key), Some(Role::Subscriber)) => Ok(Scope::TargetedAt(key.groups.clone())),
            (Who::Key(key), Some(Role::Producer)) if key.sources.is_empty() => Ok(Scope::All),
            (Who::Key(key), Some(Role::Producer)) => Ok(Scope::Sources(key.sources.clone())),
            _ => Err(forbidden(&[])),
        }
    }

    /// For the audit log: `action` is the operation's id.
    pub(crate) fn author(&self, action: &'static str) -> Author {
        let actor = match &self.who {
            Who::Anonymous => "anonymous".to_owned(),
            Who::Admin => "admin".to_owned(),
            Who::Key(key) => key.id.to_string(),
        };
        let address = self.address.map_or_else(|| "unknown".to_owned(), |ip| ip.to_canonical().to_string());
        Author { actor, action, address }
    }

    fn is_any_of(&self, roles: &[Role]) -> Result<(), Problem> {
        if self.role().is_some_and(|role| roles.contains(&role)) { Ok(()) } else { Err(forbidden(roles)) }
    }

    fn of(parts: &Parts) -> Result<Self, Problem> {
        let missing = || Problem::new(Kind::Internal, "The request reached a handler without a caller");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}

fn forbidden(roles: &[Role]) -> Problem {
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    Problem::new(Kind::Forbidden, format!("This needs a key with the role {}", roles.join(" or ")))
}

/// Operators only.
pub(crate) struct Operator(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = Caller::of(parts)?;
        caller.may_operate()?;
        Ok(Self(caller))
    }
}

/// Producers, each of its own sources, and operators.
pub(crate) struct Sender(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Sender {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = Caller::of(parts)?;
        caller.may_send()?;
        Ok(Self(caller))
    }
}

/// Anybody with a key; which events they see is another matter.
pub(crate) struct Reader(pub(crate) Scope);

impl<S: Send + Sync> FromRequestParts<S> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Caller::of(parts)?.scope().map(Self)
    }
}

/// Subscribers, each within its own groups, and operators.
pub(crate) struct Insider(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Insider {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = Caller::of(parts)?;
        caller.may_look_inside()?;
        Ok(Self(caller))
    }
}

/// Subscribers of the group that the path names, and operators.
pub(crate) struct Member {
    pub(crate) caller: Caller,
    pub(crate) group: GroupName,
}

impl<S: Send + Sync> FromRequestParts<S> for Member {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::of(parts)?;
        caller.may_look_inside()?;
        let names = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let Path(names) = names.map_err(|_| no_such_group())?;
        let group = group_name(names.get("group").map(String::as_str).unwrap_or_default())?;
        caller.may_enter(group.as_ref())?;
        Ok(Self { caller, group })
    }
}
