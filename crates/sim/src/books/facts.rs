//! What the books are told of durable rows, in plain words and numbers.

/// Something recorded.
#[derive(Debug, Clone)]
pub enum Fact {
    /// The latest time decided with.
    Now(u64),
    /// A run as it stands.
    Run(Run),
    /// A task as it stands.
    Task(Task),
    /// A journal entry as it stands.
    Entry(Entry),
    /// A message as it stands.
    Message(Message),
    /// An event.
    Event(Event),
    /// A rate limit as it stands.
    Rate(Rate),
    /// What a keyed request led to.
    Request(Request),
    /// A document.
    Document(Document),
    /// A payload.
    Payload {
        /// Whose.
        tenant: u128,
        /// Its id.
        id: u128,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// Something the books do not follow.
    Other,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Whose.
    pub tenant: u128,
    /// Its id.
    pub id: u128,
    /// Of which workflow.
    pub workflow: String,
    /// The word for how it stands.
    pub state: &'static str,
    /// Whether it will never change again.
    pub ended: bool,
    /// What serialises it.
    pub key: Option<String>,
    /// Higher goes first.
    pub priority: u8,
    /// When it was asked for, in milliseconds.
    pub created_at: u64,
    /// The payload it was started with.
    pub input: Option<u128>,
    /// The run that took over its messages.
    pub superseded_by: Option<u128>,
    /// The task that asked for it by name, and the name.
    pub child_of: Option<(u128, u16, String)>,
    /// Of all of it.
    pub digest: u64,
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Whose.
    pub tenant: u128,
    /// Of which run.
    pub run: u128,
    /// Which of its tasks.
    pub index: u16,
    /// The word for how it stands.
    pub state: &'static str,
    /// Whether it will never change again.
    pub ended: bool,
    /// Who has it.
    pub worker: Option<u128>,
    /// Since when it stands so, where that is recorded.
    pub since: u64,
    /// Until when it waits to be tried again.
    pub until: Option<u64>,
    /// Which try.
    pub attempt: u32,
    /// Which hand-over.
    pub invocation: u32,
    /// Which hand-over its worker said it has.
    pub acknowledged: u32,
    /// Journal entries.
    pub entries: u32,
    /// Entries that wait, with the time they wait for at most.
    pub pending: Vec<(u32, Option<u64>)>,
    /// The payload it ended with.
    pub output: Option<u128>,
    /// The journal position on whose behalf somebody outside works.
    pub fence: Option<u32>,
    /// Of all of it.
    pub digest: u64,
}

/// A document.
#[derive(Debug, Clone)]
pub struct Document {
    /// Whose.
    pub tenant: u128,
    /// What it is.
    pub kind: String,
    /// Which of these.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// What it says.
    pub body: Vec<u8>,
    /// The run that wrote it.
    pub by: Option<u128>,
}

/// A journal entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose.
    pub tenant: u128,
    /// Of which run.
    pub run: u128,
    /// Of which of its tasks.
    pub index: u16,
    /// Where in the journal.
    pub position: u32,
    /// The word for its kind.
    pub kind: &'static str,
    /// What it is called.
    pub label: String,
    /// When it was done, if it is.
    pub done_at: Option<u64>,
    /// Whether time alone completed it.
    pub by_time: bool,
    /// Whether it is done and the answer was yes.
    pub yes: bool,
    /// Of all of it.
    pub digest: u64,
}

/// A message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Whose.
    pub tenant: u128,
    /// Its id.
    pub id: u128,
    /// In which session's inbox.
    pub session: String,
    /// The payload that says what it says.
    pub payload: u128,
    /// When it was taken in, in milliseconds.
    pub accepted_at: u64,
    /// The word for how it stands.
    pub state: &'static str,
    /// The run that has it.
    pub run: Option<u128>,
}

/// An event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Whose.
    pub tenant: u128,
    /// Its number.
    pub seq: u64,
    /// Its name.
    pub name: String,
    /// What it says.
    pub data: Vec<u8>,
}

/// A rate limit.
#[derive(Debug, Clone)]
pub struct Rate {
    /// Whose.
    pub tenant: u128,
    /// Its name.
    pub name: String,
    /// When its present window began.
    pub since: u64,
}

/// A keyed request and what it led to.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose.
    pub tenant: u128,
    /// The key.
    pub name: String,
    /// The message, if it was one, and the run.
    pub led_to: (Option<u128>, u128),
}
