//! What came of a call, and how it is read from what a server said.

use std::time::Duration;

use rmcp::ErrorData;
use rmcp::model::{CallToolResult, ContentBlock, ErrorCode, ServerResult};
use serde::Serialize;
use serde_json::Value;

/// Characters of a server's own words that are passed on.
const WORDS_MAX: usize = 1_000;

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The tool ran and gave a result.
    Succeeded(Answer),
    /// The tool says that it failed (`isError`). What it did before that, only its text may say.
    ToolError(Answer),
    /// The tool certainly did not run: nothing was sent, or the server refused before it began.
    NotDone(NotDone),
    /// The call was sent, and whether the tool ran is not known.
    InDoubt(Doubt),
}

/// What a tool said.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answer {
    /// Its structured result, which its output schema describes if it has one.
    pub structured: Option<Value>,
    /// The text of it, parts joined by line breaks.
    pub text: String,
    /// All of it, as content blocks of the protocol: text, images, audio, resources.
    pub content: Vec<Value>,
}

/// Why a tool certainly did not run, or a list can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct NotDone {
    /// What kind of reason.
    pub cause: Cause,
    /// A sentence about it, without secrets.
    pub detail: String,
    /// When to try again, if the server said so.
    pub retry_after: Option<Duration>,
}

/// Kinds of reasons why a tool did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No connection: the name, the address, TLS, or the rule about which addresses may be reached.
    Unreachable,
    /// The time was over before the call was sent.
    TimedOut,
    /// The server did not let us in: look at the headers it is sent.
    Unauthorized,
    /// The server has too much to do: later.
    Busy,
    /// The server failed before the call was made.
    ServerFailed,
    /// What answers at the address does not speak the protocol as it should.
    NotMcp,
    /// The server refused the call: no such tool, arguments it does not take, a moved address.
    Refused,
    /// More than is sent, or taken.
    TooLarge,
    /// The server wants arguments as headers that it did not get.
    HeadersWanted,
}

impl NotDone {
    pub(super) fn new(cause: Cause, detail: impl Into<String>) -> Self {
        NotDone { cause, detail: detail.into(), retry_after: None }
    }

    pub(super) fn timed_out(timeout: Duration) -> Self {
        let detail = format!("the MCP server was not ready within {} ms", timeout.as_millis());
        NotDone::new(Cause::TimedOut, detail)
    }
}

/// Why nobody knows whether a tool ran.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// No answer in time.
    #[error("the MCP server did not answer within {} ms", timeout.as_millis())]
    TimedOut {
        /// The time it had.
        timeout: Duration,
    },
    /// The connection ended before the answer.
    #[error("the connection to the MCP server was lost before it answered: {0}")]
    ConnectionLost(String),
    /// It answered, with more than is taken.
    #[error("the MCP server answered with more than {max} bytes, which were not read")]
    TooLarge {
        /// Bytes that are taken.
        max: usize,
    },
    /// It answered, and it is not understood.
    #[error("the MCP server's answer can't be read: {0}")]
    Unreadable(String),
    /// It says that something went wrong with it, and not when.
    #[error("the MCP server failed: {0}")]
    ServerError(String),
}

/// What a result means.
pub(super) fn of_result(result: ServerResult) -> Outcome {
    match result {
        ServerResult::CallToolResult(result) => {
            let failed = result.is_error == Some(true);
            let answer = answer(result);
            if failed { Outcome::ToolError(answer) } else { Outcome::Succeeded(answer) }
        }
        // A result with nothing in it, which the library takes for one of these.
        ServerResult::EmptyResult(_) => Outcome::Succeeded(Answer::default()),
        ServerResult::InputRequiredResult(_) => {
            Outcome::InDoubt(Doubt::Unreadable("it asks for input, which was not offered".to_owned()))
        }
        ServerResult::CreateTaskResult(_) => {
            Outcome::InDoubt(Doubt::Unreadable("it gives a task to ask about later, which was not offered".to_owned()))
        }
        _ => Outcome::InDoubt(Doubt::Unreadable("it is not a tool's result".to_owned())),
    }
}

fn answer(result: CallToolResult) -> Answer {
    let texts = result.content.iter().filter_map(|block| match block {
        ContentBlock::Text(text) => Some(text.text.as_str()),
        _ => None,
    });
    let text = texts.collect::<Vec<_>>().join("\n");
    // Plain data always encodes.
    let content = result.content.iter().map(|block| serde_json::to_value(block).unwrap_or_default()).collect();
    Answer { structured: result.structured_content, text, content }
}

/// What a protocol error means. Those that the protocol has for requests which are not carried out say that nothing was
/// done; any other may have come from the middle of the work.
pub(super) fn of_error(error: &ErrorData) -> Outcome {
    let cause = match error.code {
        ErrorCode::HEADER_MISMATCH => Cause::HeadersWanted,
        ErrorCode::PARSE_ERROR
        | ErrorCode::INVALID_REQUEST
        | ErrorCode::METHOD_NOT_FOUND
        | ErrorCode::INVALID_PARAMS
        | ErrorCode::UNSUPPORTED_PROTOCOL_VERSION
        | ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY => Cause::Refused,
        _ => return Outcome::InDoubt(Doubt::ServerError(shown(error))),
    };
    Outcome::NotDone(NotDone::new(cause, format!("the MCP server refused the call: {}", shown(error))))
}

/// An error in its server's words, cut to a length.
pub(super) fn shown(error: &ErrorData) -> String {
    format!("{} ({})", cut(&error.message), error.code.0)
}

/// The beginning of a text from outside.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(WORDS_MAX).collect()
}
