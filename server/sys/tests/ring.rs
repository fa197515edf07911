//! Every operation of a ring, end to end, against the running kernel.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringest_sys::datagram::{self, Datagram, Drops};
use ringest_sys::event_fd::EventFd;
use ringest_sys::net;
use ringest_sys::ring::{Event, Lease, Ring, RingConfig, SLACK, probe};

const SMALL: RingConfig = RingConfig { entries: 8, buf_count: 4, buf_len: 4096 };

/// What a small ring's buffer holds.
const CHUNK: usize = 4096 - SLACK;

/// Longer than anything here takes on a loaded machine; a test that waits this long has failed.
const LIMIT: Duration = Duration::from_secs(10);

/// Long enough for what must not happen to happen.
const QUIET: Duration = Duration::from_millis(50);

fn ring() -> Ring {
    Ring::new(SMALL).unwrap()
}

fn next(ring: &mut Ring) -> Event {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(event) = ring.next() {
            return event;
        }
        assert!(Instant::now() < deadline, "nothing happened");
        ring.wait(Some(LIMIT)).unwrap();
    }
}

fn assert_quiet(ring: &mut Ring) {
    let deadline = Instant::now() + QUIET;
    while Instant::now() < deadline {
        ring.wait(Some(QUIET)).unwrap();
        if let Some(event) = ring.next() {
            panic!("unexpected: {event:?}");
        }
    }
}

/// The bytes of a receive that goes on.
fn lease(event: Event) -> Lease {
    match event {
        Event::Received { result: Ok(Some(lease)), .. } => lease,
        other => panic!("no bytes: {other:?}"),
    }
}

fn received(ring: &mut Ring) -> Vec<u8> {
    let lease = lease(next(ring));
    let bytes = ring.lent(&lease).to_vec();
    ring.release(lease);
    bytes
}

fn descriptors_open() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn the_self_test_passes_here() {
    probe().unwrap();
}

