//! Sockets as both backends and the generator need them: listen, connect, and what a connection is asked.
//!
//! It keeps no connection and decides nothing about one.

use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// One non-blocking listener per shard, all on the same address; the kernel deals connections among them by hash.
///
/// With port 0 the kernel chooses, once for all. Connections inherit TCP_NODELAY. Fails with `AddrInUse`, and says so in
/// words, if another process listens there, even one that would be willing to share: it would silently take a part of
/// the connections.
pub fn listen_sharded(addr: SocketAddr, backlog: i32, shard_count: usize) -> io::Result<Vec<TcpListener>> {
    let sockets = bind_sharded(addr, shard_count, tcp_socket)?;
    sockets.iter().try_for_each(|socket| socket.listen(backlog))?;
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

/// A single listener, as [`listen_sharded`] makes them.
pub fn listen(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    Ok(listen_sharded(addr, backlog, 1)?.remove(0))
}

/// A listener per shard of those that were inherited: in turn, so that where there are fewer than shards, some accept from
/// the same queue. A sibling of our own (SO_REUSEPORT) would have a queue of its own, and the kernel would drop what
/// waits in that when this process ends; a queue that somebody else holds too loses nobody.
///
/// # Errors
/// There are more listeners than shards, or no descriptor is left.
pub fn share(listeners: &[TcpListener], shard_count: usize) -> io::Result<Vec<TcpListener>> {
    if listeners.len() > shard_count {
        return Err(io::Error::other(format!(
            "{} listeners were passed on and there are {shard_count} shards: nobody would accept from some of them; \
             pass on fewer, or ask for as many shards",
            listeners.len()
        )));
    }
    listeners.iter().cycle().take(shard_count).map(TcpListener::try_clone).collect()
}

/// One non-blocking UDP socket per shard, all on the same address, shared and guarded as in [`listen_sharded`].
pub fn bind_udp_sharded(addr: SocketAddr, shard_count: usize) -> io::Result<Vec<UdpSocket>> {
    let sockets = bind_sharded(addr, shard_count, udp_socket)?;
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// A connection that is waiting on a non-blocking listener, itself non-blocking; `WouldBlock` if there is none.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    accept_from(listener).map(|(connection, _peer)| connection)
}

/// The same, with who is at the other end.
pub fn accept_from(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (connection, peer) = SockRef::from(&listener).accept4(flags)?;
    let peer = peer.as_socket().ok_or_else(|| io::Error::other("the peer has no internet address"))?;
    Ok((connection.into(), peer))
}

/// Connects, waiting for the peer's answer; the connection is non-blocking and does not delay small writes.
pub fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Begins to connect without waiting. Once the connection, non-blocking and without delay of small writes, can be written
/// to, [`outcome`] says what came of it.
pub fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

/// What came of a connection that was begun by [`dial`].
pub fn outcome(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).take_error()?.map_or(Ok(()), Err)
}

/// Connects from a chosen address of this machine; the connection blocks.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// What has arrived, at most `buf` full; 0 is the end of the stream.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    (&*SockRef::from(&fd)).read(buf)
}

/// Sends what there is room for. A peer that is gone is an error here, never a SIGPIPE.
pub fn send(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    SockRef::from(&fd).send_with_flags(buf, libc::MSG_NOSIGNAL)
}

/// Ends one direction or both. It also ends a receive that is armed on a ring, which closing alone does not.
pub fn shutdown(fd: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    SockRef::from(&fd).shutdown(how)
}

/// Who is at the other end.
pub fn peer_addr(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let addr = SockRef::from(&fd).peer_addr()?;
    addr.as_socket().ok_or_else(|| io::Error::other("the peer has no internet address"))
}

/// Makes the close a reset: what was not sent is dropped, and the port does not linger in TIME_WAIT.
pub fn set_linger_zero(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_linger(Some(Duration::ZERO))
}

fn bind_sharded(
    addr: SocketAddr,
    shard_count: usize,
    socket: fn(SocketAddr) -> io::Result<Socket>,
) -> io::Result<Vec<Socket>> {
    assert!(shard_count > 0, "somebody has to listen");
    let first = socket(addr)?;
    // Bound before it is willing to share, so that the bind fails if anyone is there, and shared from then on: there
    // is no moment in which another process could come in between.
    bind(&first, addr)?;
    first.set_reuse_port(true)?;
    let addr = first.local_addr()?.as_socket().expect("it was bound to an internet address");

    let mut sockets = vec![first];
    for _ in 1..shard_count {
        let next = socket(addr)?;
        next.set_reuse_port(true)?;
        bind(&next, addr)?;
        sockets.push(next);
    }
    Ok(sockets)
}

fn bind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    socket.bind(&addr.into()).map_err(|err| explain_bind(addr, err))
}

