//! The OpenAPI document, made from the handlers' own annotations.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::api::{messages, ops, runs, sessions, tokens, turns};

#[derive(OpenApi)]
#[openapi(
    info(title = "Mainspring", description = "One durable orchestrator for conversations."),
    paths(
        messages::send, messages::show, turns::show, sessions::show, sessions::events, sessions::emit,
        runs::list, runs::show, runs::cancel, runs::resume, runs::signal, runs::start,
        tokens::create, tokens::list, tokens::revoke,
        ops::healthz, ops::readyz, ops::metrics, ops::openapi,
    ),
    modifiers(&BearerToken),
    security(("token" = [])),
)]
struct Api;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = openapi.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The document, as JSON.
pub fn document() -> String {
    Api::openapi().to_json().unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
}
