//! Datagrams: what a UDP socket received, whether it is all there, and how many the kernel dropped on the way.
//!
//! It decides nothing: it neither retries, nor waits, nor looks into a datagram.

use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{SockFilter, SockRef};

/// The longest datagram that UDP has a length for, its header included: what is received into so much is never cut.
pub const LEN_MAX: usize = 65_535;

/// Datagrams received by one system call.
pub const BATCH: usize = 64;

/// One datagram, as long as whoever received it holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// What there is of it. It may be empty.
    pub bytes: &'a [u8],
    /// It was longer, and the rest is gone.
    pub is_cut: bool,
    /// What the socket's counter of drops stood at when it was queued; `None` as long as nothing was dropped.
    pub drop_count: Option<u32>,
}

/// Has the socket count what it drops, and asks for a receive buffer of `room` bytes. Returns what was granted, in the
/// same measure: `net.core.rmem_max` is the limit, and the kernel grants less without saying so.
pub fn prepare(socket: &UdpSocket, room: usize) -> io::Result<usize> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, which lives through the call.
    let outcome = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, value, INT_LEN)
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    let socket = SockRef::from(socket);
    socket.set_recv_buffer_size(room)?;
    // The kernel doubles what is asked for, to have room for its own books, and says the double.
    Ok(socket.recv_buffer_size()? / 2)
}

/// From now on nothing more is queued on the socket; the kernel counts it as dropped. What was queued can be received.
pub fn refuse_more(fd: BorrowedFd<'_>) -> io::Result<()> {
    // The whole program: return 0, the number of bytes to keep.
    const RETURN: u16 = 0x06;
    SockRef::from(&fd).attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])
}

/// What the socket's counter of drops stands at.
pub fn drop_count(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut figures = [0_u32; MEMINFO_LEN];
    let mut len = mem::size_of_val(&figures) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the length of the array, and both live through the call.
    let outcome = unsafe {
        let place = (&raw mut figures).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, place, &mut len)
    };
    if outcome == 0 { Ok(figures[libc::SK_MEMINFO_DROPS as usize]) } else { Err(io::Error::last_os_error()) }
}

/// A counter of drops, followed: how many more there are each time it is read.
#[derive(Debug, Default)]
pub struct Drops {
    seen: u32,
}

impl Drops {
    /// The counter stands at `count`: how many were dropped since it was read last. It wraps around at 32 bits, and a
    /// reading that is older than the last one says nothing new.
    pub fn advance(&mut self, count: u32) -> u64 {
        let more = count.wrapping_sub(self.seen);
        if more > u32::MAX / 2 {
            return 0;
        }
        self.seen = count;
        more.into()
    }
}

/// Receives datagrams, a batch at a time, into memory of its own.
#[derive(Debug)]
pub struct Receiver {
    /// [`BATCH`] pieces. The kernel gives memory to those bytes alone that were ever received into.
    bytes: Vec<u8>,
    /// Longest datagram that is not cut.
    len_max: usize,
    received: [Received; BATCH],
    /// Those of the last batch that are not handed out yet.
    next: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy)]
struct Received {
    len: usize,
    is_cut: bool,
    drop_count: Option<u32>,
}

impl Receiver {
    /// One that cuts datagrams longer than `len_max`.
    pub fn new(len_max: usize) -> Receiver {
        let nothing = Received { len: 0, is_cut: false, drop_count: None };
        Receiver { bytes: vec![0; BATCH * len_max], len_max, received: [nothing; BATCH], next: 0, end: 0 }
    }

