//! What a server says, in plain or session mode: settled lines, or the fault that it is.

use crate::books::{Books, Desk, Fault};
use crate::replies::{Replies, Reply};
use crate::session::{Phase, Session};
use memchr::memmem;
use ringest_wire::Code;
use ringest_wire::frame::{Framer, Head, lines};
use std::net::SocketAddr;

pub(super) fn hear_replies(
    replies: &mut Replies,
    chunk: &[u8],
    books: &mut Books,
    desk: &mut Desk<'_>,
    peer: SocketAddr,
) -> Result<(), Fault> {
    let mut outcome = Ok(());
    replies.feed(chunk, |reply| {
        if outcome.is_ok() {
            outcome = hear_reply(&reply, books, desk, peer);
        }
    });
    outcome
}

fn hear_reply(reply: &Reply, books: &mut Books, desk: &mut Desk<'_>, peer: SocketAddr) -> Result<(), Fault> {
    let settled = books.flight.settled();
    let upto = match reply {
        Reply::Ok(count) => settled + count,
        Reply::Refused(_) => settled + 1,
        Reply::Nonsense(text) => {
            let text = format!("what listens on {peer} is no Ringest server: it says {text:?}");
            return Err(Fault::fatal("not_a_server", text));
        }
    };
    if let Reply::Refused(refusal) = reply
        && refusal.name() == Code::TlsRequired.as_str()
    {
        return Err(tls_required(peer));
    }
    if upto > books.flight.written() {
        let text = format!("{peer} answers line {upto}, but only {} were sent", books.flight.written());
        return Err(Fault::fatal("protocol_violation", text));
    }
    if let Reply::Refused(refusal) = reply {
        books.reject(upto, refusal.name(), desk);
    }
    books.settle(upto, desk);
    Ok(())
}

fn tls_required(peer: SocketAddr) -> Fault {
    Fault::fatal("tls_required", format!("{peer} takes encrypted connections only: use --tls"))
}

pub(super) fn hear_answers(
    session: &mut Session,
    framer: &mut Framer,
    chunk: &[u8],
    books: &mut Books,
    desk: &mut Desk<'_>,
    peer: SocketAddr,
) -> Result<(), Fault> {
    // It is said before the first answer, in the words of plain mode: the server could not know better.
    if session.phase() == Phase::Greeting && memmem::find(chunk, Code::TlsRequired.as_str().as_bytes()).is_some() {
        return Err(tls_required(peer));
    }
    let split = framer.split(chunk);
    let too_long =
        || Fault::fatal("not_a_server", format!("{peer} sends an answer without end; is it a Ringest server?"));
    match split.head {
        Head::None => {}
        Head::Line(line) => session.handle_line(line, books, desk)?,
        Head::TooLong => return Err(too_long()),
    }
    for line in lines(split.body).filter(|line| !line.is_empty()) {
        session.handle_line(line, books, desk)?;
    }
    if split.tail_too_long { Err(too_long()) } else { Ok(()) }
}
