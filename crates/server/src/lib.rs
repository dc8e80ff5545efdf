//! The HTTP API, its authentication, and the pages.
//!
//! Every route but the health checks, the assets and the login is scoped to the tenant of the token it is called with.
//!
//! What this crate does not know: how decisions are made or stored, how a turn goes. It turns requests into commands,
//! and rows into JSON.

pub mod api;
pub mod auth;
pub mod metrics;
pub mod openapi;
pub mod pages;
pub mod problem;
pub mod sse;
pub mod state;
mod stream_events;
pub mod views;
pub mod web;
mod webhook_pages;
mod whose;

pub use auth::{Keys, KeysError};
pub use state::{AppState, ServerOptions};
pub use whose::whose;

use axum::Router;

/// All routes.
pub fn router(state: AppState) -> Router {
    Router::new()
        .merge(api::routes())
        .merge(web::routes())
        .method_not_allowed_fallback(problem::no_such_method)
        .fallback(problem::no_such_route)
        .with_state(state)
}
