//! Lines that differ from an earlier record in nothing but values.
//!
//! A service writes the same few kinds of lines over and over. [`Shapes`] keeps what stands between the values of
//! records that the walk has accepted: keys, signs and blanks, byte for byte. A line that has the same between other
//! values is a record too, whose level lies where it lay. That takes one comparison per value, where the walk looks at
//! every quote. It answers yes or nothing, never why not.
//!
//! Why that is sound: a string stands where a string stood, a number or constant where a number or constant stood, and
//! every other byte is that of a line that was a record. So this one is JSON, with the same keys in the same places, as
//! deep, and as little reserved. A string is known as in the walk: the indexed bytes in it are its escapes and its end.
//! How many indexed bytes stand between two values is part of the shape, so the cursor is right. That the values are
//! UTF-8 has to be checked apart.
//!
//! Shapes are a tree, because they begin alike, and it is bounded. Looking for a shape that is not there, and learning
//! it, costs as much as walking a few lines. So shapes have to earn it: where too many lines have none, all is forgotten,
//! and for some thousand lines there is only the walk.

use super::walk::{escaped_string, scalar};
use ringest_simd::begins_alike;
use ringest_wire::Severity;

/// What is known of lines that came before.
pub(super) struct Shapes {
    /// The tree: what may follow a node is behind it and at that one's siblings.
    nodes: Box<[Node; NODES_MAX]>,
    /// How many there are; the first is the root. Every way through the tree ends in [`Hole::End`].
    len: usize,
    /// How much it may still cost: shapes earn it and misses spend it. When it is used up all is forgotten.
    credit: u32,
    /// How many more lines no shape is looked for, or learned.
    rest: u32,
}

/// A place in an indexed block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: usize,
    /// The number of the first indexed byte from `at` on.
    pub(super) cursor: usize,
}

/// How far a run of lines came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Where the next line starts.
    pub(super) upto: Place,
    /// How many lines were passed.
    pub(super) rows: u32,
    /// How many of them name a level that is not known.
    pub(super) unknown: u32,
    /// The next line has a shape, but was not to be passed.
    pub(super) is_held: bool,
}

/// Text between two values, and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(32))]
struct Node {
    /// `len` bytes, and zeros.
    text: [u8; TEXT_LEN_MAX],
    /// One bit for each of them.
    mask: u16,
    len: u8,
    /// How many of them are indexed.
    marks: u8,
    /// What may stand here instead; zero if nothing else.
    sibling: u8,
    hole: Hole,
    /// It begins with the end of a string that may have escapes.
    ends_string: bool,
}

/// What follows a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    /// What is in a string, up to its end.
    String,
    /// The same, without escapes: the level.
    Level,
    /// A number, `true`, `false` or `null`.
    Scalar,
    /// More text.
    Nothing,
    /// The next line.
    End,
}

impl Shapes {
    pub(super) fn new() -> Shapes {
        Shapes { nodes: Box::new([Node::EMPTY; NODES_MAX]), len: 0, credit: CREDIT_NEW, rest: 0 }
    }

    /// Whether it is worth asking.
    #[inline]
    pub(super) fn is_awake(&self) -> bool {
        self.len > 0
    }

    /// Passes over lines that have a shape: those of `min` severity at least and at most `len_max` bytes. `bytes` and
    /// `positions` are the walk's.
    ///
    /// It does not leave the indexed block: a shape has a level, the end of which is indexed, and behind it are guards.
    #[inline(never)]
    pub(super) fn run(&self, bytes: &[u8], positions: &[u32], from: Place, min: Severity, len_max: usize) -> Run {
        let mut run = Run { upto: from, rows: 0, unknown: 0, is_held: false };
        while let Some((next, severity)) = self.record(bytes, positions, run.upto) {
            if severity < min || next.at - b"\n".len() - run.upto.at > len_max {
                run.is_held = true;
                break;
            }
            run.upto = next;
            run.rows += 1;
            run.unknown += u32::from(severity == Severity::Unknown);
        }
        run
    }

