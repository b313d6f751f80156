//! An endpoint without a running API.

use sqlx::PgPool;

use crate::db::audit::Author;
use crate::db::endpoint::{self, NewEndpoint};
use crate::endpoint::{CustomHeaders, EndpointUrl};
use crate::group::GroupName;
use crate::ids::EndpointId;
use crate::matching::Filter;
use crate::secret::Secret;
use crate::start::Start;
use crate::vault::{SecretsKey, Vault};

/// Makes an endpoint of the default group that wants every event from now on.
pub async fn make_endpoint(pool: &PgPool, url: EndpointUrl) -> EndpointId {
    let author = Author { actor: "admin".into(), action: "test", address: String::new() };
    let vault = Vault::new(&SecretsKey::generate(), &[]);
    let new = NewEndpoint {
        url,
        description: String::new(),
        filter: Filter::default(),
        headers: CustomHeaders::default(),
        timeout_ms: None,
        max_in_flight: None,
        rate_per_second: None,
        retry: None,
        auth: None,
        secret: Secret::generate(),
        start: Start::Latest,
    };
    let made = endpoint::create(pool, &vault, &author, &GroupName::default_group(), &new).await.unwrap();
    let endpoint::Created::Created(made) = made else { panic!("not created") };
    made.id
}
