//! What a connection's first line makes of it: plain, or a session that joins its producer's place in the stream.
//!
//! A session is welcome once everything that was sent under its name before is settled, so that the number it is told is
//! the last word.

use super::Shard;
use crate::intake::Intake;
use crate::producer::home_shard;
use crate::session::{Mode, Replies, Session, Stream};
use crate::slab::SessionId;
use memchr::memchr;
use ringest_wire::answer::{Answer, Welcome};
use ringest_wire::control::{self, Control, Hello};
use ringest_wire::frame::trim_cr;
use ringest_wire::{AckLevel, Code, reply};

impl Shard {
    /// The first line that is not empty decides what a connection is. What may become a hello is kept until its line is complete.
    pub(super) fn feed_first(&mut self, id: SessionId, session: &mut Session, chunk: &[u8]) {
        let may_be_hello = |bytes: &[u8]| {
            let common = bytes.len().min(HELLO_PREFIX.len());
            bytes[..common] == HELLO_PREFIX[..common]
        };
        // Empty lines decide nothing. Of one that is cut the carriage return waits for what follows it.
        let mut chunk = chunk;
        if session.stash == b"\r" && chunk.starts_with(b"\n") {
            session.stash.clear();
        }
        if session.stash.is_empty() {
            chunk = behind_empty_lines(chunk);
            if !may_be_hello(chunk) && chunk != b"\r" {
                return self.begin_plain(id, session, chunk);
            }
        }
        session.stash.extend_from_slice(chunk);
        if !may_be_hello(&session.stash) && session.stash != b"\r" {
            let stash = std::mem::take(&mut session.stash);
            return self.begin_plain(id, session, &stash);
        }
        match memchr(b'\n', &session.stash) {
            Some(at) if at <= HELLO_LEN_MAX => match Control::parse(trim_cr(&session.stash[..at])) {
                Ok(Control::Hello(hello)) => {
                    session.clock.hear(true, false, self.now);
                    if !self.config.door.admits(hello.token.as_deref()) {
                        return self.refuse_without_token(session);
                    }
                    let home = home_shard(&hello.producer, self.config.shards);
                    if home != self.config.shard {
                        session.mode = Mode::Moving;
                        return self.moving.push_back((id, home));
                    }
                    // The hello stays until it is answered: who said it is told why, if it is refused.
                    let behind = session.stash.split_off(at + 1);
                    self.join(id, session, &hello);
                    session.stash = behind;
                }
                Ok(_) => session.go_away(Code::ProtocolError, "a session begins with $hello"),
                Err(reason) => session.go_away(Code::ProtocolError, &reason),
            },
            None if session.stash.len() <= HELLO_LEN_MAX => {}
            _ => session.go_away(Code::ProtocolError, &format!("a $hello has at most {HELLO_LEN_MAX} bytes")),
        }
    }

    /// It said something else than hello.
    fn begin_plain(&mut self, id: SessionId, session: &mut Session, chunk: &[u8]) {
        if self.config.door.needs_token() {
            return self.refuse_without_token(session);
        }
        session.mode = Mode::Plain(Replies::default());
        self.feed_lines(id, session, chunk);
    }

    /// A valid token is needed, and was not shown.
    fn refuse_without_token(&mut self, session: &mut Session) {
        self.intake.tally.ended[Code::Unauthorized as usize] += 1;
        if session.stash.starts_with(control::PREFIX) {
            return session.go_away(Code::Unauthorized, "the token is not valid here");
        }
        reply::put_error(&mut session.outbox, Code::Unauthorized, 0);
        session.is_closing = true;
    }

