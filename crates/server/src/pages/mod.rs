//! The web pages: what a person sees of runs, turns and conversations, rendered on the server.
//!
//! The pages show exactly what the API says: a turn, a run or a list of runs comes in as the JSON the API would answer,
//! so there is no second description of them to drift away. Scripts only keep a rendered page current (they fetch the same
//! page again and take over what changed), which is why every page but the chat works without them.
//!
//! This module knows nothing of routes, authentication or the engine: data in, HTML out. Everything a user, an agent or a
//! worker wrote is escaped here, by the template engine; only strings put together from numbers are marked as safe.
//! There are no inline scripts and no inline styles, so `Content-Security-Policy: default-src 'self'` holds.

mod assets;
mod execution;
mod filters;
#[cfg(test)]
mod tests;
mod timeline;
mod views;

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};

pub use assets::{asset, asset_cache_control};
pub use views::{
    AgentChoice, AgentsPage, AsOf, AttentionPage, ChatPage, ConfigPage, Counts, ErrorPage, ExecutionPage,
    ExecutionsFilter, ExecutionsPage, Frame, LoginPage, NodesPage, OverviewPage, PublishPage, RunPage, RunsFilter,
    RunsPage, StreamPage, StreamsPage, ToolsPage, TurnPage, TurnRow, WebhookPage, WebhooksPage,
};

/// The templates. The names end in `.html`, which is what turns escaping on.
const TEMPLATES: [(&str, &str); 22] = [
    ("layout.html", include_str!("../../assets/templates/layout.html")),
    ("overview.html", include_str!("../../assets/templates/overview.html")),
    ("chat.html", include_str!("../../assets/templates/chat.html")),
    ("turn.html", include_str!("../../assets/templates/turn.html")),
    ("runs_table.html", include_str!("../../assets/templates/runs_table.html")),
    ("runs.html", include_str!("../../assets/templates/runs.html")),
    ("run.html", include_str!("../../assets/templates/run.html")),
    ("tools.html", include_str!("../../assets/templates/tools.html")),
    ("executions.html", include_str!("../../assets/templates/executions.html")),
    ("execution.html", include_str!("../../assets/templates/execution.html")),
    ("attention_item.html", include_str!("../../assets/templates/attention_item.html")),
    ("attention.html", include_str!("../../assets/templates/attention.html")),
    ("error.html", include_str!("../../assets/templates/error.html")),
    ("webhooks.html", include_str!("../../assets/templates/webhooks.html")),
    ("webhook.html", include_str!("../../assets/templates/webhook.html")),
    ("agents.html", include_str!("../../assets/templates/agents.html")),
    ("config.html", include_str!("../../assets/templates/config.html")),
    ("publish.html", include_str!("../../assets/templates/publish.html")),
    ("streams.html", include_str!("../../assets/templates/streams.html")),
    ("stream.html", include_str!("../../assets/templates/stream.html")),
    ("nodes.html", include_str!("../../assets/templates/nodes.html")),
    ("login.html", include_str!("../../assets/templates/login.html")),
];

/// Why a page could not be rendered.
///
/// It is a defect in a template, never in a request: answer with status 500 and log it.
#[derive(Debug, thiserror::Error)]
#[error("the page template {template} could not be rendered: {reason}")]
pub struct PageError {
    /// The template that failed.
    pub template: &'static str,
    /// What the template engine said, with its causes.
    pub reason: String,
}

/// All pages, compiled once. Build one and share it.
pub struct Pages {
    env: Environment<'static>,
    /// The first template that does not compile. Kept rather than panicked over, so that the API lives on without pages.
    fault: Option<(&'static str, String)>,
}

impl Default for Pages {
    fn default() -> Self {
        Self::new()
    }
}

impl Pages {
    /// Compiles the templates.
    pub fn new() -> Self {
        let mut env = Environment::new();
        // The JSON of an older server may lack a field: the page then shows a gap instead of an error.
        env.set_undefined_behavior(UndefinedBehavior::Chainable);
        env.set_formatter(|out, state, value| {
            // JSON's null is a gap too; the engine would write the word.
            if value.is_none() { Ok(()) } else { minijinja::escape_formatter(out, state, value) }
        });
        filters::register(&mut env);
        let mut fault = None;
        for (name, source) in TEMPLATES {
            if let Err(error) = env.add_template(name, source) {
                fault.get_or_insert((name, with_causes(&error)));
            }
        }
        Self { env, fault }
    }

