//! What memory consists of.

use std::io;

/// Asks for large pages behind the whole ones of this memory, so that the processor has fewer addresses to translate and the
/// kernel fewer pages to hand to a disk. It is a wish: where the kernel has no large page to give, usual ones are used.
///
/// # Errors
/// The kernel knows no such wish (`EINVAL`), as one that was built without transparent huge pages.
pub fn prefer_huge_pages(memory: &mut [u8]) -> io::Result<()> {
    // SAFETY: the call names no memory.
    let page_len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let before = memory.as_ptr().align_offset(page_len).min(memory.len());
    let whole = &mut memory[before..];
    let len = whole.len() - whole.len() % page_len;
    if len == 0 {
        return Ok(());
    }
    // SAFETY: the range is within the slice, and what kind of pages is behind it changes none of its bytes.
    match unsafe { libc::madvise(whole.as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the mapping that holds `address` may have large pages, as the kernel tells.
    fn may_be_huge(address: usize) -> bool {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_here = false;
        for line in smaps.lines() {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((start, end)) = range.split_once('-')
                && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
            {
                is_here = (start..end).contains(&address);
            } else if is_here && line.starts_with("VmFlags:") {
                return line.split_whitespace().any(|flag| flag == "hg");
            }
        }
        panic!("there is no mapping at {address:#x}");
    }

    #[test]
    fn whole_pages_are_asked_for_and_their_bytes_stay() {
        let mut memory = vec![7; 8 << 20];
        match prefer_huge_pages(&mut memory[1..]) {
            Ok(()) => assert!(may_be_huge(memory.as_ptr().addr() + (4 << 20))),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
        }
        assert!(memory.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn what_has_no_whole_page_is_left_alone() {
        for len in [0, 1, 100] {
            assert!(prefer_huge_pages(&mut vec![0; len]).is_ok());
        }
    }
}
