//! Copying past the caches.

/// Copies `from` to `to`, which is as long, and leaves the destination out of the caches: for what is written once and next
/// read by a device. A usual store fetches the line that it overwrites. Worth it from some thousand bytes on.
///
/// # Panics
/// The lengths differ.
pub fn copy_past_caches(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len(), "a copy is as long as what is copied");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 has SSE2.
    unsafe {
        crate::sse2::copy_past_caches(to, from);
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_from_every_place_to_every_place_and_nothing_beside_it() {
        const LINE: usize = 64;
        let from: Vec<u8> = (0..4 * LINE).map(|at| at as u8 ^ 0x5a).collect();
        for start in 0..=LINE {
            for from_start in [0, 1, 15, 16, 33] {
                for len in (0..=2 * LINE + 1).chain([3 * LINE]) {
                    let mut memory = vec![0; start + len + LINE];
                    copy_past_caches(&mut memory[start..start + len], &from[from_start..from_start + len]);
                    let (before, rest) = memory.split_at(start);
                    let (copied, behind) = rest.split_at(len);
                    assert_eq!(copied, &from[from_start..from_start + len], "{len} bytes at {start}");
                    assert!(before.iter().chain(behind).all(|&byte| byte == 0), "{len} bytes at {start}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "as long")]
    fn lengths_that_differ_are_refused() {
        copy_past_caches(&mut [0; 2], &[0; 3]);
    }
}