    /// Somebody says who it is. It is welcome once everything that was sent under this name before is settled.
    fn join(&mut self, id: SessionId, session: &mut Session, hello: &Hello) {
        let level = hello.ack.unwrap_or(self.config.ack);
        if level > self.config.ack_max {
            let reason = format!("\"{level}\" cannot be promised here; \"{}\" at most", self.config.ack_max);
            return session.go_away(Code::ProtocolError, &reason);
        }
        let Intake { producers, writer, .. } = &mut self.intake;
        if producers.is_full() {
            writer.seal(producers);
        }
        let Some((producer, _)) = producers.find_or_insert(&hello.producer, hello.epoch) else {
            return session.go_away(Code::Overloaded, "as many producers as may be are connected");
        };
        let entry = &producers[producer];
        if hello.epoch < entry.epoch {
            let reason = format!("epoch {} of this producer is known; use it or a higher one", entry.epoch);
            return session.go_away(Code::StaleEpoch, &reason);
        }
        let (last_batch, other) = (entry.last_batch, entry.session);
        let is_outrun = |other: &Session| !other.is_closing && hello.epoch == entry.epoch && other.came > session.came;
        if other.and_then(|other| self.sessions.get(other)).is_some_and(is_outrun) {
            // Its client has gone and come back before what it said first was looked at.
            return session.go_away(Code::Fenced, "a later connection speaks for this producer");
        }
        producers.attach(producer, id);
        writer.want_durable(last_batch, id);
        session.level = level;
        session.mode = Mode::Joining(Box::new(Stream::new(producer, hello.epoch, hello.resume_from)));
        self.joining.push(id);
        self.may_welcome = true;
        if let Some(older) = other
            && let Some(other) = self.sessions.get_mut(older)
        {
            other.go_away(Code::Fenced, "another connection speaks for this producer now");
            self.make_ready(older);
        }
    }

    /// Welcomes one session whose producer is settled. Whether there was one.
    pub(super) fn welcome_settled(&mut self) -> bool {
        if !self.may_welcome {
            return false;
        }
        let settled = self.joining.iter().position(|&id| {
            let session = self.sessions.get(id);
            let named = session.and_then(|session| Some((session.producer()?, session.level)));
            named.is_none_or(|(producer, level)| self.intake.is_settled(producer, level))
        });
        let Some(at) = settled else {
            self.may_welcome = false;
            return false;
        };
        let id = self.joining.swap_remove(at);
        self.with_session(id, |shard, session| shard.welcome(session));
        self.enqueue(id);
        true
    }

    fn welcome(&mut self, session: &mut Session) {
        let Mode::Joining(stream) = std::mem::replace(&mut session.mode, Mode::Muted) else {
            return;
        };
        let mut stream = stream;
        let is_doubtful = self.intake.is_doubtful(stream.producer);
        let entry = &mut self.intake.producers[stream.producer];
        if stream.epoch > entry.epoch {
            entry.begin(stream.epoch);
        } else if session.level == AckLevel::Durable && is_doubtful {
            // It was acked at a weaker level, and cannot be promised at this one.
            let reason = "storage failed: what is acknowledged of this epoch may be lost; go on with a higher epoch";
            session.mode = Mode::Stream(stream);
            return session.go_away(Code::StorageError, reason);
        }
        let next_seq = stream.resume_from.unwrap_or(entry.last_seq + 1);
        let known = std::mem::replace(&mut entry.is_known, true);
        if !known {
            entry.last_seq = next_seq - 1; // It has a history elsewhere; numbering goes on from there.
        }
        let last_seq = entry.last_seq;
        stream.start(next_seq.min(last_seq + 1));
        let welcome = Welcome {
            v: control::VERSION,
            known,
            last_seq,
            max_line: u32::try_from(self.intake.limits.line_len_max).unwrap_or(u32::MAX),
            window: self.intake.limits.window,
            ack: session.level,
        };
        session.mode = Mode::Stream(stream);
        if next_seq > last_seq + 1 {
            let reason = format!("the last line known here is {last_seq}; resume from {} at most", last_seq + 1);
            return session.go_away(Code::SeqGap, &reason);
        }
        Answer::Welcome(welcome).put(&mut session.outbox);
    }
}

/// What follows the empty lines that `bytes` begins with.
fn behind_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\n").or_else(|| bytes.strip_prefix(b"\r\n")) {
        bytes = rest;
    }
    bytes
}

/// What a session's first line begins with.
const HELLO_PREFIX: &[u8] = b"{\"$hello\"";
/// Longest `$hello`.
pub(crate) const HELLO_LEN_MAX: usize = 4096;
