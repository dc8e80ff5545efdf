//! What can be wrong with Redis, and what to do about each: one place that reads its errors. Nothing here shows a
//! password, because nothing here knows the address.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::bus::BusError;

/// Which kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody answers at the address, or the connection broke.
    Unreachable,
    /// It did not answer in time.
    Silent,
    /// It takes neither this user nor this password, or wants one.
    Credentials,
    /// The user may not do what is asked.
    Forbidden,
    /// No trusted, encrypted connection comes about.
    Tls,
    /// It is a replica: it takes no writes.
    ReadOnly,
    /// Its memory is used up.
    Full,
    /// It is reading its data set.
    Loading,
    /// The cluster is not whole.
    ClusterDown,
    /// It is part of a cluster, and we were not told so.
    Cluster,
    /// It can't save its data, and takes no writes until it can.
    CannotSave,
    /// The key is of another kind.
    WrongType,
    /// The consumer group is not there: it was flushed.
    NoGroup,
    /// The consumer group is there already: somebody else made it.
    GroupExists,
    /// A stream is full, by our own count.
    StreamFull,
    /// A stream ends before what was published in it: it was flushed, or failed over.
    StreamLost,
    /// Something else.
    Other,
}

/// Something is wrong with Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Which kind.
    pub kind: Kind,
    /// What Redis, or the system, said.
    pub said: String,
}

impl Trouble {
    /// What to do about it.
    pub fn action(&self) -> &'static str {
        match self.kind {
            Kind::Unreachable => "check that it runs and that redis.url names its host and port",
            Kind::Silent => "check its load, the network, redis.timeout_ms, and that rediss:// names a TLS port",
            Kind::Credentials => "check the user and the password in redis.url, and the server's ACL",
            Kind::Forbidden => "let the user use these keys and commands (docs/redis.md lists them)",
            Kind::Tls => "use rediss:// for a TLS port and redis:// for another, and name its authority in redis.ca",
            Kind::ReadOnly => "name the primary in redis.url; after a failover it is found again by itself",
            Kind::Full => "raise its maxmemory, or let the groups catch up; set maxmemory-policy to noeviction",
            Kind::Loading => "wait: it is reading its data set",
            Kind::ClusterDown => "mend the cluster: some of its slots are served by nobody",
            Kind::Cluster => "set redis.cluster = true: this server is part of a cluster",
            Kind::CannotSave => "mend its disk, or what else keeps it from saving: its log says",
            Kind::WrongType => "another program uses this key for something else: change redis or bus patterns",
            Kind::NoGroup => "nothing: the group is made again",
            Kind::GroupExists => "nothing: it is the one that is read",
            Kind::StreamFull => "let the groups of the stream catch up, or remove a group nobody reads for",
            Kind::StreamLost => "nothing: what is not settled is published again",
            Kind::Other => "see its log",
        }
    }

    /// Whether the connection is of no use any more.
    pub(crate) fn breaks_connection(&self) -> bool {
        match self.kind {
            Kind::Unreachable | Kind::Silent | Kind::Credentials | Kind::Tls | Kind::ReadOnly | Kind::Other => true,
            Kind::Forbidden
            | Kind::Full
            | Kind::Loading
            | Kind::ClusterDown
            | Kind::Cluster
            | Kind::CannotSave
            | Kind::WrongType
            | Kind::NoGroup
            | Kind::GroupExists
            | Kind::StreamFull
            | Kind::StreamLost => false,
        }
    }

    /// Whether it says something about Redis as a whole, and not about one key.
    pub(crate) fn is_of_server(&self) -> bool {
        !matches!(self.kind, Kind::WrongType | Kind::NoGroup | Kind::GroupExists | Kind::StreamFull | Kind::StreamLost)
    }

    /// This process is about to end.
    pub(crate) fn ending() -> Self {
        Trouble { kind: Kind::Unreachable, said: "this process ends".to_owned() }
    }

    pub(crate) fn silent(ms: u128) -> Self {
        Trouble { kind: Kind::Silent, said: format!("no answer within {ms} ms") }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Unreachable => "Redis can't be reached",
            Kind::Silent => "Redis does not answer",
            Kind::Credentials => "Redis refuses the credentials",
            Kind::Forbidden => "Redis does not permit it",
            Kind::Tls => "no TLS connection to Redis comes about",
            Kind::ReadOnly => "Redis is read-only",
            Kind::Full => "Redis is out of memory",
            Kind::Loading => "Redis is starting",
            Kind::ClusterDown => "the Redis cluster is down",
            Kind::Cluster => "Redis redirects to another node of its cluster",
            Kind::CannotSave => "Redis can't save its data",
            Kind::WrongType => "a key in Redis is of another kind",
            Kind::NoGroup => "the consumer group is gone",
            Kind::GroupExists => "the consumer group is there already",
            Kind::StreamFull => "the stream is full",
            Kind::StreamLost => "the stream has lost entries",
            Kind::Other => "Redis answered with an error",
        };
        write!(f, "{what} ({}): {}", self.said, self.action())
    }
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        let text = error.to_string();
        let kind = match error.kind() {
            ErrorKind::AuthenticationFailed => Kind::Credentials,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Kind::ReadOnly,
            ErrorKind::Server(ServerErrorKind::NoPerm) => Kind::Forbidden,
            ErrorKind::Server(ServerErrorKind::BusyLoading) => Kind::Loading,
            ErrorKind::Server(
                ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain,
            ) => Kind::ClusterDown,
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot) => {
                Kind::Cluster
            }
            ErrorKind::ClusterConnectionNotFound => Kind::Unreachable,
            ErrorKind::Io if error.is_timeout() => Kind::Silent,
            _ => of_text(&text, error.kind() == ErrorKind::Io),
        };
        Trouble { kind, said: text.chars().take(300).collect() }
    }
}