    /// Receives what is there, at most [`BATCH`], and says how many that were; `WouldBlock` if there is nothing. What
    /// has not been taken of the batch before is gone.
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        (self.next, self.end) = (0, 0);
        let mut controls = [[0_u8; CONTROL_LEN]; BATCH];
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: of this struct, which is numbers and addresses, zeros are a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let parts = self.bytes.chunks_exact_mut(self.len_max).zip(&mut controls).zip(&mut pieces);
        for (header, ((bytes, control), piece)) in headers.iter_mut().zip(parts) {
            *piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN;
        }
        let (list, room) = (headers.as_mut_ptr(), BATCH as libc::c_uint);
        // SAFETY: each header names one piece of `bytes` and one control buffer, with their lengths; all of them live
        // through the call, and nobody else looks at them meanwhile. No time limit is given.
        let count =
            unsafe { libc::recvmmsg(fd.as_raw_fd(), list, room, libc::MSG_DONTWAIT as _, std::ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for ((received, header), control) in self.received.iter_mut().zip(&headers[..count]).zip(&controls) {
            *received = Received {
                len: header.msg_len as usize,
                is_cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                drop_count: drop_count_in(&control[..header.msg_hdr.msg_controllen]),
            };
        }
        self.end = count;
        Ok(count)
    }

    /// Whether everything that was received has been taken.
    pub fn is_empty(&self) -> bool {
        self.next == self.end
    }

    /// The next one of the last batch.
    pub fn take(&mut self) -> Option<Datagram<'_>> {
        let at = self.next;
        let Received { len, is_cut, drop_count } = *self.received[..self.end].get(at)?;
        self.next += 1;
        Some(Datagram { bytes: &self.bytes[at * self.len_max..][..len], is_cut, drop_count })
    }
}

/// The counter of drops in the control messages of a datagram, where there is one.
pub(crate) fn drop_count_in(mut control: &[u8]) -> Option<u32> {
    // A header (length with it, level, type), the message, and padding to the next header.
    while let Some((header, rest)) = control.split_first_chunk::<HEADER_LEN>() {
        let (len, kind) = header.split_first_chunk::<{ size_of::<usize>() }>()?;
        let (level, kind) = kind.split_first_chunk::<4>()?;
        let (len, kind) = (usize::from_ne_bytes(*len), kind.first_chunk::<4>()?);
        let body = rest.get(..len.checked_sub(HEADER_LEN)?)?;
        if (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind)) == (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) {
            return Some(u32::from_ne_bytes(*body.first_chunk()?));
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..)?;
    }
    None
}

/// Room for the one control message that is asked for.
pub(crate) const CONTROL_LEN: usize = HEADER_LEN + size_of::<u32>().next_multiple_of(size_of::<usize>());

