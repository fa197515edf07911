//! What lies between the bytes of a connection and its lines: TLS, gzip, gzip inside TLS, or nothing.
//!
//! [`Transport`] turns received bytes into plain ones and plain answers into bytes to send. It knows no line and no
//! record, and keeps no plain byte: whoever asks says how many it takes, and what was not asked for stays encoded. That
//! is how a kilobyte that unpacks to a gigabyte is read at the pace of the writer.
//!
//! A plain text connection has none. The first byte decides: no JSON text begins like TLS or gzip.

mod gzip;
mod tls;

use crate::limits::Limits;
use gzip::Gzip;
use ringest_wire::Code;
use rustls::ServerConfig;
use std::sync::Arc;
use tls::Tls;

pub use gzip::GzipLimits;
pub(crate) use gzip::Unpacker;

/// The encodings of one connection.
#[derive(Debug)]
pub(crate) struct Transport {
    tls: Option<Box<Tls>>,
    content: Content,
    /// Received and not decoded yet.
    rest: Vec<u8>,
    /// There may be more plain bytes without another byte from the peer.
    is_behind: bool,
}

/// What is inside of the TLS records, or of the connection.
#[derive(Debug)]
enum Content {
    /// Its first byte will decide.
    Unknown,
    /// It began with the first byte of a gzip member; the second will decide.
    Half,
    Text,
    Gzip(Box<Gzip>),
}

/// What one step of decoding came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// So many plain bytes. Zero: it was work all the same, and goes on.
    Bytes(usize),
    /// Nothing, until the peer sends more.
    Starved,
    /// The peer said, encoded, that it will send no more.
    Ended,
    /// The bytes are not what they began as. With the code for whoever can be told: a broken TLS layer has an alert of
    /// its own and nothing else to say.
    Broken(Option<Code>),
}

/// What the first byte of a connection says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Text,
    MayBeGzip,
    Tls,
}

impl Opening {
    pub(crate) fn of(first: u8) -> Opening {
        match first {
            TLS_HANDSHAKE => Opening::Tls,
            gzip::MAGIC_0 => Opening::MayBeGzip,
            _ => Opening::Text,
        }
    }
}

impl Transport {
    /// For a connection that began like gzip.
    pub(crate) fn unencrypted() -> Transport {
        Transport { tls: None, content: Content::Unknown, rest: Vec::new(), is_behind: false }
    }

    /// For a connection that began like TLS. `None`, if the configuration cannot serve any.
    pub(crate) fn encrypted(config: Arc<ServerConfig>) -> Option<Transport> {
        Some(Transport { tls: Some(Box::new(Tls::new(config)?)), ..Transport::unencrypted() })
    }

    /// What is said to a peer that began like TLS where there is none.
    pub(crate) const TLS_REFUSAL: &'static [u8] = &tls::REFUSAL;

    /// Whether TLS is not yet agreed upon.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether TLS has come to nothing, if the connection ends now.
    pub(crate) fn has_failed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking() || tls.is_broken())
    }

    /// Whether it holds what has been received and not decoded.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether what comes out may be far more than what went in.
    pub(crate) fn unpacks(&self) -> bool {
        matches!(self.content, Content::Gzip(_))
    }

    /// Takes what was left over.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    /// Keeps what was not decoded.
    pub(crate) fn keep_rest(&mut self, rest: Vec<u8>, is_behind: bool) {
        self.rest = rest;
        self.is_behind = is_behind;
    }

    /// Decodes from the front of `input` until `out` is full or `input` is empty. To be called again while it gives
    /// bytes, because the layers hold some that `out` had no room for.
    pub(crate) fn decode(
        &mut self,
        input: &mut &[u8],
        out: &mut [u8],
        limits: &Limits,
        unpacker: &mut Unpacker,
    ) -> Decoded {
        let Transport { tls, content, .. } = self;
        let decoded = match tls {
            None => content.decode(input, out, limits, unpacker),
            Some(tls) => tls.decode(input, |plain| content.decode(plain, out, limits, unpacker)),
        };
        // TLS may end where gzip may not.
        if decoded == Decoded::Ended { self.finish() } else { decoded }
    }

    /// It comes from another shard, with what that one has lent it.
    pub(crate) fn join(&mut self, unpacker: &mut Unpacker) {
        if let Content::Gzip(gzip) = &self.content {
            gzip.join(unpacker);
        }
    }

    /// It ends, or goes to another shard.
    pub(crate) fn leave(&mut self, unpacker: &mut Unpacker) {
        if let Content::Gzip(gzip) = &self.content {
            gzip.leave(unpacker);
        }
    }

    /// The peer has sent everything. Whether it ended where it may.
    pub(crate) fn finish(&self) -> Decoded {
        match &self.content {
            Content::Gzip(gzip) if gzip.is_inside_member() => Decoded::Broken(Some(Code::GzipCorrupt)),
            // One byte that is no JSON, and no magic number either.
            Content::Half => Decoded::Broken(Some(Code::GzipCorrupt)),
            Content::Gzip(_) | Content::Text | Content::Unknown => Decoded::Ended,
        }
    }

    /// Turns `out` into what has to be sent to say it, and adds what the layers themselves have to say. `is_last`:
    /// nothing will be said after it.
    pub(crate) fn encode(&mut self, out: &mut Vec<u8>, is_last: bool) {
        if let Some(tls) = &mut self.tls {
            tls.encode(out, is_last);
        }
    }
}

impl Content {
    fn decode(&mut self, input: &mut &[u8], out: &mut [u8], limits: &Limits, unpacker: &mut Unpacker) -> Decoded {
        loop {
            match self {
                Content::Unknown => match input.split_first() {
                    None => return Decoded::Starved,
                    Some((&gzip::MAGIC_0, &[gzip::MAGIC_1, ..])) => *self = Content::Gzip(Box::new(Gzip::new())),
                    Some((&gzip::MAGIC_0, behind)) => {
                        *input = behind;
                        *self = Content::Half;
                    }
                    Some(_) => *self = Content::Text,
                },
                Content::Half => match input.first() {
                    None => return Decoded::Starved,
                    Some(&gzip::MAGIC_1) => *self = Content::Gzip(Box::new(Gzip::behind_first_byte())),
                    Some(_) => {
                        *self = Content::Text;
                        out[0] = gzip::MAGIC_0;
                        return Decoded::Bytes(1);
                    }
                },
                Content::Text => {
                    let len = input.len().min(out.len());
                    let (now, later) = input.split_at(len);
                    out[..len].copy_from_slice(now);
                    *input = later;
                    return if len > 0 { Decoded::Bytes(len) } else { Decoded::Starved };
                }
                Content::Gzip(gzip) => return gzip.decode(input, out, &limits.gzip, unpacker),
            }
        }
    }
}

/// What a TLS connection begins with.
const TLS_HANDSHAKE: u8 = 0x16;