#[test]
fn one_accept_brings_every_connection() {
    let mut ring = ring();
    let listener = net::listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    ring.accept(listener.as_fd(), 5);
    ring.wait(Some(Duration::ZERO)).unwrap();

    for _ in 0..3 {
        let client = net::connect(listener.local_addr().unwrap()).unwrap();
        match next(&mut ring) {
            Event::Accepted { token: 5, result: Ok(fd), more: true } => {
                assert_eq!(net::peer_addr(fd.as_fd()).unwrap(), client.local_addr().unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn accepting_from_what_does_not_listen_ends_with_an_error() {
    let mut ring = ring();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ring.accept(ours.as_fd(), 5);
    assert!(matches!(next(&mut ring), Event::Accepted { token: 5, result: Err(_), more: false }));
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn one_receive_brings_a_stream_to_its_end() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.recv(ours.as_fd(), 9);
    for chunk in [b"first".as_slice(), b"second"] {
        theirs.write_all(chunk).unwrap();
        assert_eq!(received(&mut ring), chunk);
    }
    drop(theirs);
    assert!(matches!(next(&mut ring), Event::Received { token: 9, result: Ok(None), more: false }));
    assert_eq!((ring.in_flight(), ring.free_buffers()), (0, 4));
}

#[test]
fn more_bytes_than_all_buffers_hold_arrive_in_order() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let sent: Vec<u8> = (0..500_000_u32).map(|index| (index / 7) as u8).collect();
    let expected = sent.clone();
    let writer = std::thread::spawn(move || theirs.write_all(&sent).unwrap());

    let mut arrived = Vec::new();
    ring.recv(ours.as_fd(), 0);
    loop {
        match next(&mut ring) {
            Event::Received { result: Ok(Some(lease)), more, .. } => {
                assert!(lease.len() <= CHUNK);
                arrived.extend_from_slice(ring.lent(&lease));
                ring.release(lease);
                if !more {
                    ring.recv(ours.as_fd(), 0);
                }
            }
            Event::Received { result: Ok(None), .. } => break,
            Event::Starved { .. } => drop(ring.recv(ours.as_fd(), 0)),
            other => panic!("{other:?}"),
        }
    }
    writer.join().unwrap();
    assert!(arrived == expected, "{} bytes of {} arrived, or others", arrived.len(), expected.len());
}

#[test]
fn a_receive_without_buffers_starves_and_goes_on_after_a_release() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.recv(ours.as_fd(), 3);
    let mut held = Vec::new();
    for index in 0..4_u8 {
        theirs.write_all(&[index]).unwrap();
        held.push(lease(next(&mut ring)));
    }
    assert_eq!(ring.free_buffers(), 0);

    theirs.write_all(b"held back").unwrap();
    assert!(matches!(next(&mut ring), Event::Starved { token: 3 }));
    assert_eq!((ring.in_flight(), ring.stats().enobufs), (0, 1));
    for (index, lease) in held.iter().enumerate() {
        assert_eq!(ring.lent(lease), [index as u8], "a held buffer is not written to");
    }

    ring.release(held.remove(0));
    assert_eq!(ring.free_buffers(), 1);
    ring.recv(ours.as_fd(), 3);
    assert_eq!(received(&mut ring), b"held back");
    held.into_iter().for_each(|lease| ring.release(lease));
    assert_eq!(ring.free_buffers(), 4);
}

#[test]
fn a_receive_with_a_credit_ends_when_it_is_used_up() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&[b'x'; 4 * CHUNK]).unwrap();
    // A little more than one buffer: two buffers come, and no third though there is room for it.
    ring.recv_up_to(ours.as_fd(), 2, CHUNK as u32 + 1);
    let (mut arrived, mut more) = (0, true);
    while more {
        match next(&mut ring) {
            Event::Received { result: Ok(Some(lease)), more: goes_on, .. } => {
                arrived += lease.len();
                ring.release(lease);
                more = goes_on && Ring::keeps_credit();
            }
            other => panic!("{other:?}"),
        }
    }
    if Ring::keeps_credit() {
        assert_eq!((arrived, ring.in_flight()), (2 * CHUNK, 0));
        assert_quiet(&mut ring);
    }
}

/// What the peer of connection `index` sends as its byte number `position`.
fn pattern(index: usize, position: usize) -> u8 {
    (position / 251 + position + index * 17) as u8
}

/// A small generator of numbers that are the same in every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn no_byte_is_lost_or_moved_by_cancels_starvation_and_credits() {
    const STREAM_LEN: usize = 1 << 20;
    let mut ring = ring();
    let mut seed = 0x5eed_u64;
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..8).map(|_| UnixStream::pair().unwrap()).unzip();
    let writers = theirs.into_iter().enumerate().map(|(index, mut their)| {
        let stream: Vec<u8> = (0..STREAM_LEN).map(|position| pattern(index, position)).collect();
        std::thread::spawn(move || their.write_all(&stream).unwrap())
    });
    let writers: Vec<_> = writers.collect();

    let mut arrived = vec![0; ours.len()];
    let mut armed = vec![None; ours.len()];
    let mut ended = 0;
    let mut held = Vec::new();
    let mut idle: Vec<usize> = (0..ours.len()).collect();
    while ended < ours.len() {
        // Arm only while there are buffers: an empty ring refuses at once.
        while ring.free_buffers() > 0
            && let Some(index) = idle.pop()
        {
            let (fd, token) = (ours[index].as_fd(), index as u64);
            let credit = random(&mut seed) as u32 % 20_000 + 1;
            armed[index] =
                Some(if credit.is_multiple_of(2) { ring.recv(fd, token) } else { ring.recv_up_to(fd, token, credit) });
        }
        ring.wait(Some(LIMIT)).unwrap();
        while let Some(event) = ring.next() {
            let (token, lease, ends) = match event {
                Event::Received { token, result: Ok(Some(lease)), more } => (token, Some(lease), !more),
                Event::Starved { token } | Event::Cancelled { token } => (token, None, true),
                Event::Received { result: Ok(None), more: false, .. } => {
                    ended += 1;
                    continue;
                }
                other => panic!("{other:?}"),
            };
            let index = token as usize;
            if let Some(lease) = lease {
                let bytes = ring.lent(&lease);
                let expected = (arrived[index]..).map(|position| pattern(index, position));
                assert!(bytes.iter().copied().eq(expected.take(bytes.len())), "seed 0x5eed: stream {index} differs");
                arrived[index] += bytes.len();
                held.push(lease);
            }
            if ends {
                idle.insert(0, index);
            } else if random(&mut seed).is_multiple_of(4) {
                ring.cancel(armed[index].expect("it was armed"));
            }
        }
        // Some buffers are held on to for a few turns.
        let release = random(&mut seed) as usize % (held.len() + 1);
        held.drain(..release).for_each(|lease| ring.release(lease));
        if ring.free_buffers() == 0 {
            held.drain(..).for_each(|lease| ring.release(lease));
        }
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert!(arrived.iter().all(|&len| len == STREAM_LEN), "{arrived:?}");
    held.into_iter().for_each(|lease| ring.release(lease));
    assert_eq!((ring.free_buffers(), ring.in_flight(), ring.stats().stale), (4, 0, 0));
}