/// Errors that have no kind of their own are known by their first word. A script's own errors come with it inside.
fn of_text(text: &str, is_io: bool) -> Kind {
    const WORDS: [(&str, Kind); 12] = [
        ("OOM", Kind::Full),
        ("NOAUTH", Kind::Credentials),
        ("WRONGPASS", Kind::Credentials),
        ("NOGROUP", Kind::NoGroup),
        ("BUSYGROUP", Kind::GroupExists),
        // What a read that waits is told when its stream is removed.
        ("UNBLOCKED", Kind::NoGroup),
        ("WRONGTYPE", Kind::WrongType),
        ("MISCONF", Kind::CannotSave),
        ("NOREPLICAS", Kind::CannotSave),
        ("STREAMFULL", Kind::StreamFull),
        ("STREAMLOST", Kind::StreamLost),
        ("READONLY", Kind::ReadOnly),
    ];
    if let Some((_, kind)) = WORDS.iter().find(|(word, _)| text.contains(word)) {
        return *kind;
    }
    let lower = text.to_ascii_lowercase();
    let of_tls = ["certificate", "tls", "handshake", "corrupt message", "invalidcontenttype", "unknownissuer"];
    if is_io && of_tls.iter().any(|word| lower.contains(word)) {
        return Kind::Tls;
    }
    if is_io { Kind::Unreachable } else { Kind::Other }
}

impl From<Trouble> for BusError {
    fn from(trouble: Trouble) -> Self {
        match trouble.kind {
            Kind::WrongType => BusError::refused(trouble.to_string(), trouble.action()),
            _ => BusError::Away { cause: trouble.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_without_a_kind_are_known_by_their_word() {
        for (text, kind) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", Kind::Full),
            ("NOAUTH Authentication required.", Kind::Credentials),
            ("WRONGPASS invalid username-password pair or user is disabled.", Kind::Credentials),
            ("MISCONF Redis is configured to save RDB snapshots", Kind::CannotSave),
            ("NOGROUP No such key 'a' or consumer group 'b'", Kind::NoGroup),
            ("UNBLOCKED the stream key no longer exists", Kind::NoGroup),
            ("BUSYGROUP Consumer Group name already exists", Kind::GroupExists),
            ("ERR unknown command", Kind::Other),
        ] {
            assert_eq!(of_text(text, false), kind, "{text}");
        }
        assert_eq!(of_text("received corrupt message of type InvalidContentType", true), Kind::Tls);
        assert_eq!(of_text("Connection refused (os error 111)", true), Kind::Unreachable);
    }
}
