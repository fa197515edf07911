//! Session mode as a client decides it: what an answer of the server changes.
//!
//! Answers and the time go in; settled lines, control lines and faults come out. There is no socket here.

use crate::books::{Books, Desk, Fault};
use crate::token::Token;
use ringest_wire::answer::{Ack, Answer, Goaway, Nack, Totals, Welcome};
use ringest_wire::control::{Control, Hello, Resume, VERSION};
use ringest_wire::{AckLevel, Class, Code};

/// One producer's session, over as many connections as it takes.
#[derive(Debug)]
pub struct Session {
    producer: String,
    epoch: u64,
    ack: Option<AckLevel>,
    token: Option<Token>,
    phase: Phase,
    /// The level that this session's answers promise, once it is known.
    level: Option<AckLevel>,
    window: u64,
    known: bool,
    /// Lines written on this connection before the count was last taken anew, and whether a `$nack` made it uncertain
    /// what the server counts as received.
    base: u64,
    nacked: bool,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `$hello` is sent, `$welcome` awaited.
    Greeting,
    /// Lines may be sent.
    Open,
    /// The server takes nothing from line `from` on; at `until_ns` the client goes on from there.
    Held {
        /// The line to go on from.
        from: u64,
        /// When to go on.
        until_ns: u64,
    },
    /// `$bye` is sent.
    Leaving,
    /// The server answered `$bye`.
    Over,
}

impl Session {
    /// A session of that producer, not yet greeted. `ack` is the level to ask for; without it the server's default.
    pub fn new(producer: String, epoch: u64, ack: Option<AckLevel>) -> Session {
        Session {
            producer,
            epoch,
            ack,
            token: None,
            phase: Phase::Greeting,
            level: None,
            window: 1,
            known: false,
            base: 0,
            nacked: false,
        }
    }

    /// The same, showing a token.
    pub fn with_token(self, token: Option<Token>) -> Session {
        Session { token, ..self }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its name.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// Its incarnation.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The level that answers promise, once the server has said so.
    pub fn level(&self) -> Option<AckLevel> {
        self.level
    }

    /// How many lines the server wants unanswered at most.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// A new connection is up: says who is there.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        self.phase = Phase::Greeting;
        self.nacked = false;
        // Without `resume_from`: the server's own number decides, and the welcome tells it.
        let token = self.token.as_ref().map(Token::show);
        Control::Hello(Hello { ack: self.ack, token, ..Hello::new(self.producer.as_str(), self.epoch) }).put(out);
    }

    /// All lines are answered and no more will come: asks for the books.
    pub fn leave(&mut self, out: &mut Vec<u8>) {
        self.phase = Phase::Leaving;
        Control::Bye(1).put(out);
    }

    /// The time that a `$nack` asked for is over: goes on from where the server stopped taking.
    pub fn resume(&mut self, books: &mut Books, desk: &mut Desk<'_>, out: &mut Vec<u8>) {
        let Phase::Held { from, .. } = self.phase else { return };
        // What was answered meanwhile is not sent again.
        let from = from.max(books.flight.settled() + 1);
        desk.tally.resent += books.flight.written().saturating_sub(from - 1);
        books.flight.rewind(from);
        self.phase = Phase::Open;
        Control::Resume(Resume { from }).put(out);
    }

    /// Takes one line of the server.
    ///
    /// # Errors
    /// Where the connection cannot go on, or the session cannot.
    pub fn handle_line(&mut self, line: &[u8], books: &mut Books, desk: &mut Desk<'_>) -> Result<(), Fault> {
        let answer = Answer::parse(line).map_err(|error| {
            let text = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
            Fault::fatal("not_a_server", format!("{}: {error}: {text}", self.producer))
        })?;
        match answer {
            Answer::Welcome(welcome) => self.handle_welcome(&welcome, books, desk),
            Answer::Ack(ack) => self.handle_ack(&ack, books, desk),
            Answer::Nack(nack) => self.handle_nack(&nack, books, desk),
            Answer::Goaway(goaway) => self.handle_goaway(&goaway, books, desk),
            Answer::Pong(_) => Ok(()),
            Answer::Bye(totals) => self.handle_bye(totals, books, desk),
        }
    }