#[test]
fn a_reset_is_an_error_and_costs_no_buffer() {
    let mut ring = ring();
    let listener = net::listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    let client = net::connect(listener.local_addr().unwrap()).unwrap();
    let server = net::accept(listener.as_fd()).unwrap();
    ring.recv(server.as_fd(), 1);
    ring.wait(Some(Duration::ZERO)).unwrap();
    net::set_linger_zero(client.as_fd()).unwrap();
    drop(client);
    match next(&mut ring) {
        Event::Received { token: 1, result: Err(err), more: false } => {
            assert_eq!(err.kind(), ErrorKind::ConnectionReset);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((ring.in_flight(), ring.free_buffers()), (0, 4));
}

#[test]
fn received_bytes_can_be_changed_in_place_and_read_past_their_end() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.recv(ours.as_fd(), 0);
    theirs.write_all(&[b'x'; CHUNK]).unwrap();
    let mut lease = lease(next(&mut ring));
    assert_eq!(lease.len(), CHUNK, "a buffer is filled to its slack");
    let with_slack = ring.lent_with_slack(&mut lease);
    assert_eq!(with_slack.len(), CHUNK + SLACK);
    with_slack[CHUNK..].fill(b'!');
    ring.lent_mut(&mut lease)[0] = b'y';
    assert_eq!(&ring.lent(&lease)[..2], b"yx");
    ring.release(lease);
}

#[test]
fn a_cancelled_receive_ends_with_an_event_and_takes_no_more() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let op = ring.recv(ours.as_fd(), 4);
    ring.wait(Some(Duration::ZERO)).unwrap();
    ring.cancel(op);
    assert!(matches!(next(&mut ring), Event::Cancelled { token: 4 }));
    theirs.write_all(b"too late").unwrap();
    assert_quiet(&mut ring);
    assert_eq!(ring.stats().completions, 1, "the cancellation itself is not told");
    ring.cancel(op);
    assert_quiet(&mut ring);

    ring.recv(ours.as_fd(), 4);
    assert_eq!(received(&mut ring), b"too late");
}

#[test]
fn a_shutdown_ends_an_armed_receive() {
    let mut ring = ring();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ring.recv(ours.as_fd(), 4);
    ring.wait(Some(Duration::ZERO)).unwrap();
    net::shutdown(ours.as_fd(), Shutdown::Both).unwrap();
    assert!(matches!(next(&mut ring), Event::Received { token: 4, result: Ok(None), more: false }));
}