    /// How severe the record is that starts at `from`, if it has a shape, and the place behind it.
    #[inline(always)]
    fn record(&self, bytes: &[u8], positions: &[u32], from: Place) -> Option<(Place, Severity)> {
        let (mut at, mut cursor, mut level, mut number) = (from.at as u32, from.cursor as u32, 0..0, 0_u8);
        loop {
            // From string to string in a loop of its own, the state of which stays in registers: with all in one loop
            // a record takes 8 ns longer.
            let matching = loop {
                let node = &self.nodes[usize::from(number)];
                let text = bytes.get(at as usize..at as usize + TEXT_LEN_MAX)?.first_chunk()?;
                if !begins_alike(text, &node.text, node.mask) {
                    break None;
                }
                cursor += u32::from(node.marks);
                if node.hole != Hole::String {
                    break Some(node);
                }
                at = *positions.get(cursor as usize)?;
                number = number.wrapping_add(1);
            };
            let Some(node) = matching else {
                let node = &self.nodes[usize::from(number)];
                if node.ends_string && bytes[at as usize] == b'\\' {
                    (at, cursor) = string_end(bytes, positions, cursor)?;
                } else {
                    number = node.sibling()?;
                }
                continue;
            };
            let start = at + u32::from(node.len);
            match node.hole {
                Hole::String | Hole::Level => {
                    at = *positions.get(cursor as usize)?;
                    level = start..at;
                }
                Hole::Scalar => {
                    let Some(end) = scalar(bytes, start) else {
                        cursor -= u32::from(node.marks);
                        number = node.sibling()?;
                        continue;
                    };
                    at = end;
                }
                Hole::Nothing => at = start,
                Hole::End => {
                    let level = bytes.get(level.start as usize..level.end as usize)?;
                    let next = Place { at: start as usize, cursor: cursor as usize };
                    return Some((next, Severity::from_name(level)));
                }
            }
            number = number.wrapping_add(1);
        }
    }

    /// Lines had a shape.
    #[inline]
    pub(super) fn handle_hits(&mut self, rows: u32) {
        self.credit = (self.credit + rows).min(CREDIT_MAX);
    }

    /// A line, with its newline, that the walk knows for a record had no shape.
    #[inline]
    pub(super) fn handle_miss(&mut self, line: &[u8]) {
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        match self.credit.checked_sub(MISS_COST) {
            Some(credit) => {
                self.credit = credit;
                self.insert(line);
            }
            None => (self.len, self.credit, self.rest) = (0, CREDIT_NEW, REST),
        }
    }

    /// Puts what stands between the values of a record into the tree, if there is room for it.
    #[cold]
    #[inline(never)]
    fn insert(&mut self, line: &[u8]) {
        let len = self.len;
        let mut path = Path { shapes: self, last: None, joined_at: None };
        if path.insert(line).is_none() {
            let joined_at = path.joined_at;
            if let Some(joined_at) = joined_at {
                self.nodes[joined_at].sibling = 0;
            }
            self.len = len;
        }
    }
}

/// A way down the tree, made where there is none.
struct Path<'a> {
    shapes: &'a mut Shapes,
    /// The node it has come to.
    last: Option<usize>,
    /// The node that was given a sibling for it.
    joined_at: Option<usize>,
}

impl Path<'_> {
    fn insert(&mut self, line: &[u8]) -> Option<()> {
        let (mut start, mut at, mut depth, mut is_level) = (0, 0, 0, false);
        loop {
            match *line.get(at)? {
                b'"' => {
                    let close = closing_quote(line, at)?;
                    if line[close + 1..].iter().find(|&&byte| byte != b' ') == Some(&b':') {
                        is_level = depth == 1 && &line[at..close] == b"\"level";
                    } else {
                        self.push(&line[start..=at], if is_level { Hole::Level } else { Hole::String })?;
                        start = close;
                        is_level = false;
                    }
                    at = close + 1;
                }
                b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                    self.push(&line[start..at], Hole::Scalar)?;
                    at += line[at..].iter().position(|byte| b",]} \n".contains(byte))?;
                    start = at;
                }
                b'\n' => return self.push(&line[start..=at], Hole::End),
                sign => {
                    depth += i32::from(matches!(sign, b'{' | b'['));
                    depth -= i32::from(matches!(sign, b'}' | b']'));
                    at += 1;
                }
            }
        }
    }

    fn push(&mut self, mut text: &[u8], hole: Hole) -> Option<()> {
        while text.len() > TEXT_LEN_MAX {
            let (first, rest) = text.split_at(TEXT_LEN_MAX);
            self.step(Node::new(first, Hole::Nothing))?;
            text = rest;
        }
        self.step(Node::new(text, hole))
    }

    /// To the node that follows and is like `node`.
    fn step(&mut self, node: Node) -> Option<()> {
        let Shapes { nodes, len, .. } = &mut *self.shapes;
        let ends_string = self.last.is_some_and(|last| nodes[last].hole == Hole::String);
        let wanted = Node { ends_string, ..node };
        let mut at = self.last.map_or(0, |last| last + 1);
        for _ in 0..SIBLINGS_MAX {
            if at == *len {
                // The first there, as everything behind a new node is new.
                *nodes.get_mut(at)? = wanted;
                *len += 1;
                self.last = Some(at);
                return Some(());
            }
            if (Node { sibling: 0, ..nodes[at] }) == wanted {
                self.last = Some(at);
                return Some(());
            }
            match nodes[at].sibling() {
                Some(sibling) => at = usize::from(sibling),
                None => {
                    nodes[at].sibling = u8::try_from(*len).ok()?;
                    self.joined_at = Some(at);
                    at = *len;
                }
            }
        }
        None
    }
}