    fn handle_welcome(&mut self, welcome: &Welcome, books: &mut Books, desk: &mut Desk<'_>) -> Result<(), Fault> {
        if self.phase != Phase::Greeting || welcome.v != VERSION {
            return Err(self.violation("a $welcome out of place, or of another version"));
        }
        if self.ack.is_some_and(|asked| welcome.ack < asked) {
            return Err(self.violation(&format!("acknowledges at \"{}\", weaker than what was asked for", welcome.ack)));
        }
        if self.known {
            self.agree(welcome.last_seq, books, desk)?;
        } else {
            books.start_at(welcome.last_seq + 1);
            self.known = true;
        }
        self.level = Some(welcome.ack);
        self.window = u64::from(welcome.window.max(1));
        self.base = books.flight.written();
        self.phase = Phase::Open;
        Ok(())
    }

    /// After a reconnect: the server's number against ours.
    fn agree(&mut self, last_seq: u64, books: &mut Books, desk: &mut Desk<'_>) -> Result<(), Fault> {
        let (settled, reached) = (books.flight.settled(), books.sent_upto());
        if last_seq < settled {
            let text = format!("has forgotten acknowledged lines: it knows {last_seq}, and acknowledged {settled}");
            return Err(Fault::fatal("forgotten", format!("{}: the server {text}", self.producer)));
        }
        if last_seq > reached {
            return Err(self.violation(&format!("knows line {last_seq}, but only {reached} were sent")));
        }
        // Their refusals were said to the connection that broke; nobody says them again.
        for seq in settled + 1..=last_seq {
            if desk.corpus.is_bad(seq) {
                books.reject(seq, Code::BadJson.as_str(), desk);
            }
        }
        books.settle(last_seq, desk);
        desk.tally.resent += books.flight.written().saturating_sub(last_seq);
        books.flight.rewind(last_seq + 1);
        Ok(())
    }

    fn handle_ack(&mut self, ack: &Ack, books: &mut Books, desk: &mut Desk<'_>) -> Result<(), Fault> {
        if self.phase == Phase::Greeting {
            return Err(self.violation("an $ack before the $welcome"));
        }
        if Some(ack.level) < self.level {
            return Err(self.violation(&format!("an $ack at \"{}\", weaker than agreed", ack.level)));
        }
        if ack.upto < books.flight.settled() {
            return Err(self.violation(&format!("an $ack back to {} from {}", ack.upto, books.flight.settled())));
        }
        if ack.upto > books.flight.written() {
            let written = books.flight.written();
            return Err(self.violation(&format!("acknowledges line {}, but only {written} were sent", ack.upto)));
        }
        for rejection in &ack.rej {
            books.reject(rejection.0, &rejection.1, desk);
        }
        books.filtered += ack.filtered;
        desk.tally.filtered += ack.filtered;
        books.duplicate += ack.dup;
        desk.tally.duplicate += ack.dup;
        books.settle(ack.upto, desk);
        Ok(())
    }

    fn handle_nack(&mut self, nack: &Nack, books: &Books, desk: &mut Desk<'_>) -> Result<(), Fault> {
        desk.tally.nacks += 1;
        self.nacked = true;
        if !nack.retry {
            let text = format!("{}: refused for good from line {} on: {}", self.producer, nack.from, nack.code);
            return Err(Fault::fatal(&nack.code, text));
        }
        if nack.from <= books.flight.settled() || nack.from > books.sent_upto() + 1 {
            return Err(self.violation(&format!("a $nack from line {}, which is not under way", nack.from)));
        }
        let from = match self.phase {
            Phase::Greeting => return Err(self.violation("a $nack before the $welcome")),
            // Every line is answered, and a $bye uses no number up: nothing is to be sent again.
            Phase::Leaving | Phase::Over => return Ok(()),
            Phase::Held { from, .. } => from.min(nack.from),
            Phase::Open => nack.from,
        };
        self.phase = Phase::Held { from, until_ns: desk.now_ns + u64::from(nack.after_ms) * 1_000_000 };
        Ok(())
    }

