//! Who a line is, written in its first member, and the proof that it is what was sent.
//!
//! ```text
//! {"id":"7f3a9c01-002-000017-000000120345-9ab3f00c",…
//!        run      wrk conn   seq          checksum
//! ```

use crate::draw::Draw;
use libdeflater::crc32;

/// Who sends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sender {
    /// The run.
    pub run: u32,
    /// The worker of the run, below 1000.
    pub worker: u16,
    /// The connection of the worker, below 1,000,000.
    pub conn: u32,
}

/// What is the same in every stamp of one sender.
#[derive(Clone, Debug)]
pub struct Stamp {
    prefix: [u8; PREFIX_LEN],
    pub(super) key: u64,
}

impl Stamp {
    /// The stamp of that sender.
    ///
    /// # Panics
    /// Where the worker or connection number has more digits than a stamp.
    pub fn new(sender: Sender) -> Stamp {
        let text = format!("{:08x}-{:03}-{:06}-", sender.run, sender.worker, sender.conn);
        let prefix = text.as_bytes().try_into().expect("a worker number has 3 digits, a connection number 6");
        Stamp { prefix, key: key(sender) }
    }

    /// Everything up to the last two digits of the sequence number.
    pub(super) fn image(&self, high: u64) -> [u8; IMAGE_LEN] {
        let mut image = [0; IMAGE_LEN];
        image[..PREFIX_LEN].copy_from_slice(&self.prefix);
        let mut rest = high;
        for digits in image[PREFIX_LEN..].as_chunks_mut::<2>().0.iter_mut().rev() {
            *digits = PAIRS[(rest % 100) as usize];
            rest /= 100;
        }
        image
    }
}

/// What a stored line says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is line `seq` of `sender`, and no byte of it has changed.
    Intact(Sender, u64),
    /// It has the form of a line of a generator, but its checksum is not that of its content.
    Corrupt,
    /// No generator sent it.
    Foreign,
}

/// Checks a stored line, its ending removed.
pub fn prove(line: &[u8]) -> Proof {
    let Some(stamp) = line.strip_prefix(HEAD).and_then(|rest| rest.first_chunk::<STAMP_LEN>()) else {
        return Proof::Foreign;
    };
    match read_stamp(stamp) {
        Some((sender, seq, sum)) if sum == crc32(&line[TEXT_AT..]) ^ mix(key(sender), seq) => {
            Proof::Intact(sender, seq)
        }
        _ => Proof::Corrupt,
    }
}

fn read_stamp(stamp: &[u8; STAMP_LEN]) -> Option<(Sender, u64, u32)> {
    if [8, 12, 19, 32].iter().any(|at| stamp[*at] != b'-') {
        return None;
    }
    let sender = Sender {
        run: read_hex(&stamp[..8])?,
        worker: read_digits(&stamp[9..12])? as u16,
        conn: read_digits(&stamp[13..19])? as u32,
    };
    Some((sender, read_digits(&stamp[20..32])?, read_hex(&stamp[33..])?))
}

fn read_digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

/// Lower case only: a flipped bit that makes a capital is damage, too.
fn read_hex(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |number, byte| match byte {
        b'0'..=b'9' => Some(number << 4 | u32::from(byte - b'0')),
        b'a'..=b'f' => Some(number << 4 | u32::from(byte - b'a' + 10)),
        _ => None,
    })
}

fn key(sender: Sender) -> u64 {
    let identity = u64::from(sender.run) << 32 | u64::from(sender.worker) << 20 | u64::from(sender.conn);
    Draw::new(identity).next()
}

/// Exclusive-ored to the checksum of the text, so that damage there shows for certain (crc32), and damage in the
/// identity shows but for one case in 2^32.
#[inline]
pub(super) fn mix(key: u64, seq: u64) -> u32 {
    ((key ^ seq).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Eight lower-case hex digits, without a table: one nibble per byte, then all eight made digits at once.
#[inline]
pub(super) fn hex(number: u32) -> [u8; 8] {
    let mut nibbles = u64::from(number);
    nibbles = (nibbles | nibbles << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let above_nine = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    let text = nibbles + 0x3030_3030_3030_3030 + above_nine * u64::from(b'a' - b'9' - 1);
    text.to_be_bytes()
}

pub(super) const HEAD: &[u8] = b"{\"id\":\"";
pub(super) const BLANK: &[u8; STAMP_LEN] = b"00000000-000-000000-000000000000-00000000";
const STAMP_LEN: usize = 41;
const PREFIX_LEN: usize = 20;
/// Prefix and the first ten of twelve digits.
const IMAGE_LEN: usize = PREFIX_LEN + 10;
pub(super) const PAIR_AT: usize = 7 + IMAGE_LEN;
pub(super) const SUM_AT: usize = PAIR_AT + 3;
pub(super) const TEXT_AT: usize = 7 + STAMP_LEN;

/// 00 to 99.
pub(super) const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_what_the_standard_library_prints() {
        for number in [0, 1, 9, 10, 0xdead_beef, 0x0a9f_90af, u32::MAX] {
            assert_eq!(hex(number).as_slice(), format!("{number:08x}").as_bytes());
        }
    }
}
