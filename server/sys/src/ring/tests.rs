//! What cannot be seen from outside: a completion queue too small, completions of nobody, a kernel that does not let go.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use io_uring::IoUring;

use super::*;

const SMALL: RingConfig = RingConfig { entries: 4, buf_count: 4, buf_len: 4096 };
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn completions_the_kernel_has_no_room_for_are_late_and_not_lost() {
    let mut ring = Ring::with_room(SMALL, 8).unwrap();
    let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
    let mut ours = Vec::new();
    for (token, (our, _)) in pairs.iter().enumerate() {
        ring.recv(our.as_fd(), token as u64);
    }
    ring.wait(Some(Duration::ZERO)).unwrap();
    for (our, their) in pairs {
        drop(their);
        ours.push(our);
    }

    let mut ended = vec![0; ours.len()];
    while ended.contains(&0) {
        ring.wait(Some(LIMIT)).unwrap();
        while let Some(event) = ring.next() {
            match event {
                Event::Received { token, result: Ok(None), more: false } => ended[token as usize] += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(ended.iter().all(|&times| times == 1), "an end was told twice");
    assert!(ring.stats().cq_overflows > 0, "the queue was never too small, so nothing was tested");
    assert_eq!((ring.in_flight(), ring.free_buffers()), (0, 4));
}

#[test]
fn a_completion_of_a_flight_that_has_landed_is_not_delivered() {
    let mut ring = Ring::new(SMALL).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let old = ring.watch(ours.as_fd(), 1);
    ring.flights.land(old).unwrap();
    let _unsubmitted: Vec<_> = ring.queues.unsubmit().collect();
    let new = ring.watch(ours.as_fd(), 2);

    let late = opcode::Nop::new().build().user_data(old.user_data());
    // SAFETY: it names no memory.
    unsafe { ring.queues.push(late) };
    theirs.write_all(b"x").unwrap();
    let mut tokens = Vec::new();
    while ring.stats().completions < 2 {
        ring.wait(Some(LIMIT)).unwrap();
        while let Some(event) = ring.next() {
            match event {
                Event::Ready { token, .. } => tokens.push(token),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((tokens.as_slice(), ring.stats().stale), ([2].as_slice(), 1));
    assert!(ring.flights.get(new).is_some());
}

#[test]
fn an_error_that_comes_with_a_buffer_does_not_cost_it() {
    let mut ring = Ring::new(SMALL).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.recv(ours.as_fd(), 1);
    theirs.write_all(b"x").unwrap();
    ring.wait(Some(LIMIT)).unwrap();
    let Some(Event::Received { result: Ok(Some(lease)), .. }) = ring.next() else { panic!("no bytes") };
    assert_eq!(ring.free_buffers(), 3);
    // As a completion would tell it that failed after it had picked this buffer. The lease is not used again.
    for (result, bid) in [(outcome_of_reset(), Some(lease.bid)), (outcome_of_reset(), None)] {
        assert!(matches!(ring.received(1, result, bid, false), Event::Received { result: Err(_), .. }));
        assert_eq!(ring.free_buffers(), 4);
    }
}

fn outcome_of_reset() -> io::Result<u32> {
    Err(io::Error::from_raw_os_error(libc::ECONNRESET))
}

#[test]
fn memory_is_given_up_rather_than_freed_when_the_kernel_does_not_let_go() {
    let mut ring = Ring::new(SMALL).unwrap();
    // A flight the kernel never heard of stands for one that it never finishes.
    let stuck = ring.flights.start(Flight { op: Op::Send, token: 1, payload: Payload::Sent(vec![7; 1000]) });
    assert!(!ring.reap(Duration::from_millis(50)));
    assert!(ring.flights.get(stuck).is_some());
    // Otherwise the drop would wait for its own, longer limit.
    ring.flights.land(stuck).unwrap();
}

#[test]
fn a_dropped_ring_gives_its_registered_descriptor_back() {
    // The kernel has sixteen places per thread; one that is left behind keeps its ring alive.
    for _ in 0..20 {
        drop(Ring::new(SMALL).unwrap());
    }
    let mut ring = IoUring::new(4).unwrap();
    let (mut submitter, _, _) = ring.split();
    for _ in 0..2 {
        submitter.register_ring_fd().expect("all places are free");
        submitter.unregister_ring_fd().unwrap();
    }
}