fn tcp_socket(addr: SocketAddr) -> io::Result<Socket> {
    // Close-on-exec is the crate's default.
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // A restart must not wait for the last run's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn udp_socket(addr: SocketAddr) -> io::Result<Socket> {
    // Its address is not made reusable: for UDP that would let another process share the port unasked.
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn explain_bind(addr: SocketAddr, err: io::Error) -> io::Error {
    let reason = match err.kind() {
        io::ErrorKind::AddrInUse => "another process already listens there; stop it or choose another port",
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one",
        _ => return err,
    };
    io::Error::new(err.kind(), format!("cannot listen on {addr}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const ANY_PORT: &str = "127.0.0.1:0";

    fn pair() -> (TcpStream, OwnedFd) {
        let listener = listen(ANY_PORT.parse().unwrap(), 16).unwrap();
        let client = connect(listener.local_addr().unwrap()).unwrap();
        let server = accept(listener.as_fd()).unwrap();
        (client, server)
    }

    fn until_ready<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt() {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    #[test]
    fn shards_share_one_port_and_all_get_connections() {
        let listeners = listen_sharded(ANY_PORT.parse().unwrap(), 128, 4).unwrap();
        let addr = listeners[0].local_addr().unwrap();
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == addr));

        let clients: Vec<_> = (0..128).map(|_| connect(addr).unwrap()).collect();
        let accepted: Vec<usize> =
            listeners.iter().map(|listener| std::iter::from_fn(|| accept(listener.as_fd()).ok()).count()).collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        // The chance that a fair hash leaves one of four empty is 4 * (3/4)^128: one in 10^15.
        assert!(accepted.iter().all(|&count| count > 0), "dealt {accepted:?}");
    }

    #[test]
    fn shards_that_share_a_listener_take_what_is_queued_and_leave_it_when_they_end() {
        let held = listen(ANY_PORT.parse().unwrap(), 128).unwrap();
        let addr = held.local_addr().unwrap();
        let _clients: Vec<_> = (0..10).map(|_| connect(addr).unwrap()).collect();
        for _ in 0..2 {
            let shards = share(std::slice::from_ref(&held), 3).unwrap();
            assert_eq!(shards.len(), 3);
            for shard in &shards[..2] {
                until_ready(|| accept(shard.as_fd())).unwrap();
            }
            drop(shards); // The rest waits for whoever comes next.
        }
        assert_eq!(std::iter::from_fn(|| accept(held.as_fd()).ok()).count(), 6);
        let both = [held.try_clone().unwrap(), held];
        assert!(share(&both, 1).unwrap_err().to_string().contains("2 listeners were passed on and there are 1 shards"));
        assert_eq!(share(&both, 2).unwrap().len(), 2);
    }

    #[test]
    fn a_port_that_is_taken_is_refused_in_words() {
        let sharing = listen_sharded(ANY_PORT.parse().unwrap(), 16, 2).unwrap();
        let selfish = TcpListener::bind(ANY_PORT).unwrap();
        for addr in [sharing[0].local_addr().unwrap(), selfish.local_addr().unwrap()] {
            let err = listen_sharded(addr, 16, 2).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::AddrInUse);
            assert!(err.to_string().contains(&format!("{addr}: another process already listens")), "{err}");
        }
    }

    #[test]
    fn a_port_can_be_taken_again_right_after_it_was_busy() {
        let listener = listen(ANY_PORT.parse().unwrap(), 16).unwrap();
        let addr = listener.local_addr().unwrap();
        let client = connect(addr).unwrap();
        // The server closes first, so its end is the one in TIME_WAIT.
        drop(accept(listener.as_fd()).unwrap());
        drop(listener);
        drop(client);
        listen(addr, 16).unwrap();
    }

    #[test]
    fn connections_do_not_block_delay_or_outlive_an_exec() {
        let (client, server) = pair();
        for fd in [client.as_fd(), server.as_fd()] {
            assert_eq!(recv(fd, &mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let socket = SockRef::from(&fd);
            assert!(socket.tcp_nodelay().unwrap());
            // SAFETY: F_GETFD takes no memory.
            let flags = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&fd), libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
    }

    #[test]
    fn bytes_cross_and_the_end_is_zero() {
        let (client, server) = pair();
        assert_eq!(send(client.as_fd(), b"hello").unwrap(), 5);
        let mut buf = [0; 8];
        assert_eq!(until_ready(|| recv(server.as_fd(), &mut buf)).unwrap(), 5);
        assert_eq!(&buf[..5], b"hello");
        assert_eq!(peer_addr(server.as_fd()).unwrap(), client.local_addr().unwrap());
        shutdown(client.as_fd(), Shutdown::Write).unwrap();
        assert_eq!(until_ready(|| recv(server.as_fd(), &mut buf)).unwrap(), 0);
    }

    #[test]
    fn a_connection_that_is_dialled_is_there_or_refused_once_it_can_be_written_to() {
        let listener = listen(ANY_PORT.parse().unwrap(), 16).unwrap();
        let addr = listener.local_addr().unwrap();
        let client = dial(addr).unwrap();
        let server = until_ready(|| accept(listener.as_fd())).unwrap();
        outcome(client.as_fd()).unwrap();
        send(client.as_fd(), b"x").unwrap();
        assert_eq!(until_ready(|| recv(server.as_fd(), &mut [0; 8])).unwrap(), 1);
        drop(listener);
        // On loopback the refusal is there at once, or is the outcome.
        let refused = dial(addr).and_then(|client| outcome(client.as_fd()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_close_without_linger_is_a_reset_and_sending_to_it_an_error() {
        let (client, server) = pair();
        set_linger_zero(client.as_fd()).unwrap();
        drop(client);
        let err = until_ready(|| recv(server.as_fd(), &mut [0])).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(send(server.as_fd(), b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