const HEADER_LEN: usize = size_of::<libc::cmsghdr>();
// A length and two numbers, without padding between them.
const _: () = assert!(HEADER_LEN == size_of::<usize>() + 8 && HEADER_LEN.is_multiple_of(align_of::<usize>()));
const INT_LEN: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;
/// Figures of `SO_MEMINFO`: drops are the last of them.
const MEMINFO_LEN: usize = libc::SK_MEMINFO_DROPS as usize + 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    fn pair(room: usize) -> (UdpSocket, UdpSocket) {
        let ours = net::bind_udp_sharded("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        prepare(&ours, room).unwrap();
        let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
        theirs.connect(ours.local_addr().unwrap()).unwrap();
        (ours, theirs)
    }

    fn send(socket: &UdpSocket, bytes: &[u8]) {
        assert_eq!(socket.send(bytes).unwrap(), bytes.len());
    }

    /// What is there, once there is something.
    fn receive(receiver: &mut Receiver, socket: &UdpSocket) -> usize {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match receiver.receive(socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {}
                other => return other.unwrap(),
            }
        }
    }

    #[test]
    fn datagrams_come_in_order_and_empty_ones_are_datagrams() {
        let (ours, theirs) = pair(1 << 20);
        let mut receiver = Receiver::new(100);
        assert_eq!(receiver.receive(ours.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for bytes in ["first", "", "second"] {
            send(&theirs, bytes.as_bytes());
        }
        assert_eq!(receive(&mut receiver, &ours), 3);
        for bytes in ["first", "", "second"] {
            assert!(!receiver.is_empty());
            let expected = Datagram { bytes: bytes.as_bytes(), is_cut: false, drop_count: None };
            assert_eq!(receiver.take(), Some(expected));
        }
        assert!(receiver.is_empty() && receiver.take().is_none());
    }

    #[test]
    fn one_call_brings_a_batch_and_the_next_call_the_rest() {
        let (ours, theirs) = pair(1 << 20);
        let mut receiver = Receiver::new(LEN_MAX);
        (0..BATCH as u32 + 5).for_each(|number| send(&theirs, &number.to_ne_bytes()));
        assert_eq!((receive(&mut receiver, &ours), receive(&mut receiver, &ours)), (BATCH, 5));
        assert_eq!(receiver.take().unwrap().bytes, (BATCH as u32).to_ne_bytes());
    }

    #[test]
    fn what_is_longer_than_its_memory_is_said_to_be_cut() {
        let (ours, theirs) = pair(1 << 20);
        let mut receiver = Receiver::new(100);
        [100, 101, 99].iter().for_each(|&len| send(&theirs, &vec![7; len]));
        receive(&mut receiver, &ours);
        let mut taken = || receiver.take().map(|datagram| (datagram.bytes.len(), datagram.is_cut)).unwrap();
        assert_eq!([taken(), taken(), taken()], [(100, false), (100, true), (99, false)]);
    }

    #[test]
    fn the_longest_datagram_there_is_comes_whole() {
        let (ours, theirs) = pair(1 << 20);
        let mut receiver = Receiver::new(LEN_MAX);
        let longest = vec![7; 65_507];
        send(&theirs, &longest);
        receive(&mut receiver, &ours);
        assert_eq!(receiver.take(), Some(Datagram { bytes: &longest, is_cut: false, drop_count: None }));
    }

    #[test]
    fn every_datagram_is_received_or_counted_as_dropped() {
        const SENT: usize = 5000;
        let (ours, theirs) = pair(0);
        let mut receiver = Receiver::new(LEN_MAX);
        let (mut received, mut dropped, mut drops) = (0, 0, Drops::default());
        for burst in 0..5 {
            (0..SENT / 5).for_each(|_| send(&theirs, &[7; 500]));
            // The last burst ends with drops, of which no later datagram can tell.
            if burst == 4 {
                refuse_more(ours.as_fd()).unwrap();
            }
            while let Ok(count) = receiver.receive(ours.as_fd()) {
                received += count;
                while let Some(datagram) = receiver.take() {
                    dropped += datagram.drop_count.map_or(0, |count| drops.advance(count));
                }
            }
        }
        assert!(dropped > 0, "drops are told with what comes behind them");
        dropped += drops.advance(drop_count(ours.as_fd()).unwrap());
        assert!(received > 0 && received + dropped as usize == SENT, "{received} received, {dropped} dropped");
        send(&theirs, b"too late");
        assert_eq!(receiver.receive(ours.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(drops.advance(drop_count(ours.as_fd()).unwrap()), 1, "what is refused is counted too");
    }

    #[test]
    fn a_counter_that_wraps_goes_on_and_an_old_reading_changes_nothing() {
        let mut drops = Drops { seen: u32::MAX - 1 };
        assert_eq!([3, 3, 1, u32::MAX, 4].map(|count| drops.advance(count)), [5, 0, 0, 0, 1]);
    }

    #[test]
    fn a_receive_buffer_is_granted_as_far_as_the_kernel_allows() {
        let (ours, _theirs) = pair(0);
        assert_eq!(prepare(&ours, 64 << 10).unwrap(), 64 << 10);
        let most = prepare(&ours, 1 << 30).unwrap();
        // Older kernels show it to the first network namespace alone.
        if let Ok(rmem_max) = std::fs::read_to_string("/proc/sys/net/core/rmem_max") {
            assert_eq!(most.to_string(), rmem_max.trim());
        }
    }

    #[test]
    fn other_control_messages_are_passed_over() {
        let message = |level: i32, kind: i32, body: &[u8]| {
            let mut bytes = (HEADER_LEN + body.len()).to_ne_bytes().to_vec();
            bytes.extend([level.to_ne_bytes(), kind.to_ne_bytes()].concat());
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
            bytes
        };
        let drops = message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &77_u32.to_ne_bytes());
        let other = message(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[1; 13]);
        assert_eq!(drop_count_in(&drops), Some(77));
        assert_eq!(drop_count_in(&[other.clone(), drops.clone()].concat()), Some(77));
        for none in [&[][..], &other, &drops[..HEADER_LEN + 3], &[0; 24], &[0xff; 24]] {
            assert_eq!(drop_count_in(none), None, "{none:?}");
        }
    }
}