#[test]
fn a_send_is_whole_even_if_the_peer_reads_slowly() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    // Far beyond what a socket buffers.
    let buf: Vec<u8> = (0..4_000_000_u32).map(|index| (index / 11) as u8).collect();
    let expected = buf.clone();
    ring.send(ours.as_fd(), 8, buf);
    assert_quiet(&mut ring);

    let reader = std::thread::spawn(move || {
        let mut arrived = vec![0; expected.len()];
        theirs.read_exact(&mut arrived).unwrap();
        assert!(arrived == expected);
    });
    match next(&mut ring) {
        Event::Sent { token: 8, buf, result: Ok(()) } => assert_eq!(buf.len(), 4_000_000),
        other => panic!("{other:?}"),
    }
    reader.join().unwrap();
}

#[test]
fn a_send_to_a_peer_that_is_gone_fails_without_a_signal_and_returns_the_buffer() {
    let mut ring = ring();
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    ring.send(ours.as_fd(), 8, b"hello".to_vec());
    match next(&mut ring) {
        Event::Sent { token: 8, buf, result: Err(err) } => {
            assert_eq!((buf.as_slice(), err.kind()), (b"hello".as_slice(), ErrorKind::BrokenPipe));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_send_cut_off_in_the_middle_is_an_error() {
    let mut ring = ring();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ring.send(ours.as_fd(), 8, vec![b'x'; 4_000_000]);
    assert_quiet(&mut ring);
    drop(theirs);
    match next(&mut ring) {
        Event::Sent { token: 8, buf, result: Err(_) } => assert_eq!(buf.len(), 4_000_000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_range_of_a_buffer_is_written_to_its_place_and_made_durable() {
    let mut ring = ring();
    let file = tempfile::NamedTempFile::new().unwrap();
    ring.write(file.as_fd(), 1, b"..hello.."[..].into(), 2..7, 3);
    match next(&mut ring) {
        Event::Written { token: 1, buf, result: Ok(5) } => assert_eq!(&buf[..], b"..hello.."),
        other => panic!("{other:?}"),
    }
    ring.fdatasync(file.as_fd(), 2);
    assert!(matches!(next(&mut ring), Event::Synced { token: 2, result: Ok(()) }));
    assert_eq!(std::fs::read(file.path()).unwrap(), b"\0\0\0hello");
}

#[test]
fn a_write_or_sync_that_fails_says_why() {
    let mut ring = ring();
    let file = tempfile::NamedTempFile::new().unwrap();
    let read_only = File::open(file.path()).unwrap();
    ring.write(read_only.as_fd(), 1, b"x"[..].into(), 0..1, 0);
    match next(&mut ring) {
        Event::Written { buf, result: Err(err), .. } => {
            assert_eq!((&buf[..], err.raw_os_error()), (&b"x"[..], Some(libc::EBADF)));
        }
        other => panic!("{other:?}"),
    }
    let (pipe, _writer) = io::pipe().unwrap();
    ring.fdatasync(pipe.as_fd(), 2);
    match next(&mut ring) {
        Event::Synced { token: 2, result: Err(err) } => assert_eq!(err.kind(), ErrorKind::InvalidInput),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_thread_wakes_a_waiting_ring_again_and_again() {
    let mut ring = ring();
    let bell = EventFd::new().unwrap();
    ring.watch(bell.as_fd(), 6);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                bell.wake();
            });
            assert!(matches!(next(&mut ring), Event::Ready { token: 6, more: true }));
            assert!(bell.drain());
        }
    });
}

#[test]
fn more_operations_than_entries_are_all_served_once() {
    let mut ring = ring();
    let file = tempfile::NamedTempFile::new().unwrap();
    let expected: Vec<u8> = (0..1000_u32).map(|token| (token / 3) as u8).collect();
    for (token, &byte) in expected.iter().enumerate() {
        ring.write(file.as_fd(), token as u64, BytesMut::from(&[byte][..]), 0..1, token as u64);
    }
    let mut seen = vec![false; expected.len()];
    for _ in 0..expected.len() {
        match next(&mut ring) {
            Event::Written { token, result: Ok(1), .. } => {
                assert!(!std::mem::replace(&mut seen[token as usize], true), "{token} was told twice");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(std::fs::read(file.path()).unwrap(), expected);
    assert_eq!(ring.in_flight(), 0);
    assert_quiet(&mut ring);
}

#[test]
fn a_wait_keeps_to_its_timeout() {
    let mut ring = ring();
    let start = Instant::now();
    ring.wait(Some(Duration::from_millis(20))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(ring.next().is_none());

    let start = Instant::now();
    ring.wait(Some(Duration::ZERO)).unwrap();
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn a_wait_with_events_left_over_returns_at_once() {
    let mut ring = ring();
    let file = tempfile::tempfile().unwrap();
    ring.write(file.as_fd(), 1, BytesMut::zeroed(1), 0..1, 0);
    ring.wait(None).unwrap();
    ring.wait(None).unwrap();
    assert!(matches!(ring.next(), Some(Event::Written { .. })));
}

#[test]
fn a_closed_descriptor_outlives_what_was_queued_before_it() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.send(ours.as_fd(), 1, b"last words".to_vec());
    ring.close(ours.into());
    assert!(matches!(next(&mut ring), Event::Sent { result: Ok(()), .. }));
    let mut heard = String::new();
    theirs.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "last words");
}

#[test]
fn a_dropped_ring_lets_go_of_everything() {
    let listener = net::listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    let addr = listener.local_addr().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bell = EventFd::new().unwrap();
    // Bound before the others, so that they are what is counted.
    let file = tempfile::tempfile().unwrap();

    let mut ring = ring();
    let op = ring.recv(ours.as_fd(), 1);
    ring.accept(listener.as_fd(), 2);
    ring.watch(bell.as_fd(), 3);
    ring.send(ours.as_fd(), 4, vec![b'x'; 4_000_000]);
    ring.write(file.as_fd(), 5, BytesMut::zeroed(1 << 20), 0..1 << 20, 0);
    ring.wait(Some(Duration::ZERO)).unwrap();
    ring.fdatasync(file.as_fd(), 6);
    ring.wait(Some(Duration::ZERO)).unwrap();
    // Accepted by the ring, and never seen by anyone.
    let mut client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    ring.wait(Some(Duration::ZERO)).unwrap();
    ring.cancel(op);
    // Never submitted.
    ring.recv(ours.as_fd(), 7);

    let start = Instant::now();
    drop(ring);
    assert!(start.elapsed() < Duration::from_secs(4), "the kernel did not let go for {:?}", start.elapsed());
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the unseen connection is closed");

    // Nobody takes bytes from the socket any more.
    theirs.write_all(b"after").unwrap();
    std::thread::sleep(QUIET);
    let mut buf = [0; 8];
    assert_eq!(net::recv(ours.as_fd(), &mut buf).unwrap(), 5);
    drop(listener);
    TcpStream::connect(addr).unwrap_err();
}

#[test]
fn a_dropped_ring_lets_go_of_thousands_of_receives_at_once() {
    let mut ring = ring();
    let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
    for token in 0..10_000 {
        ring.recv(pairs[token as usize % pairs.len()].0.as_fd(), token);
    }
    ring.wait(Some(Duration::ZERO)).unwrap();
    assert_eq!(ring.in_flight(), 10_000);
    let start = Instant::now();
    drop(ring);
    // A tenth of that on an idle machine; it was above 5 s while the time grew with the square of their number.
    assert!(start.elapsed() < Duration::from_secs(1), "the kernel did not let go for {:?}", start.elapsed());
}

#[test]
fn rings_leave_no_descriptors_behind() {
    // Descriptors are the process's, and other tests open some at the same time; a leak of one per ring stands out.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let before = descriptors_open();
    for _ in 0..500 {
        let mut ring = ring();
        ring.recv(ours.as_fd(), 0);
        ring.wait(Some(Duration::ZERO)).unwrap();
    }
    let left = descriptors_open().saturating_sub(before);
    assert!(left < 400, "{left} descriptors of 500 rings are still open");
}

#[test]
fn twenty_rings_on_one_thread_work_though_the_kernel_registers_sixteen() {
    let mut rings: Vec<Ring> = (0..20).map(|_| ring()).collect();
    for ring in &mut rings {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ring.recv(ours.as_fd(), 0);
        theirs.write_all(b"x").unwrap();
        assert_eq!(received(ring), b"x");
    }
}

#[test]
#[should_panic(expected = "a lease is good at the ring it came from")]
fn a_lease_is_no_good_at_another_ring() {
    let (mut ring, other) = (ring(), self::ring());
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.recv(ours.as_fd(), 0);
    theirs.write_all(b"x").unwrap();
    let lease = lease(next(&mut ring));
    let _elsewhere = other.lent(&lease);
}

#[test]
fn no_child_process_inherits_a_ring() {
    let _ring = ring();
    let mut seen = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if !target.to_string_lossy().contains("io_uring") {
            continue;
        }
        let info = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).unwrap_or_default();
        // A ring of another test may be gone by now, and its number somebody else's.
        if let Some(flags) = info.lines().find_map(|line| line.strip_prefix("flags:")) {
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_ne!(flags & libc::O_CLOEXEC, 0, "flags {flags:o}");
            seen += 1;
        }
    }
    assert!(seen > 0, "there is a ring, and it was not found");
}

/// A ring with four buffers for datagrams of at most a thousand bytes, and both ends of a way to it.
fn datagrams(room: usize) -> (Ring, UdpSocket, UdpSocket) {
    let mut ring = ring();
    ring.add_datagram_buffers(4, 1000).unwrap();
    let ours = net::bind_udp_sharded("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    datagram::prepare(&ours, room).unwrap();
    let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
    theirs.connect(ours.local_addr().unwrap()).unwrap();
    (ring, ours, theirs)
}

/// The next datagram: its bytes, whether it is cut, its count of drops, and whether there will be more.
fn datagram(ring: &mut Ring) -> (Vec<u8>, bool, Option<u32>, bool) {
    match next(ring) {
        Event::Datagram { token: 3, result: Ok(lease), more } => {
            let Datagram { bytes, is_cut, drop_count } = ring.datagram(&lease);
            let seen = (bytes.to_vec(), is_cut, drop_count, more);
            ring.release_datagram(lease);
            seen
        }
        other => panic!("no datagram: {other:?}"),
    }
}

#[test]
fn one_receive_brings_datagrams_one_by_one() {
    let (mut ring, ours, theirs) = datagrams(1 << 20);
    ring.recv_datagrams(ours.as_fd(), 3);
    for bytes in [b"first".as_slice(), b"second", &[7; 1000]] {
        theirs.send(bytes).unwrap();
        assert_eq!(datagram(&mut ring), (bytes.to_vec(), false, None, true));
    }
    assert_eq!(ring.free_buffers(), 4, "they take no buffer of a stream");
}

#[test]
fn a_datagram_that_is_longer_than_its_buffer_is_said_to_be_cut() {
    let (mut ring, ours, theirs) = datagrams(1 << 20);
    ring.recv_datagrams(ours.as_fd(), 3);
    for len in [1001, 1000, 65_507, 1] {
        theirs.send(&vec![7; len]).unwrap();
        assert_eq!(datagram(&mut ring), (vec![7; len.min(1000)], len > 1000, None, true), "{len} bytes");
    }
}

#[test]
fn an_empty_datagram_ends_a_receive_and_the_next_one_goes_on() {
    let (mut ring, ours, theirs) = datagrams(1 << 20);
    ["", "behind"].iter().for_each(|bytes| assert_eq!(theirs.send(bytes.as_bytes()).unwrap(), bytes.len()));
    ring.recv_datagrams(ours.as_fd(), 3);
    let (bytes, is_cut, drops, more) = datagram(&mut ring);
    assert_eq!((bytes.len(), is_cut, drops), (0, false, None));
    if !more {
        assert_eq!(ring.in_flight(), 0);
        ring.recv_datagrams(ours.as_fd(), 3);
    }
    assert_eq!(datagram(&mut ring).0, b"behind");
}

#[test]
fn a_receive_of_datagrams_ends_when_its_buffers_run_out_and_loses_nothing() {
    let (mut ring, ours, theirs) = datagrams(1 << 20);
    (0..10_u8).for_each(|number| assert_eq!(theirs.send(&[number]).unwrap(), 1));
    ring.recv_datagrams(ours.as_fd(), 3);
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let mut held = Vec::new();
        loop {
            match next(&mut ring) {
                Event::Datagram { result: Ok(lease), .. } => held.push(lease),
                Event::Starved { token: 3 } => break,
                other => panic!("{other:?}"),
            }
            if seen.len() + held.len() == 10 {
                break;
            }
        }
        assert!(!held.is_empty() && held.len() <= 4);
        for lease in held {
            seen.extend_from_slice(ring.datagram(&lease).bytes);
            ring.release_datagram(lease);
        }
        if seen.len() < 10 {
            ring.recv_datagrams(ours.as_fd(), 3);
        }
    }
    assert_eq!(seen, (0..10).collect::<Vec<u8>>());
}

#[test]
fn every_datagram_is_received_by_a_ring_or_counted_as_dropped() {
    const SENT: usize = 5000;
    let (mut ring, ours, theirs) = datagrams(0);
    let (mut received, mut dropped, mut drops) = (0, 0, Drops::default());
    let mut is_armed = false;
    for burst in 1..=5 {
        (0..SENT / 5).for_each(|_| assert_eq!(theirs.send(&[7; 500]).unwrap(), 500));
        let last = Instant::now() + if burst == 5 { 4 * QUIET } else { QUIET };
        while Instant::now() < last {
            if !std::mem::replace(&mut is_armed, true) {
                ring.recv_datagrams(ours.as_fd(), 3);
            }
            ring.wait(Some(QUIET / 10)).unwrap();
            while let Some(event) = ring.next() {
                match event {
                    Event::Datagram { result: Ok(lease), more, .. } => {
                        received += 1;
                        dropped += ring.datagram(&lease).drop_count.map_or(0, |count| drops.advance(count));
                        ring.release_datagram(lease);
                        is_armed &= more;
                    }
                    Event::Starved { .. } => is_armed = false,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(dropped > 0, "drops are told with what comes behind them");
    dropped += drops.advance(datagram::drop_count(ours.as_fd()).unwrap());
    assert!(received > 0 && received + dropped as usize == SENT, "{received} received, {dropped} dropped");
}

#[test]
fn a_receive_of_datagrams_ends_when_it_is_cancelled_and_where_there_are_none() {
    let (mut ring, ours, _theirs) = datagrams(1 << 20);
    let receive = ring.recv_datagrams(ours.as_fd(), 3);
    ring.wait(Some(Duration::ZERO)).unwrap();
    ring.cancel(receive);
    assert!(matches!(next(&mut ring), Event::Cancelled { token: 3 }));
    let file = File::open("/dev/null").unwrap();
    ring.recv_datagrams(file.as_fd(), 3);
    assert!(matches!(next(&mut ring), Event::Datagram { token: 3, result: Err(_), more: false }));
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn a_ring_that_is_dropped_in_the_middle_of_datagrams_ends_at_once() {
    let (mut ring, ours, theirs) = datagrams(1 << 20);
    ring.recv_datagrams(ours.as_fd(), 3);
    theirs.send(b"held").unwrap();
    let Event::Datagram { result: Ok(_held), .. } = next(&mut ring) else { panic!("no datagram") };
    theirs.send(b"never seen").unwrap();
    let started = Instant::now();
    drop(ring);
    assert!(started.elapsed() < LIMIT / 10, "{:?}", started.elapsed());
}
