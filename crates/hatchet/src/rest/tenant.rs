//! The tenant.

use axum::Json;
use mainspring_core::Table;
use mainspring_core::row::{self, TenantRow, key};
use mainspring_engine::EngineError;

use super::models::{Meta, Tenant};
use super::problem::Problem;
use super::time::Time;
use super::{Answer, Call};

/// Who the caller is.
pub(super) async fn show(call: Call) -> Answer<Tenant> {
    let tenant = call.tenant;
    let found =
        call.hatchet.engine().read(tenant, move |reader| reader.get(Table::Tenant, &key::tenant(tenant))).await?;
    let body = found.ok_or_else(|| Problem::not_found("tenant", &tenant.to_string()))?;
    let row: TenantRow = row::decode(&body).map_err(|bad| EngineError::Unreadable { cause: bad.to_string() })?;
    let at = Time(row.created_at);
    Ok(Json(Tenant {
        metadata: Meta { id: tenant.to_string(), created_at: at, updated_at: at },
        slug: slug(&row.name),
        name: row.name,
        // SDKs warn of any other.
        version: "V1",
    }))
}

/// A name as it may stand in an address.
fn slug(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}
