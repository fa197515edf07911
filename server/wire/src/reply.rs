//! Plain mode: one reply line per line. The texts are those of the first design, byte for byte, so that its clients
//! run unchanged; error replies may carry more members behind them.

use crate::Code;
use std::io::Write;

/// The reply to a line that is stored, or filtered by its level.
pub const OK: &[u8] = b"{\"status\":\"ok\",\"message\":\"received\"}\n";

/// Appends the reply to a refused line. `at` is the byte offset in the line where a check failed, or the limit that
/// was passed. Retryable codes carry `retry_after_ms`: `at`, and [`RETRY_AFTER_MS`] at least.
pub fn put_error(out: &mut Vec<u8>, code: Code, at: u32) {
    let (text, detail) = (message(code), Detail { code, at });
    writeln!(out, "{{\"status\":\"error\",\"message\":\"{text}\",\"code\":\"{code}\"{detail}}}")
        .expect("writing into memory cannot fail");
}

/// How long a client should wait at least before it sends a refused line again.
pub const RETRY_AFTER_MS: u32 = 250;

struct Detail {
    code: Code,
    at: u32,
}

impl std::fmt::Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Code::BadJson | Code::InvalidUtf8 => write!(f, ",\"offset\":{}", self.at),
            Code::LineTooLong | Code::TooDeep => write!(f, ",\"limit\":{}", self.at),
            Code::Overloaded
            | Code::StorageFull
            | Code::StorageError
            | Code::CircuitOpen
            | Code::QuotaExceeded
            | Code::ShuttingDown => write!(f, ",\"retry_after_ms\":{}", self.at.max(RETRY_AFTER_MS)),
            Code::NotObject
            | Code::MissingField
            | Code::BadType
            | Code::ReservedKey
            | Code::StaleEpoch
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
            | Code::SlowClient => Ok(()),
        }
    }
}

/// The `message` of an error reply.
pub const fn message(code: Code) -> &'static str {
    match code {
        Code::BadJson | Code::NotObject | Code::InvalidUtf8 => "invalid JSON",
        Code::MissingField | Code::BadType => "missing required fields",
        Code::TooDeep => "nested too deeply",
        Code::LineTooLong => "line too long",
        Code::ReservedKey => "reserved key",
        Code::Overloaded => "overloaded",
        Code::StorageFull => "storage full",
        Code::StorageError => "storage error",
        Code::CircuitOpen => "circuit open",
        Code::QuotaExceeded => "quota exceeded",
        Code::ShuttingDown => "shutting down",
        Code::StaleEpoch => "stale epoch",
        Code::Fenced => "fenced",
        Code::SeqGap => "sequence gap",
        Code::TooManyConnections => "too many connections",
        Code::ProtocolError => "protocol error",
        Code::GzipCorrupt | Code::GzipRatio | Code::GzipTooLarge => "gzip decompression failed",
        Code::TlsRequired => "TLS required",
        Code::Unauthorized => "unauthorized",
        Code::Idle => "idle for too long",
        Code::SlowClient => "client too slow",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_the_texts_of_the_first_design() {
        assert_eq!(OK, b"{\"status\":\"ok\",\"message\":\"received\"}\n");
        let mut out = Vec::new();
        put_error(&mut out, Code::BadJson, 17);
        put_error(&mut out, Code::MissingField, 0);
        put_error(&mut out, Code::StorageFull, 0);
        put_error(&mut out, Code::CircuitOpen, 9000);
        let expected = "{\"status\":\"error\",\"message\":\"invalid JSON\",\"code\":\"bad_json\",\"offset\":17}\n\
             {\"status\":\"error\",\"message\":\"missing required fields\",\"code\":\"missing_field\"}\n\
             {\"status\":\"error\",\"message\":\"storage full\",\"code\":\"storage_full\",\"retry_after_ms\":250}\n\
             {\"status\":\"error\",\"message\":\"circuit open\",\"code\":\"circuit_open\",\"retry_after_ms\":9000}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn every_error_reply_is_one_line_of_json() {
        for code in Code::ALL {
            let mut out = Vec::new();
            put_error(&mut out, code, 3);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(value["status"], "error");
            assert_eq!(value["code"], code.as_str());
            assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        }
    }
}
