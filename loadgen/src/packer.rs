//! What is sent as gzip members (RFC 1952), for runs that compress. One packer serves all connections of a worker. It
//! remembers nothing of what it packed: a connection that breaks begins with a new member.

use libdeflater::{CompressionLvl, Compressor};

/// What becomes a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Each line, as the first design's client did it.
    Line,
    /// What is sent at once.
    Batch,
    /// The same in pieces of 64 KiB at most, each of which says how long it is, as `bgzip` writes them.
    Bgzf,
}

impl Compression {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Compression::Line => "line",
            Compression::Batch => "batch",
            Compression::Bgzf => "bgzf",
        }
    }

    /// What was typed; `None` is no compression. The first design knew yes and no, and yes was one member per line.
    ///
    /// # Errors
    /// A sentence that names what there is.
    pub fn parse(text: &str) -> Result<Option<Compression>, String> {
        match text.to_ascii_lowercase().as_str() {
            "" | "none" | "false" | "0" | "no" | "off" | "n" | "f" => Ok(None),
            "line" | "true" | "1" | "yes" | "on" | "y" | "t" => Ok(Some(Compression::Line)),
            "batch" => Ok(Some(Compression::Batch)),
            "bgzf" => Ok(Some(Compression::Bgzf)),
            _ => Err("one of none, line, batch, bgzf".into()),
        }
    }
}

/// Makes members.
pub struct Packer {
    compression: Compression,
    compressor: Compressor,
}

impl Packer {
    /// One that makes such members.
    pub fn new(compression: Compression) -> Packer {
        let level = CompressionLvl::new(LEVEL).expect("the level is one that there is");
        Packer { compression, compressor: Compressor::new(level) }
    }

    /// Appends whole lines as members.
    pub fn pack(&mut self, lines: &[u8], out: &mut Vec<u8>) {
        match self.compression {
            Compression::Line => {
                lines.split_inclusive(|&byte| byte == b'\n').for_each(|line| self.put(&HEADER, line, out));
            }
            Compression::Batch => self.put(&HEADER, lines, out),
            Compression::Bgzf => {
                for piece in lines.chunks(BGZF_PIECE_LEN) {
                    let start = out.len();
                    self.put(&BGZF_HEADER, piece, out);
                    let len = u16::try_from(out.len() - start - 1).expect("a piece leaves room for what may be added");
                    out[start + BGZF_LEN_AT..start + BGZF_LEN_AT + 2].copy_from_slice(&len.to_le_bytes());
                }
            }
        }
    }

    fn put(&mut self, header: &[u8], bytes: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(header);
        let start = out.len();
        out.resize(start + self.compressor.deflate_compress_bound(bytes.len()), 0);
        let len = self.compressor.deflate_compress(bytes, &mut out[start..]).expect("there is room for the worst");
        out.truncate(start + len);
        out.extend_from_slice(&libdeflater::crc32(bytes).to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("compression", &self.compression).finish_non_exhaustive()
    }
}

/// The fastest: it is the server that is measured.
const LEVEL: i32 = 1;
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
/// With an extra field `BC` of two bytes: the length of the member, less one.
const BGZF_HEADER: [u8; 18] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 4, 0xff, 6, 0, b'B', b'C', 2, 0, 0, 0];
const BGZF_LEN_AT: usize = 16;
/// As `bgzip` cuts.
const BGZF_PIECE_LEN: usize = 0xff00;

#[cfg(test)]
mod tests {
    use super::*;
    use libdeflater::Decompressor;

    fn packed(compression: Compression, lines: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        Packer::new(compression).pack(lines, &mut out);
        out.split_off(6)
    }

    /// Text that does not compress, as the worst case of a length.
    fn noise(len: usize) -> Vec<u8> {
        let mut number = 7u64;
        let mut byte = || {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (number >> 56) as u8
        };
        (0..len).map(|_| byte()).collect()
    }

    #[test]
    fn a_line_or_a_batch_is_a_member() {
        let lines = b"{\"one\":1}\n{\"two\":2}\n";
        let mut out = [0; 100];
        let batch = packed(Compression::Batch, lines);
        assert_eq!(Decompressor::new().gzip_decompress(&batch, &mut out), Ok(lines.len()));
        assert_eq!(&out[..lines.len()], lines);

        let each = packed(Compression::Line, lines);
        let (one, two) = (packed(Compression::Batch, &lines[..10]), packed(Compression::Batch, &lines[10..]));
        assert_eq!(each, [one, two].concat());
    }

    #[test]
    fn a_bgzf_member_says_how_long_it_is_whatever_is_in_it() {
        let lines = noise(200_000);
        let members = packed(Compression::Bgzf, &lines);
        let (mut rest, mut unpacked) = (&members[..], Vec::new());
        while !rest.is_empty() {
            assert_eq!(&rest[12..16], b"BC\x02\x00");
            let len = usize::from(u16::from_le_bytes([rest[16], rest[17]])) + 1;
            let mut out = vec![0; BGZF_PIECE_LEN];
            let out_len = Decompressor::new().gzip_decompress(&rest[..len], &mut out).unwrap();
            unpacked.extend_from_slice(&out[..out_len]);
            rest = &rest[len..];
        }
        assert!(unpacked == lines);
    }

    #[test]
    fn what_the_first_design_meant_by_yes_is_a_member_per_line() {
        for (typed, meant) in [
            ("true", Some(Compression::Line)),
            ("1", Some(Compression::Line)),
            ("False", None),
            ("", None),
            ("none", None),
            ("batch", Some(Compression::Batch)),
        ] {
            assert_eq!(Compression::parse(typed), Ok(meant), "{typed}");
        }
        assert!(Compression::parse("zstd").unwrap_err().contains("bgzf"));
    }
}
