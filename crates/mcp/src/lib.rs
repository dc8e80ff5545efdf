//! Tools over the Model Context Protocol (MCP), both ways over streamable HTTP.
//!
//! - [`discovery`] is a server: MCP clients list the tools of a tenant or an agent, and read what each tier holds. It only
//!   tells. Tools are executed through the HTTP API, where side effects are recorded; `tools/call` says so.
//! - [`remote`] is a client: tools of somebody else's MCP server are listed and called, and of every call it is known
//!   whether the tool ran, certainly did not run, or may have run.
//!
//! What this crate does not know: tenants' catalogues (a [`Catalogue`] is passed in), tokens (an [`Authenticate`] is
//! passed in), which addresses may be called (the HTTP client is passed in), the engine. No type of the MCP library is in
//! its interface.

pub mod catalogue;
pub mod discovery;
pub mod remote;

pub use catalogue::{Caller, Catalogue, CatalogueError, ListedTool, SideEffects, Tier, WhyNot};
pub use discovery::{Authenticate, Denied};
pub use remote::{Answer, BadServer, Call, Cause, Doubt, NotDone, Outcome, Remote, RemoteLimits, RemoteTool, Server};
