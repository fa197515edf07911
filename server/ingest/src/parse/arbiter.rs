//! simd-json's verdict on one line: the only place that knows simd-json.
//!
//! It parses a copy, because simd-json unescapes strings in place, into a tape that is used again and again. No value
//! is built.

use super::{Reject, fault};
use ringest_wire::{Code, Severity};
use simd_json::{Buffers, INPUT_PADDING, Node, Tape, fill_tape_padded};
use std::mem;

pub(super) struct Arbiter {
    /// The copy, with the bytes behind it that simd-json reads past the end.
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
    depth_max: usize,
    /// How many lines it has judged.
    #[cfg(test)]
    pub(super) judged: usize,
}

impl Arbiter {
    pub(super) fn new(line_len_max: usize, depth_max: usize) -> Arbiter {
        let mut arbiter = Arbiter {
            scratch: vec![0; line_len_max + INPUT_PADDING],
            buffers: Buffers::with_max_depth(line_len_max, depth_max),
            tape: Tape(Vec::new()),
            depth_max,
            #[cfg(test)]
            judged: 0,
        };
        arbiter.reserve(line_len_max);
        arbiter
    }

    /// simd-json grows its buffers with the number of tokens. No line has more than one made of nothing else.
    fn reserve(&mut self, line_len_max: usize) {
        self.scratch[..line_len_max].fill(b'[');
        let mut tape = mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        // Refused, as it should be: what is wanted is the room it took.
        let _ = fill_tape_padded(&mut self.scratch, line_len_max, &mut self.buffers, &mut tape);
        self.tape = tape.reset();
    }

    /// A copy of a line of at most `line_len_max` bytes, a newline behind it, and zeros behind that.
    pub(super) fn copy(&mut self, line: &[u8]) -> &[u8] {
        let (copy, rest) = self.scratch.split_at_mut(line.len());
        copy.copy_from_slice(line);
        rest[..INPUT_PADDING].fill(0);
        rest[0] = b'\n';
        &self.scratch[..line.len() + INPUT_PADDING]
    }

    /// Judges a line of at most `line_len_max` bytes.
    pub(super) fn judge(&mut self, line: &[u8]) -> Result<Severity, Reject> {
        #[cfg(test)]
        {
            self.judged += 1;
        }
        self.copy(line);
        let mut tape = mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let verdict = match fill_tape_padded(&mut self.scratch, line.len(), &mut self.buffers, &mut tape) {
            Ok(()) => judge_record(&tape.0, line),
            Err(error) => Err(fault::first(line, self.depth_max)
                .unwrap_or(Reject { code: Code::BadJson, at: error.index().min(line.len()) as u32 })),
        };
        self.tape = tape.reset();
        verdict
    }
}

fn judge_record(nodes: &[Node<'_>], line: &[u8]) -> Result<Severity, Reject> {
    let Some((&Node::Object { len, .. }, mut rest)) = nodes.split_first() else {
        return Err(Reject { code: Code::NotObject, at: 0 });
    };
    let mut level = None;
    let mut has_message = false;
    for member in 0..len {
        let [Node::String(key), value, ..] = rest else {
            unreachable!("a member of an object is a string and a value");
        };
        match *key {
            "level" => level = Some((member, value)),
            "message" => has_message = true,
            _ => {}
        }
        rest = &rest[1 + size(value)..];
    }
    match level {
        Some((_, Node::String(name))) if has_message => Ok(Severity::from_name(name.as_bytes())),
        Some((member, _)) if has_message => {
            Err(Reject { code: Code::BadType, at: fault::value_of(line, member) as u32 })
        }
        _ => Err(Reject { code: Code::MissingField, at: 0 }),
    }
}

/// How many nodes a value takes.
fn size(value: &Node<'_>) -> usize {
    match *value {
        Node::Object { count, .. } | Node::Array { count, .. } => 1 + count,
        Node::String(_) | Node::Static(_) => 1,
    }
}
