//! Lines on their way to the socket: rendered as they are written, or packed into members that are kept until they are.

use crate::books::{Books, Desk};
use crate::corpus::Stamp;
use crate::stream::{Stream, Wire};
use std::io;

pub(super) fn write_lines(
    stream: &mut Stream,
    wire: Wire<'_>,
    stamp: &Stamp,
    books: &mut Books,
    (upto, len_max): (u64, usize),
    desk: &mut Desk<'_>,
) -> io::Result<()> {
    let flight = &books.flight;
    let (next, offset) = (flight.written() + 1, flight.offset());
    let count = (upto - flight.written()).min(desk.corpus.lines() as u64) as usize;
    let stamped = desk.corpus.stamp(stamp, next, count);
    let upto = offset + (stamped.bytes.len() - offset).min(len_max);
    let len = stream.write(wire, &stamped.bytes[offset..upto])?;
    let (lines, offset) = stamped.lines_in(offset + len);
    desk.tally.bytes += len as u64;
    desk.tally.sends += 1;
    books.wrote(lines, offset);
    Ok(())
}

/// Of what is in a member that was begun a peer may have seen any line, so all of them count as written.
pub(super) fn pack_lines(packed: &mut Vec<u8>, stamp: &Stamp, books: &mut Books, upto: u64, desk: &mut Desk<'_>) {
    let flight = &books.flight;
    let count = (upto - flight.written()).min(desk.corpus.lines() as u64) as usize;
    let stamped = desk.corpus.stamp(stamp, flight.written() + 1, count);
    if let Some(packer) = &mut desk.packer {
        packer.pack(stamped.bytes, packed);
    }
    books.wrote(count, 0);
}

pub(super) fn write_packed(
    stream: &mut Stream,
    wire: Wire<'_>,
    (packed, sent): &mut (Vec<u8>, usize),
    len_max: usize,
    desk: &mut Desk<'_>,
) -> io::Result<()> {
    let upto = *sent + (packed.len() - *sent).min(len_max);
    let len = stream.write(wire, &packed[*sent..upto])?;
    desk.tally.bytes += len as u64;
    desk.tally.sends += 1;
    *sent += len;
    if *sent == packed.len() {
        packed.clear();
        *sent = 0;
    }
    Ok(())
}