    fn handle_goaway(&mut self, goaway: &Goaway, books: &mut Books, desk: &mut Desk<'_>) -> Result<(), Fault> {
        desk.tally.goaways += 1;
        if self.phase != Phase::Greeting && goaway.upto <= books.flight.written() {
            books.settle(goaway.upto, desk);
        }
        let text = format!("{}: the server ends the session: {} {}", self.producer, goaway.code, goaway.reason);
        let again = match Code::from_name(&goaway.code) {
            Some(Code::TooManyConnections) => true,
            Some(code) => code.class() == Class::Retryable,
            None => false,
        };
        let text = text.trim_end().to_owned();
        Err(if again { Fault::lost(&goaway.code, text) } else { Fault::fatal(&goaway.code, text) })
    }

    fn handle_bye(&mut self, totals: Totals, books: &Books, desk: &mut Desk<'_>) -> Result<(), Fault> {
        if self.phase != Phase::Leaving {
            return Err(self.violation("a $bye that was not asked for"));
        }
        self.phase = Phase::Over;
        let sum = totals.stored + totals.filtered + totals.dup + totals.rejected;
        let sent = books.flight.written() - self.base;
        // After a $nack the server may have counted lines that it then dropped.
        if totals.received != sum || (!self.nacked && totals.received != sent) {
            desk.tally.fault("books_open");
            desk.complain(format!(
                "{}: the server's books do not close: received {}, of which {sum} are accounted for; sent {sent}",
                self.producer, totals.received
            ));
        }
        Ok(())
    }

