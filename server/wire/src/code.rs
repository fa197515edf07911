use std::fmt;

/// Why a line, a session or a stream was not served: the bounded set that clients see and metrics are labelled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    /// The line is not JSON.
    BadJson,
    /// The line is JSON, but not an object.
    NotObject,
    /// `level` or `message` is missing.
    MissingField,
    /// `level` is not a string.
    BadType,
    /// The line is not UTF-8.
    InvalidUtf8,
    /// Objects and arrays nest deeper than the limit.
    TooDeep,
    /// The line is longer than the limit.
    LineTooLong,
    /// The line begins like a control line (`{"$`).
    ReservedKey,
    /// The server holds as much as it may; try again later.
    Overloaded,
    /// No room for the next segment; try again later.
    StorageFull,
    /// The disk failed to take a write or a sync; try again later.
    StorageError,
    /// Storage, or what this client sends, has gone wrong so often that nothing is tried for a while.
    CircuitOpen,
    /// The producer sends more than its share while there is not enough for all.
    QuotaExceeded,
    /// The server is stopping; reconnect and resume.
    ShuttingDown,
    /// The producer is already known with a higher epoch.
    StaleEpoch,
    /// Another connection took over this producer.
    Fenced,
    /// The client resumes beyond what the server knows, so that numbers would be skipped.
    SeqGap,
    /// More connections than the server takes.
    TooManyConnections,
    /// A control line that is not known, not well formed, or out of place.
    ProtocolError,
    /// The connection is not the gzip stream that it began as.
    GzipCorrupt,
    /// A gzip member unpacks to too many times its size.
    GzipRatio,
    /// A gzip member unpacks to too many bytes.
    GzipTooLarge,
    /// The connection is not encrypted, and has to be.
    TlsRequired,
    /// The client did not show a token that is valid here.
    Unauthorized,
    /// The client said nothing whole for too long.
    Idle,
    /// The client sends or takes bytes too slowly.
    SlowClient,
}

/// What a client may do about a [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// This line will never be accepted.
    Final,
    /// The same line may be accepted later.
    Retryable,
    /// The session ends.
    Session,
}

impl Code {
    /// Every code, in the order of their discriminants.
    pub const ALL: [Code; 26] = [
        Code::BadJson,
        Code::NotObject,
        Code::MissingField,
        Code::BadType,
        Code::InvalidUtf8,
        Code::TooDeep,
        Code::LineTooLong,
        Code::ReservedKey,
        Code::Overloaded,
        Code::StorageFull,
        Code::StorageError,
        Code::CircuitOpen,
        Code::QuotaExceeded,
        Code::ShuttingDown,
        Code::StaleEpoch,
        Code::Fenced,
        Code::SeqGap,
        Code::TooManyConnections,
        Code::ProtocolError,
        Code::GzipCorrupt,
        Code::GzipRatio,
        Code::GzipTooLarge,
        Code::TlsRequired,
        Code::Unauthorized,
        Code::Idle,
        Code::SlowClient,
    ];

    /// How many codes there are: the length of a table indexed by `code as usize`.
    pub const COUNT: usize = Self::ALL.len();

    /// The name on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::BadJson => "bad_json",
            Code::NotObject => "not_object",
            Code::MissingField => "missing_field",
            Code::BadType => "bad_type",
            Code::InvalidUtf8 => "invalid_utf8",
            Code::TooDeep => "too_deep",
            Code::LineTooLong => "line_too_long",
            Code::ReservedKey => "reserved_key",
            Code::Overloaded => "overloaded",
            Code::StorageFull => "storage_full",
            Code::StorageError => "storage_error",
            Code::CircuitOpen => "circuit_open",
            Code::QuotaExceeded => "quota_exceeded",
            Code::ShuttingDown => "shutting_down",
            Code::StaleEpoch => "stale_epoch",
            Code::Fenced => "fenced",
            Code::SeqGap => "seq_gap",
            Code::TooManyConnections => "too_many_connections",
            Code::ProtocolError => "protocol_error",
            Code::GzipCorrupt => "gzip_corrupt",
            Code::GzipRatio => "gzip_ratio",
            Code::GzipTooLarge => "gzip_too_large",
            Code::TlsRequired => "tls_required",
            Code::Unauthorized => "unauthorized",
            Code::Idle => "idle",
            Code::SlowClient => "slow_client",
        }
    }

    /// The code of that name.
    pub fn from_name(name: &str) -> Option<Code> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// What a client may do about it.
    pub const fn class(self) -> Class {
        match self {
            Code::BadJson
            | Code::NotObject
            | Code::MissingField
            | Code::BadType
            | Code::InvalidUtf8
            | Code::TooDeep
            | Code::LineTooLong
            | Code::ReservedKey => Class::Final,
            Code::Overloaded
            | Code::StorageFull
            | Code::StorageError
            | Code::CircuitOpen
            | Code::QuotaExceeded
            | Code::ShuttingDown => Class::Retryable,
            Code::StaleEpoch
            | Code::Fenced
            | Code::SeqGap
            | Code::TooManyConnections
            | Code::ProtocolError
            | Code::GzipCorrupt
            | Code::GzipRatio
            | Code::GzipTooLarge
            | Code::TlsRequired
            | Code::Unauthorized
            | Code::Idle
            | Code::SlowClient => Class::Session,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_codes_is_in_order_and_each_name_leads_back() {
        for (at, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at);
            assert_eq!(Code::from_name(code.as_str()), Some(code));
        }
        assert_eq!(Code::from_name("nonsense"), None);
    }
}
