//! Changing the key that secrets are sealed with. Safe to run while everything else does, and to run again.

use sqlx::PgPool;

use crate::ids::EndpointId;
use crate::vault::Vault;

/// Seals with the vault's current key whatever is sealed with another; answers how many.
///
/// # Errors
/// PostgreSQL is away, or a secret opens with none of the vault's keys: what came before it is sealed anew.
pub async fn rekey(pool: &PgPool, vault: &Vault) -> anyhow::Result<u64> {
    let secrets: Vec<(i64, EndpointId, Vec<u8>)> =
        sqlx::query_as("select id, endpoint_id, secret from endpoint_secret order by id")
            .fetch_all(pool)
            .await?;
    let mut sealed = 0;
    for (id, owner, envelope) in secrets {
        if let Some(new) = seal_anew(vault, owner, &envelope)? {
            sealed += sqlx::query("update endpoint_secret set secret = $2 where id = $1 and secret = $3")
                .bind(id)
                .bind(new)
                .bind(envelope)
                .execute(pool)
                .await?
                .rows_affected();
        }
    }
    let auths: Vec<(EndpointId, Vec<u8>)> =
        sqlx::query_as("select id, auth from endpoint where auth is not null").fetch_all(pool).await?;
    for (id, envelope) in auths {
        if let Some(new) = seal_anew(vault, id, &envelope)? {
            sealed += sqlx::query("update endpoint set auth = $2 where id = $1 and auth = $3")
                .bind(id)
                .bind(new)
                .bind(envelope)
                .execute(pool)
                .await?
                .rows_affected();
        }
    }
    Ok(sealed)
}

fn seal_anew(vault: &Vault, owner: EndpointId, envelope: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
    if vault.is_current(envelope) {
        return Ok(None);
    }
    let plaintext = vault
        .open(envelope, owner.0.as_bytes())
        .map_err(|error| anyhow::anyhow!("secret of {owner}: {error}"))?;
    Ok(Some(vault.seal(&plaintext, owner.0.as_bytes())))
}
