//! What MCP clients are answered.

use std::sync::Arc;

use axum::http::request::Parts;
use rmcp::ErrorData;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, MetaObject, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Resource, ResourceContents, ResourceTemplate,
    ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Map, Value, json};

use super::{FRESH_FOR, PAGE_BYTES_MAX, PAGE_TOOLS_MAX, tier_uri};
use crate::catalogue::{Caller, Catalogue, CatalogueError, ListedTool, SideEffects, Tier};

/// Bytes of a cursor, which is a tool's name.
const CURSOR_BYTES_MAX: usize = 1024;
const JSON: &str = "application/json";
const INSTRUCTIONS: &str = "Lists the tools of a Mainspring tenant. Discovery only: a tool is executed through the HTTP API, \
    POST /v1/tools/{name}/execute, which records side effects and can't repeat them by accident. What an agent could \
    have and has not is read from mainspring://tools/agent/{agent}/unavailable.";

/// Answers from a catalogue.
#[derive(Clone)]
pub(super) struct Handler {
    catalogue: Arc<dyn Catalogue>,
}

impl Handler {
    pub(super) fn new(catalogue: Arc<dyn Catalogue>) -> Self {
        Handler { catalogue }
    }

    /// One page of a tier, and the name the next one begins behind.
    async fn page(
        &self,
        caller: &Caller,
        tier: &Tier,
        after: Option<&str>,
    ) -> Result<(Vec<ListedTool>, Option<String>), ErrorData> {
        if after.is_some_and(|after| after.len() > CURSOR_BYTES_MAX) {
            return Err(ErrorData::invalid_params("this cursor was not given out here: begin without one", None));
        }
        let asked = self.catalogue.list(caller, tier, after, PAGE_TOOLS_MAX + 1).await;
        let mut tools = asked.map_err(|error| match error {
            CatalogueError::NoSuchAgent => ErrorData::resource_not_found(error.to_string(), None),
            CatalogueError::Unavailable(_) => ErrorData::internal_error(error.to_string(), None),
        })?;
        let mut bytes = 0;
        let fit = tools.iter().take(PAGE_TOOLS_MAX).take_while(|tool| {
            let first = bytes == 0;
            bytes += bytes_of(tool);
            first || bytes <= PAGE_BYTES_MAX
        });
        let fit = fit.count();
        let more = fit < tools.len();
        tools.truncate(fit);
        let next = if more { tools.last().map(|tool| tool.name.clone()) } else { None };
        Ok((tools, next))
    }
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_resources().build();
        let own = Implementation::new("mainspring", env!("CARGO_PKG_VERSION")).with_title("Mainspring");
        ServerConfig::new(capabilities).with_server_info(own).with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let caller = caller(&context)?;
        let tier = match &caller.agent {
            Some(agent) => Tier::Enabled { agent: agent.clone() },
            None => Tier::Available,
        };
        let after = request.and_then(|request| request.cursor);
        let (tools, next) = self.page(&caller, &tier, after.as_deref()).await?;
        let mut result = ListToolsResult::with_all_items(tools.into_iter().map(tool).collect());
        result.next_cursor = next;
        Ok(result.with_ttl_ms(fresh_for_ms()).with_cache_scope(CacheScope::Private))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        // A result and not a protocol error: that is what clients show to the model that asked for the call.
        let name = &request.name;
        let text = format!(
            "{name} was not executed: tools are not executed over MCP. Send POST /v1/tools/{name}/execute to the HTTP API \
             of this server, with the same token and the arguments as JSON."
        );
        Ok(CallToolResult::error(vec![ContentBlock::text(text)]).into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let mut resources = vec![
            resource(&Tier::Catalogue, "catalogue", "Every tool that is offered, activated or not."),
            resource(&Tier::Available, "available", "The tools the tenant has activated."),
        ];
        if let Some(agent) = caller(&context)?.agent {
            let enabled = Tier::Enabled { agent: agent.clone() };
            resources.push(resource(&enabled, "enabled", "The tools this agent may use."));
            let unavailable = Tier::Unavailable { agent };
            let about = "The tools this agent could have and has not, and what is in the way of each.";
            resources.push(resource(&unavailable, "unavailable", about));
        }
        Ok(ListResourcesResult::with_all_items(resources).with_cache_scope(CacheScope::Private))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let templates = [
            (tier_uri::ENABLED_TEMPLATE, "enabled", "The tools an agent may use."),
            (
                tier_uri::UNAVAILABLE_TEMPLATE,
                "unavailable",
                "The tools an agent could have and has not, and what is in the way of each.",
            ),
        ];
        let templates = templates.into_iter().map(|(template, name, about)| {
            ResourceTemplate::new(template, name).with_description(about).with_mime_type(JSON)
        });
        Ok(ListResourceTemplatesResult::with_all_items(templates.collect()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let caller = caller(&context)?;
        let Some((tier, after)) = tier_uri::read(&request.uri) else {
            let detail = "there is no such resource: resources/list and resources/templates/list name those there are";
            return Err(ErrorData::resource_not_found(detail, None));
        };
        if let (Tier::Enabled { agent } | Tier::Unavailable { agent }, Some(bound)) = (&tier, &caller.agent)
            && agent != bound
        {
            return Err(ErrorData::resource_not_found("the caller is bound to another agent", None));
        }
        let (tools, next) = self.page(&caller, &tier, after.as_deref()).await?;
        let document = json!({
            "tenant": caller.tenant,
            "tools": tools,
            "next": next.map(|after| tier_uri::write(&tier, Some(&after))),
        });
        let contents = ResourceContents::text(document.to_string(), request.uri).with_mime_type(JSON);
        let result = ReadResourceResult::new(vec![contents]);
        Ok(result.with_ttl_ms(fresh_for_ms()).with_cache_scope(CacheScope::Private).into())
    }
}

/// The caller the door let in with this request.
fn caller(context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
    let head = context.extensions.get::<Parts>();
    let caller = head.and_then(|head| head.extensions.get::<Caller>()).cloned();
    caller.ok_or_else(|| ErrorData::internal_error("the request lost its caller on the way", None))
}

fn tool(listed: ListedTool) -> Tool {
    let annotations = annotations(&listed);
    let mut meta = Map::new();
    meta.insert("mainspring/policy".to_owned(), json!(listed.side_effects));
    meta.insert("mainspring/confirmation_required".to_owned(), listed.confirmation.into());
    meta.insert("mainspring/execute".to_owned(), format!("POST /v1/tools/{}/execute", listed.name).into());
    if let Some(version) = listed.version {
        meta.insert("mainspring/version".to_owned(), version.into());
    }
    let mut tool = Tool::new(listed.name, listed.description, Arc::new(object(listed.input_schema)))
        .with_annotations(annotations)
        .with_meta(MetaObject(meta));
    tool.title = listed.title;
    tool.output_schema = listed.output_schema.map(|schema| Arc::new(object(schema)));
    tool
}

/// The protocol wants `"type": "object"` said, and clients refuse a list in which one schema does not say it.
fn object(mut schema: Map<String, Value>) -> Map<String, Value> {
    schema.entry("type").or_insert_with(|| "object".into());
    schema
}

fn annotations(listed: &ListedTool) -> ToolAnnotations {
    let (read_only, idempotent, destructive) = match listed.side_effects {
        SideEffects::Pure => (true, true, false),
        SideEffects::Idempotent => (false, true, false),
        SideEffects::Compensatable => (false, false, false),
        SideEffects::Irreversible => (false, false, true),
    };
    let title = listed.title.clone();
    ToolAnnotations::from_raw(title, Some(read_only), Some(destructive), Some(idempotent), None)
}

fn resource(tier: &Tier, name: &str, about: &str) -> Resource {
    Resource::new(tier_uri::write(tier, None), name).with_description(about).with_mime_type(JSON)
}

fn bytes_of(tool: &ListedTool) -> usize {
    // Plain data always encodes.
    serde_json::to_vec(tool).map_or(0, |encoded| encoded.len())
}

fn fresh_for_ms() -> u64 {
    u64::try_from(FRESH_FOR.as_millis()).unwrap_or(u64::MAX)
}
