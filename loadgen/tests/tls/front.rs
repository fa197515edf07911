//! TLS in front of a scripted server: it decrypts, hands on, and cuts what it sends into pieces.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

/// A certificate that is its own CA.
pub(crate) struct Identity {
    pub(crate) pem: String,
    config: Arc<ServerConfig>,
}

impl Identity {
    pub(crate) fn new(name: &str, until: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Identity { pem: certificate.pem(), config: Arc::new(config) }
    }

    /// Writes the CA where `--ca-cert` finds it.
    pub(crate) fn save(&self, path: &Path) {
        std::fs::write(path, &self.pem).unwrap();
    }

    /// Listens, and hands on to `server` what it decrypts. It sends and reads at most `piece` bytes at once.
    pub(crate) fn stand_before(&self, server: SocketAddr, piece: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let config = self.config.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
                let link = Arc::new(Link {
                    tls: Mutex::new(ServerConnection::new(config.clone()).unwrap()),
                    out: Mutex::new(()),
                    client,
                    server,
                    piece,
                });
                let back = link.clone();
                thread::spawn(move || {
                    // Either way it has ended, and the other side is told by the end of its stream.
                    let _ = link.forward();
                    let _ = link.server.shutdown(Shutdown::Write);
                });
                thread::spawn(move || {
                    let _ = back.backward();
                    let _ = back.client.shutdown(Shutdown::Both);
                });
            }
        });
        addr
    }
}

struct Link {
    tls: Mutex<ServerConnection>,
    /// Locked before `tls`, so that records leave in order.
    out: Mutex<()>,
    client: TcpStream,
    server: TcpStream,
    piece: usize,
}

impl Link {
    fn forward(&self) -> io::Result<()> {
        let mut raw = vec![0; self.piece.min(4096)];
        loop {
            let len = (&self.client).read(&mut raw)?;
            if len == 0 {
                return Ok(());
            }
            let (mut news, mut plain) = (&raw[..len], Vec::new());
            let (mut broken, mut is_over) = (None, false);
            while !news.is_empty() && broken.is_none() && !is_over {
                let mut tls = self.tls.lock().unwrap();
                is_over = tls.read_tls(&mut news)? == 0;
                broken = tls.process_new_packets().err();
                let _ = tls.reader().read_to_end(&mut plain); // More may come.
            }
            self.send(|_| ())?;
            (&self.server).write_all(&plain)?;
            if broken.is_some() || is_over {
                return Ok(());
            }
        }
    }

    fn backward(&self) -> io::Result<()> {
        let mut plain = [0; 4096];
        loop {
            let len = (&self.server).read(&mut plain)?;
            if len == 0 {
                return Ok(()); // As a process that died: without close_notify.
            }
            self.send(|tls| tls.writer().write_all(&plain[..len]).unwrap())?;
        }
    }

    fn send(&self, act: impl FnOnce(&mut ServerConnection)) -> io::Result<()> {
        let _out = self.out.lock().unwrap();
        let mut records = Vec::new();
        let mut tls = self.tls.lock().unwrap();
        act(&mut tls);
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        drop(tls);
        records.chunks(self.piece).try_for_each(|piece| (&self.client).write_all(piece))
    }
}
