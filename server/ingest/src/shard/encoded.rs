//! What comes encoded: who may begin a TLS handshake, and how much is decoded in a turn.
//!
//! A handshake costs as much as thousands of records, so only some run at a time and the rest wait in the lobby, first come
//! first served. Decoding stops where there is no room for what comes out, or where the turn's budget is spent; what is
//! left is decoded when the session's turn comes again.

use super::{Shard, TlsConfig};
use crate::session::{Handshake, Mode, Session};
use crate::slab::SessionId;
use crate::transport::{Decoded, Opening, Transport};
use crate::writer::Gate;
use ringest_wire::{Code, reply};

impl Shard {
    /// Takes bytes as they came.
    pub(super) fn receive(&mut self, id: SessionId, session: &mut Session, chunk: &[u8]) {
        if let (Mode::Fresh, None, true, Some(&first)) =
            (&session.mode, &session.transport, session.stash.is_empty(), chunk.first())
        {
            self.open(id, session, first);
        }
        match (&mut session.transport, session.handshake) {
            _ if session.is_closing => {}
            (None, _) => self.feed(id, session, chunk),
            (Some(transport), Handshake::Waiting) => {
                let mut rest = transport.take_rest();
                rest.extend_from_slice(chunk);
                transport.keep_rest(rest, true);
            }
            (Some(_), Handshake::None | Handshake::Running) => self.decode(id, session, chunk),
        }
    }

    /// The first byte of a connection says how it is encoded.
    fn open(&mut self, id: SessionId, session: &mut Session, first: u8) {
        match (&self.config.tls, Opening::of(first)) {
            (Some(tls), Opening::Tls) => match Transport::encrypted(tls.server.clone()) {
                Some(transport) => {
                    session.transport = Some(Box::new(transport));
                    session.handshake = Handshake::Waiting;
                    if self.may_begin_handshake() && self.lobby.is_empty() {
                        self.begin_handshake(session);
                    } else {
                        self.wait_in_lobby(id);
                    }
                }
                None => self.refuse_opening(session, Transport::TLS_REFUSAL),
            },
            (None, Opening::Tls) => self.refuse_opening(session, Transport::TLS_REFUSAL),
            (Some(TlsConfig { is_required: true, .. }), Opening::Text | Opening::MayBeGzip) => {
                let mut why = Vec::new();
                reply::put_error(&mut why, Code::TlsRequired, 0);
                self.refuse_opening(session, &why);
            }
            (_, Opening::MayBeGzip) => session.transport = Some(Box::new(Transport::unencrypted())),
            (_, Opening::Text) => {}
        }
    }

    fn may_begin_handshake(&self) -> bool {
        self.handshakes < self.intake.limits.handshakes_max && self.handshake_starts > 0
    }

    fn begin_handshake(&mut self, session: &mut Session) {
        self.handshakes += 1;
        self.handshake_starts -= 1;
        session.handshake = Handshake::Running;
        session.clock.restart(self.now); // It has waited for others.
    }

    fn wait_in_lobby(&mut self, id: SessionId) {
        // Who has gone leaves a name behind. Where those are most, they are let go of.
        if self.lobby.len() > 2 * self.sessions.len() {
            self.lobby.retain(|waiting| self.sessions.get(*waiting).is_some());
        }
        self.lobby.push_back(id);
    }

    /// Lets one of those that wait for a handshake begin it. Whether there was one.
    pub(super) fn admit_handshake(&mut self) -> bool {
        if !self.may_begin_handshake() {
            return false;
        }
        let Some(id) = self.lobby.pop_front() else { return false };
        self.with_session(id, |shard, session| {
            shard.begin_handshake(session);
            shard.decode(id, session, &[]);
        });
        self.unstall(id);
        true
    }

    /// It does not speak what is spoken here, and is told so.
    fn refuse_opening(&mut self, session: &mut Session, why: &[u8]) {
        self.intake.tally.tls_failures += 1;
        session.outbox.extend_from_slice(why);
        session.is_closing = true;
    }

    /// Decodes what was left over and `chunk`, as far as there is room for what comes out.
    pub(super) fn decode(&mut self, id: SessionId, session: &mut Session, chunk: &[u8]) {
        let Some(mut transport) = session.transport.take() else { return };
        let mut plain = std::mem::take(&mut self.decoded);
        let mut rest = transport.take_rest();
        let mut input = chunk;
        let has_rest = !rest.is_empty();
        if has_rest {
            rest.extend_from_slice(chunk);
            input = &rest;
        }
        let is_behind = loop {
            if session.is_closing {
                break false;
            }
            if !self.may_decode(session) {
                break true;
            }
            let before = input.len();
            let decoded = transport.decode(&mut input, &mut plain, &self.intake.limits, &mut self.unpacker);
            let read = before - input.len();
            let len = if let Decoded::Bytes(len) = decoded { len } else { 0 };
            let cost = match transport.unpacks() {
                true if len < read / 2 => read * BARREN_COST,
                true => len,
                false => 0, // What TLS gives is no more than what was received, which a driver's turn bounds already.
            };
            self.decode_budget = self.decode_budget.saturating_sub(cost);
            match decoded {
                Decoded::Bytes(0) => {}
                Decoded::Bytes(len) => self.feed(id, session, &plain[..len]),
                Decoded::Starved => break false,
                Decoded::Ended => self.end(id, session),
                Decoded::Broken(code) => self.refuse_rest(id, session, code),
            }
        };
        if session.handshake == Handshake::Running && !transport.is_handshaking() {
            self.intake.tally.tls_handshakes += 1;
            self.handshakes -= 1;
            session.handshake = Handshake::None;
        }
        let left = input.len();
        if has_rest {
            rest.drain(..rest.len() - left);
        } else if left > 0 {
            rest = self.spare_sends.pop().unwrap_or_default();
            rest.extend_from_slice(&chunk[chunk.len() - left..]);
        }
        if has_rest && left == 0 {
            self.recycle(std::mem::take(&mut rest));
        }
        transport.keep_rest(rest, is_behind);
        session.transport = Some(transport);
        self.decoded = plain;
    }

    /// Whether there is room for what another step of decoding may give.
    pub(super) fn may_decode(&self, session: &Session) -> bool {
        let limits = &self.intake.limits;
        !self.is_draining
            && self.decode_budget > 0
            && session.handshake != Handshake::Waiting
            && !session.is_backed_up()
            && !session.owes_too_much(limits.owed_lines_max, limits.owed_runs_max)
            && (session.shed.is_some() || self.intake.writer.gate() != Gate::Wait)
    }

    /// Whether somebody could go on decoding, and has to wait for the next turn.
    pub(super) fn must_wait_to_decode(&self) -> bool {
        self.decode_budget == 0 && !self.queue.is_empty()
    }
}

/// What a byte costs that is decoded to nothing, in bytes that are decoded to something: gzip blocks of nothing but
/// their own tables take 115 ns per byte, usual ones 2 ns per byte that comes out.
const BARREN_COST: usize = 16;
