//! Gzip members, made by hand and by a library that the server does not unpack a stream with.

use libdeflater::{CompressionLvl, Compressor};

/// One member.
pub(crate) fn member(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    packed(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], bytes.as_ref())
}

/// One member that says how long it is, as `bgzip` writes it. For less than 64 KiB.
pub(crate) fn bgzf(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = packed(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0\0\0", bytes.as_ref());
    let len = u16::try_from(out.len() - 1).unwrap();
    out[16..18].copy_from_slice(&len.to_le_bytes());
    out
}

fn packed(header: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut body = vec![0; compressor.deflate_compress_bound(bytes.len())];
    let len = compressor.deflate_compress(bytes, &mut body).unwrap();
    let (crc, plain_len) = (libdeflater::crc32(bytes), bytes.len() as u32);
    [header, &body[..len], &crc.to_le_bytes(), &plain_len.to_le_bytes()].concat()
}
