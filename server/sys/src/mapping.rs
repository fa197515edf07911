//! Memory straight from the kernel: page-aligned, zeroed, at one address until it is dropped or leaked.

use std::{io, ptr};

/// An anonymous private mapping.
///
/// It hands out a raw address instead of slices: part of it is shared with the kernel at any time, and only its owner
/// knows which part.
pub(crate) struct Mapping {
    base: *mut u8,
    len: usize,
}

impl Mapping {
    /// At least `len` zeroed bytes, rounded up to whole pages.
    pub(crate) fn new(len: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that exists.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { base: base.cast(), len })
    }

    /// The address of the first byte; it stays the same for as long as the mapping lives.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    /// How many bytes were asked for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Gives the memory up without unmapping it, for when the kernel may still write to it.
    pub(crate) fn leak(&mut self) {
        self.len = 0;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `base` and `len` are those of our own mapping, and nothing borrows from it: slices into it are
            // made by its owner and do not outlive that owner.
            unsafe { libc::munmap(self.base.cast(), self.len) };
        }
    }
}