    fn violation(&self, what: &str) -> Fault {
        Fault::fatal("protocol_violation", format!("{}: the server breaks the protocol: {what}", self.producer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::tests::Bench;

    fn welcome(last_seq: u64) -> String {
        format!(
            r#"{{"$welcome":{{"v":1,"known":true,"last_seq":{last_seq},"max_line":262144,"window":50,"ack":"durable"}}}}"#
        )
    }

    fn ack(upto: u64, rej: &str) -> String {
        format!(r#"{{"$ack":{{"upto":{upto},"level":"durable","stored":1,"filtered":0,"dup":0,"rej":[{rej}]}}}}"#)
    }

    /// A session that has sent ten lines, of which two are answered.
    fn running() -> (Session, Bench) {
        let mut bench = Bench::new();
        let mut session = Session::new("lg/1".into(), 3, Some(AckLevel::Durable));
        let mut out = Vec::new();
        session.greet(&mut out);
        assert_eq!(out, b"{\"$hello\":{\"v\":1,\"producer\":\"lg/1\",\"epoch\":3,\"ack\":\"durable\"}}\n");
        bench.tell(&mut session, &welcome(0)).unwrap();
        assert_eq!((session.phase(), session.window()), (Phase::Open, 50));
        let (books, mut desk) = bench.parts();
        books.assign(10, 0, &mut desk);
        books.wrote(10, 0);
        bench.tell(&mut session, &ack(2, "")).unwrap();
        (session, bench)
    }

    #[test]
    fn a_first_welcome_says_where_numbering_starts() {
        let mut bench = Bench::new();
        let mut session = Session::new("lg/1".into(), 0, None);
        bench.tell(&mut session, &welcome(41)).unwrap();
        assert_eq!((bench.books.first(), bench.books.flight.assigned()), (42, 41));
    }

    #[test]
    fn after_a_reconnect_sending_goes_on_behind_what_the_server_has() {
        let (mut session, mut bench) = running();
        session.greet(&mut Vec::new());
        bench.tell(&mut session, &welcome(7)).unwrap();
        assert_eq!(
            (bench.books.flight.settled(), bench.books.flight.written(), bench.books.flight.assigned()),
            (7, 7, 10)
        );
        assert_eq!((bench.tally.acked, bench.tally.resent), (7, 3));
    }

    #[test]
    fn a_server_that_forgot_what_it_acknowledged_is_found_out() {
        let (mut session, mut bench) = running();
        session.greet(&mut Vec::new());
        let fault = bench.tell(&mut session, &welcome(1)).unwrap_err();
        assert!(!fault.again() && fault.text().contains("forgotten acknowledged lines"), "{fault:?}");
    }

    #[test]
    fn a_server_that_knows_what_was_never_sent_is_found_out() {
        let (mut session, mut bench) = running();
        assert!(bench.tell(&mut session, &ack(11, "")).unwrap_err().text().contains("only 10 were sent"));
        session.greet(&mut Vec::new());
        assert!(bench.tell(&mut session, &welcome(11)).unwrap_err().text().contains("only 10 were sent"));
    }

    #[test]
    fn a_weaker_promise_than_asked_for_ends_the_session() {
        let mut bench = Bench::new();
        let mut session = Session::new("lg/1".into(), 0, Some(AckLevel::Durable));
        let weaker = welcome(0).replace("durable", "written");
        assert!(bench.tell(&mut session, &weaker).unwrap_err().text().contains("weaker"));
        let (mut session, mut bench) = running();
        assert!(bench.tell(&mut session, &ack(3, "").replace("durable", "accepted")).is_err());
    }

    #[test]
    fn a_nack_holds_the_session_and_a_resume_goes_back_to_it() {
        let (mut session, mut bench) = running();
        bench.now_ns = 1_000;
        let nack = r#"{"$nack":{"from":6,"code":"overloaded","retry":true,"after_ms":250}}"#;
        bench.tell(&mut session, nack).unwrap();
        assert_eq!(session.phase(), Phase::Held { from: 6, until_ns: 250_001_000 });
        bench.tell(&mut session, &ack(5, "")).unwrap();
        let mut out = Vec::new();
        let (books, mut desk) = bench.parts();
        session.resume(books, &mut desk, &mut out);
        assert_eq!(out, b"{\"$resume\":{\"from\":6}}\n");
        assert_eq!((books.flight.written(), books.flight.assigned(), session.phase()), (5, 10, Phase::Open));
        assert_eq!(bench.tally.resent, 5);
    }

    #[test]
    fn a_nack_that_meets_a_bye_changes_nothing() {
        let (mut session, mut bench) = running();
        bench.tell(&mut session, &ack(10, "")).unwrap();
        session.leave(&mut Vec::new());
        bench.tell(&mut session, r#"{"$nack":{"from":11,"code":"storage_full","retry":true,"after_ms":250}}"#).unwrap();
        assert_eq!(session.phase(), Phase::Leaving);
        let bye = r#"{"$bye":{"received":10,"stored":10,"filtered":0,"dup":0,"rejected":0}}"#;
        bench.tell(&mut session, bye).unwrap();
        assert_eq!((session.phase(), bench.tally.faults.len()), (Phase::Over, 0));
    }

    #[test]
    fn rejections_are_kept_out_of_what_was_promised() {
        let (mut session, mut bench) = running();
        bench.tell(&mut session, &ack(6, r#"[4,"bad_json",17]"#)).unwrap();
        assert_eq!(bench.books.rejected.iter().collect::<Vec<_>>(), [(4, 4)]);
        assert_eq!(bench.books.acked().iter().collect::<Vec<_>>(), [(1, 3), (5, 6)]);
        assert_eq!((bench.tally.acked, bench.tally.failures["bad_json"]), (5, 1));
    }

    #[test]
    fn a_goaway_is_followed_by_a_reconnect_only_where_that_can_help() {
        for (code, again) in [("shutting_down", true), ("overloaded", true), ("fenced", false), ("stale_epoch", false)]
        {
            let (mut session, mut bench) = running();
            let goaway = format!(r#"{{"$goaway":{{"upto":5,"code":"{code}"}}}}"#);
            assert_eq!(bench.tell(&mut session, &goaway).unwrap_err().again(), again, "{code}");
            assert_eq!(bench.books.flight.settled(), 5);
        }
    }

    #[test]
    fn books_that_do_not_close_are_a_fault() {
        for (received, stored, faults) in [(10, 10, 0), (9, 9, 1), (10, 9, 1)] {
            let (mut session, mut bench) = running();
            bench.tell(&mut session, &ack(10, "")).unwrap();
            session.leave(&mut Vec::new());
            let bye =
                format!(r#"{{"$bye":{{"received":{received},"stored":{stored},"filtered":0,"dup":0,"rejected":0}}}}"#);
            bench.tell(&mut session, &bye).unwrap();
            assert_eq!(bench.tally.faults.values().sum::<u64>(), faults);
        }
    }

    #[test]
    fn what_is_no_answer_names_itself() {
        let (mut session, mut bench) = running();
        let fault = bench.tell(&mut session, "HTTP/1.1 400 Bad Request").unwrap_err();
        assert!(!fault.again() && fault.text().contains("HTTP/1.1 400"), "{fault:?}");
    }
}
