//! How many descriptors this process may have open, and how much memory it may lock.

use std::io;

/// The most that the process may have: what [`raise_open_files`] raises its limit to. `u64::MAX` where there is none.
pub fn open_files_max() -> io::Result<u64> {
    open_files().map(|limit| limit.rlim_max)
}

/// Raises the limit to the most that the process may have, and returns it. Shells start processes with a fraction of
/// that, for the sake of programs that still use select(2).
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = open_files()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a whole rlimit of ours, which the call only reads.
    let outcome = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if outcome == 0 { Ok(limit.rlim_cur) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of memory that the process may lock as it is now. `u64::MAX` where there is no limit.
pub fn locked_memory() -> io::Result<u64> {
    limit_of(libc::RLIMIT_MEMLOCK).map(|limit| limit.rlim_cur)
}

fn open_files() -> io::Result<libc::rlimit> {
    limit_of(libc::RLIMIT_NOFILE)
}

fn limit_of(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a whole rlimit of ours, which the call fills.
    let outcome = unsafe { libc::getrlimit(resource, &raw mut limit) };
    if outcome == 0 { Ok(limit) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_the_most_that_may_be() {
        let most = open_files_max().unwrap();
        assert_eq!(raise_open_files().unwrap(), most);
        let now = open_files().unwrap();
        assert_eq!((now.rlim_cur, now.rlim_max), (most, most));
    }
}