impl Node {
    const EMPTY: Node =
        Node { text: [0; TEXT_LEN_MAX], mask: 0, len: 0, marks: 0, sibling: 0, hole: Hole::End, ends_string: false };

    /// Of at most [`TEXT_LEN_MAX`] bytes.
    fn new(text: &[u8], hole: Hole) -> Node {
        let mut bytes = [0; TEXT_LEN_MAX];
        bytes[..text.len()].copy_from_slice(text);
        let marks = text.iter().filter(|&&byte| byte == b'"' || byte == b'\\' || byte < b' ').count();
        let mask = u16::MAX.checked_shr(16 - text.len() as u32).unwrap_or(0);
        Node { text: bytes, mask, len: text.len() as u8, marks: marks as u8, hole, ..Node::EMPTY }
    }

    #[inline(always)]
    fn sibling(&self) -> Option<u8> {
        (self.sibling != 0).then_some(self.sibling)
    }
}

/// The closing quote of a string that has an escape at the cursor: where it is, and its number.
#[inline(never)]
fn string_end(bytes: &[u8], positions: &[u32], cursor: u32) -> Option<(u32, u32)> {
    let (behind, next) = escaped_string(bytes, positions, cursor)?;
    Some((behind - 1, next - 1))
}

/// The closing quote of the string that opens at `open`.
fn closing_quote(line: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        match line.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Nodes, of 32 bytes each: two dozen kinds of lines of ten members.
const NODES_MAX: usize = 256;
/// Longer texts are cut into several.
const TEXT_LEN_MAX: usize = 16;
/// How many texts may stand at one place.
const SIBLINGS_MAX: usize = 4;
/// What a line without a shape costs, in lines that have one: the attempt, and learning it.
const MISS_COST: u32 = 16;
/// What there is to begin with: enough to learn four.
const CREDIT_NEW: u32 = 4 * MISS_COST;
const CREDIT_MAX: u32 = 1024;
/// Lines between two attempts.
const REST: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use ringest_simd::BlockIndex;

    /// How many of the lines have a shape, from the first on.
    fn passed(shapes: &Shapes, lines: &str) -> u32 {
        let mut index = BlockIndex::new();
        index.build(lines.as_bytes());
        // A text is compared in words of sixteen bytes.
        let bytes = [lines.as_bytes(), &[0; TEXT_LEN_MAX]].concat();
        let run = shapes.run(&bytes, index.guarded_positions(), Place { at: 0, cursor: 0 }, Severity::Trace, 1000);
        let whole: usize = lines.split_inclusive('\n').take(run.rows as usize).map(str::len).sum();
        assert_eq!(run.upto.at, whole);
        assert!(index.guarded_positions()[run.upto.cursor] as usize >= whole, "the cursor is at the next line");
        assert!(run.upto.cursor == 0 || (index.positions()[run.upto.cursor - 1] as usize) < whole);
        run.rows
    }

    fn taught(line: &str) -> Shapes {
        let mut shapes = Shapes::new();
        shapes.handle_miss(line.as_bytes());
        assert!(shapes.is_awake());
        shapes
    }

    #[test]
    fn a_line_that_differs_in_values_alone_has_the_shape() {
        let line =
            r#"{"ts":"12","level":"info","n":1,"ok":true,"a":[ "x", -0.5,{"b":"y"}],"message":"z"}"#.to_owned() + "\n";
        let shapes = taught(&line);
        for (old, new) in [
            ("\"12\"", "\"\""),
            ("info", "a level of another length"),
            ("1,", "123456.75,"),
            ("1,", "null,"),
            ("true", "-7"),
            ("\"x\"", "\"{[\\\"]}\\\\ \\u00e9 \\n\""),
            ("\"y\"", "\"\\\\\""),
            ("\"z\"", "\"größer\""),
        ] {
            let other = line.replacen(old, new, 1);
            assert_ne!(other, line);
            assert_eq!(passed(&shapes, &[&line[..], &other, &line].concat()), 3, "{other}");
        }
    }

    #[test]
    fn a_line_that_differs_in_anything_else_has_not() {
        let line =
            r#"{"ts":"12","level":"info","n":1,"b":"x","quite a long key, longer than a text":"y","message":"z"}"#
                .to_owned()
                + "\n";
        let shapes = taught(&line);
        assert_eq!(passed(&shapes, &line), 1);
        for (old, new) in [
            ("\"ts\"", "\"tz\""),
            ("\"ts\"", "\"$ts\""),
            ("\"12\"", "12"),
            ("\"12\"", "[]"),
            ("\"12\"", "\"1\t2\""),
            ("\"12\"", "\"1\"2\""),
            ("\"12\"", "\"1\\\""),
            ("\"12\"", "\"\\x\""),
            ("\"12\"", "\"\\ud800\""),
            ("\"info\"", "\"in\\u0066o\""),
            ("\"info\"", "null"),
            ("1,", "01,"),
            ("1,", "1e5,"),
            ("1,", "1.,"),
            ("1,", "-,"),
            ("1,", "tru,"),
            ("1,", "\"1\","),
            ("1,", "1 ,"),
            ("long key", "long\\key"),
            ("long key", "long \\\" key"),
            ("text\"", "text\\n\""),
            (":\"y\"", ": \"y\""),
            ("\"z\"}", "\"z\"} "),
            ("\"z\"}", "\"z\"]"),
            ("\"z\"}", "\"z\"}\r"),
            ("\"z\"}", "\"z"),
            ("\"z\"}", "\"z\",\"level\":\"debug\"}"),
        ] {
            let other = line.replacen(old, new, 1);
            assert_ne!(other, line);
            assert_eq!(passed(&shapes, &other), 0, "{other}");
            assert_eq!(passed(&shapes, &[&line[..], &other, &line].concat()), 1, "{other}");
        }
    }

    #[test]
    fn several_shapes_are_known_beside_each_other() {
        let kinds = ["\"a\":\"\"", "\"a\":1", "\"a\":[1]", "\"b\":\"\""];
        let line = |kind: &&str| format!("{{\"level\":\"info\",{kind},\"message\":\"x\"}}\n");
        let mut shapes = Shapes::new();
        for kind in &kinds {
            shapes.handle_miss(line(kind).as_bytes());
        }
        let lines = [kinds, kinds].as_flattened().iter().map(line).collect::<String>();
        assert_eq!(passed(&shapes, &lines), 8);
    }

    #[test]
    fn a_shape_that_does_not_fit_changes_nothing() {
        let line = "{\"level\":\"info\",\"message\":\"x\"}\n";
        let mut shapes = taught(line);
        let long = format!("{{\"level\":\"info\",\"a\":[{}0],\"message\":\"x\"}}\n", "1,".repeat(2 * NODES_MAX));
        let (len, nodes) = (shapes.len, shapes.nodes.clone());
        shapes.insert(long.as_bytes());
        assert_eq!((shapes.len, &shapes.nodes[..len]), (len, &nodes[..len]));
        assert_eq!(passed(&shapes, line), 1);
    }

    #[test]
    fn lines_that_all_differ_are_soon_left_alone_and_tried_again_later() {
        let mut shapes = Shapes::new();
        let mut tries = 0;
        for number in 0..3 * REST {
            tries += u32::from(shapes.is_awake());
            shapes.handle_miss(format!("{{\"level\":\"info\",\"k{number}\":1,\"message\":\"x\"}}\n").as_bytes());
        }
        assert!((8..20).contains(&tries), "{tries}");
        // As soon as they are alike, they stay known.
        let line = "{\"level\":\"info\",\"message\":\"x\"}\n";
        let misses = (0..2 * REST).take_while(|_| {
            shapes.handle_miss(line.as_bytes());
            !shapes.is_awake() || passed(&shapes, line) == 0
        });
        assert!(misses.count() <= REST as usize + 8);
        shapes.handle_hits(10 * MISS_COST);
        for number in 0..10 {
            shapes.handle_miss(format!("{{\"level\":\"info\",\"k{number}\":1,\"message\":\"x\"}}\n").as_bytes());
            assert_eq!(passed(&shapes, line), 1);
        }
    }
}
