//! The OpenAPI document, made from the handlers' own annotations.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::api::{
    audit, calls, config, follow_ups, incoming, messages, ops, publish, runs, sessions, state, streams, tokens, tools,
    turns, webhooks,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Mainspring", description = "One durable orchestrator for conversations."),
    paths(
        messages::send, messages::show, turns::show, turns::replay, sessions::show, sessions::events, sessions::emit,
        follow_ups::schedule, follow_ups::list, follow_ups::show, follow_ups::cancel,
        runs::list, runs::show, runs::cancel, runs::resume, runs::signal, runs::start,
        state::show, state::history, state::put, state::receipt,
        calls::standing, calls::commit_point, calls::session_state, calls::say, calls::event,
        tools::list, tools::show, tools::put, tools::remove, tools::activate, tools::execute, tools::execute_stream,
        tools::executions, tools::execution, tools::stream_of, tools::cancel, tools::compensate, tools::callback,
        audit::export, tools::attention, tools::settle, tools::execute_in_turn, tools::list_in_turn, tools::execution_in_turn,
        tools::confirm_in_turn,
        calls::put_artifact, calls::artifact, calls::begin_effect, calls::end_effect,
        incoming::challenge, incoming::take,
        config::draft, config::put_draft, config::draft_kind, config::put_draft_kind, config::remove_draft_kind,
        config::settings, config::put_settings, config::versions, config::version, config::diff, config::bundle,
        config::bundle_in_turn, config::content, config::put_content, config::pointer, config::pins, config::updates,
        publish::overview, publish::publish, publish::rollback, publish::canary, publish::end_canary, publish::promote,
        publish::show, publish::cancel, publish::collect, publish::rebuild_mirror,
        webhooks::create, webhooks::list, webhooks::show, webhooks::change, webhooks::remove, webhooks::verify,
        webhooks::pause, webhooks::resume, webhooks::test, webhooks::rotate, webhooks::attempts, webhooks::dead_letters,
        webhooks::replay, webhooks::replay_progress,
        streams::publish, streams::take, streams::ack, streams::nack, streams::dead_letter, streams::leave,
        streams::drop_group, streams::put, streams::list, streams::show, streams::replay, streams::events,
        tokens::create, tokens::list, tokens::revoke,
        ops::healthz, ops::readyz, ops::cluster, ops::metrics, ops::openapi,
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
        let of_turns = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("turn token").build();
        let of_calls = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("callback token").build();
        components.add_security_scheme("callback", SecurityScheme::Http(of_calls));
        components.add_security_scheme("turn", SecurityScheme::Http(of_turns));
    }
}

/// The document, as JSON.
pub fn document() -> String {
    Api::openapi().to_json().unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
}