    /// `GET /`: what is running.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective; so for every page below.
    pub fn overview(&self, page: &OverviewPage) -> Result<String, PageError> {
        let runs_table = self.runs_table(&page.runs, page.frame.now_ms)?;
        self.page(
            "overview.html",
            "overview",
            "Overview",
            &page.frame,
            context! { runs_table, ..Value::from(Serde(page)) },
        )
    }

    /// `GET /chat`: a conversation with an agent.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn chat(&self, page: &ChatPage) -> Result<String, PageError> {
        self.page("chat.html", "chat", "Chat", &page.frame, Value::from(Serde(page)))
    }

    /// `GET /turns/{id}`: one turn as it happens. The chat shows the same markup beside the conversation.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn turn(&self, page: &TurnPage) -> Result<String, PageError> {
        let timeline = timeline::of_turn(&page.turn, page.frame.now_ms);
        let title = format!("Turn {}", filters::tail_of(page.turn["id"].as_str().unwrap_or_default()));
        let data = context! { timeline => Value::from(Serde(timeline)), ..Value::from(Serde(page)) };
        self.page("turn.html", "overview", &title, &page.frame, data)
    }

    /// `GET /runs`: the runs, newest first, one page of them.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn runs(&self, page: &RunsPage) -> Result<String, PageError> {
        let runs = page.list["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let runs_table = self.runs_table(runs, page.frame.now_ms)?;
        self.page("runs.html", "runs", "Runs", &page.frame, context! { runs_table, ..Value::from(Serde(page)) })
    }

    /// `GET /runs/{id}`: everything known about one run.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn run(&self, page: &RunPage) -> Result<String, PageError> {
        let title = format!("Run of {}", page.run["workflow"].as_str().unwrap_or("an unnamed workflow"));
        self.page("run.html", "runs", &title, &page.frame, Value::from(Serde(page)))
    }

    /// `GET /tools`: the catalogue.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn tools(&self, page: &ToolsPage) -> Result<String, PageError> {
        self.page("tools.html", "tools", "Tools", &page.frame, Value::from(Serde(page)))
    }

    /// `GET /tools/executions`: calls of tools, newest first, one page of them.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn executions(&self, page: &ExecutionsPage) -> Result<String, PageError> {
        self.page("executions.html", "tools", "Executions of tools", &page.frame, Value::from(Serde(page)))
    }

    /// `GET /tools/executions/{id}`: everything known about one call of a tool.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn execution(&self, page: &ExecutionPage) -> Result<String, PageError> {
        let title = format!("Call of {}", page.execution["tool"].as_str().unwrap_or("a tool"));
        let steps = execution::steps(&page.execution, &page.run, &page.children);
        let tries = execution::tries(&page.run);
        let asked = self.attention_items(&page.execution["attention"], page.frame.now_ms)?;
        let steps = Value::from(Serde(steps));
        let tries = Value::from(Serde(tries));
        let data = context! { steps, tries, asked, ..Value::from(Serde(page)) };
        self.page("execution.html", "tools", &title, &page.frame, data)
    }

    /// `GET /attention`: what waits for a person.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn attention(&self, page: &AttentionPage) -> Result<String, PageError> {
        let mut groups = Vec::new();
        for (kind, items) in execution::by_kind(&page.waiting) {
            let count = items.len();
            let items = self.attention_items(&serde_json::Value::Array(items), page.frame.now_ms)?;
            groups.push(context! { kind, count, items });
        }
        let data = context! { groups, ..Value::from(Serde(page)) };
        self.page("attention.html", "attention", "Waiting for a person", &page.frame, data)
    }

    /// What people are asked, each with its buttons.
    fn attention_items(&self, items: &serde_json::Value, now_ms: u64) -> Result<Value, PageError> {
        let html = self.render("attention_item.html", context! { items => Value::from(Serde(items)), now_ms })?;
        Ok(Value::from_safe_string(html))
    }

    /// `GET /webhooks`: where the tenant's events are delivered.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn webhooks(&self, page: &WebhooksPage) -> Result<String, PageError> {
        self.page("webhooks.html", "webhooks", "Webhooks", &page.frame, Value::from(Serde(page)))
    }

    /// `GET /webhooks/{id}`: what became of one's deliveries.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn webhook(&self, page: &WebhookPage) -> Result<String, PageError> {
        self.page("webhook.html", "webhooks", "Webhook", &page.frame, Value::from(Serde(page)))
    }

    /// `GET /agents`: which configuration each agent goes by.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn agents(&self, page: &AgentsPage) -> Result<String, PageError> {
        self.page("agents.html", "agents", "Agents", &page.frame, Value::from(Serde(page)))
    }

    /// `GET /agents/{agent}/config`: an agent's versions, which is current, who is pinned, what is drafted.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn config(&self, page: &ConfigPage) -> Result<String, PageError> {
        let title = format!("Configuration of {}", page.agent);
        self.page("config.html", "agents", &title, &page.frame, Value::from(Serde(page)))
    }

    /// `GET /publishes/{id}`: a publish as it goes.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn publish(&self, page: &PublishPage) -> Result<String, PageError> {
        let title = format!("Publish of {}", page.publish["agent"].as_str().unwrap_or("an agent"));
        self.page("publish.html", "agents", &title, &page.frame, Value::from(Serde(page)))
    }

    /// `GET /nodes`: who is in the cluster and holds what.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn nodes(&self, page: &NodesPage) -> Result<String, PageError> {
        self.page("nodes.html", "nodes", "Nodes", &page.frame, Value::from(Serde(page)))
    }

    /// `GET /streams`: how streams and their groups stand.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn streams(&self, page: &StreamsPage) -> Result<String, PageError> {
        self.page("streams.html", "streams", "Streams", &page.frame, Value::from(Serde(page)))
    }

    /// `GET /streams/{name}`: who reads a stream, how far, and why what waits does.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn stream(&self, page: &StreamPage) -> Result<String, PageError> {
        let title = format!("Stream {}", page.stream["name"].as_str().unwrap_or_default());
        self.page("stream.html", "streams", &title, &page.frame, Value::from(Serde(page)))
    }

    /// Any refusal or failure, as a person may read it: what happened and what to do.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective; answer with plain text then.
    pub fn error(&self, page: &ErrorPage) -> Result<String, PageError> {
        self.page("error.html", "", &page.title, &page.frame, Value::from(Serde(page)))
    }

    /// `GET /login`: asks for a token.
    ///
    /// # Errors
    /// [`PageError`] when a template is defective.
    pub fn login(&self, page: &LoginPage) -> Result<String, PageError> {
        self.page("login.html", "login", "Sign in", &page.frame, Value::from(Serde(page)))
    }

    fn runs_table(&self, runs: &[serde_json::Value], now_ms: u64) -> Result<Value, PageError> {
        let html = self.render("runs_table.html", context! { runs => Value::from(Serde(runs)), now_ms })?;
        Ok(Value::from_safe_string(html))
    }

    /// Renders a page's body and puts it into the layout.
    fn page(
        &self,
        template: &'static str,
        active: &str,
        title: &str,
        frame: &Frame,
        data: Value,
    ) -> Result<String, PageError> {
        let base = assets::base_path();
        let body = self.render(template, context! { assets => base, now_ms => frame.now_ms, ..data })?;
        let body = Value::from_safe_string(body);
        let frame = Value::from(Serde(frame));
        self.render("layout.html", context! { assets => base, active, title, frame, body })
    }

    fn render(&self, template: &'static str, data: Value) -> Result<String, PageError> {
        if let Some((template, reason)) = &self.fault {
            return Err(PageError { template, reason: reason.clone() });
        }
        let rendered = self.env.get_template(template).and_then(|found| found.render(data));
        rendered.map_err(|error| PageError { template, reason: with_causes(&error) })
    }
}

/// The template engine keeps the interesting half of a message in the causes.
fn with_causes(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
