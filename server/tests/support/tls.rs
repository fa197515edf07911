//! Certificates made for one test, and a client's side of TLS as a stream that one thread may read while another writes.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A CA of the test's own.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Ca {
    pub(crate) fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Two of the same name could only be told apart by their keys.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("CA {} of {}", MADE.fetch_add(1, Ordering::Relaxed), std::process::id());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's certificate for these names.
    pub(crate) fn server(&self, names: &[&str]) -> Pair {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, 2099)
    }

    pub(crate) fn client(&self) -> Pair {
        self.sign(&["client"], ExtendedKeyUsagePurpose::ClientAuth, 2099)
    }

    /// A client's certificate that is no longer valid.
    pub(crate) fn expired_client(&self) -> Pair {
        self.sign(&["client"], ExtendedKeyUsagePurpose::ClientAuth, 2001)
    }

    pub(crate) fn expired_server(&self) -> Pair {
        self.sign(&["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth, 2001)
    }

    fn sign(&self, names: &[&str], purpose: ExtendedKeyUsagePurpose, until: i32) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![purpose];
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Pair {
    /// Lays it down where a server looks for it.
    pub(crate) fn lay(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("server.crt"), &self.certificate).unwrap();
        fs::write(dir.join("server.key"), &self.key).unwrap();
        fs::set_permissions(dir.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A client that trusts this CA, and shows that certificate.
pub(crate) fn client_config(
    ca: &str,
    shows: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match shows {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()).unwrap()
        }
    })
}

/// A connection after its handshake.
#[derive(Clone)]
pub(crate) struct TlsStream {
    tls: Arc<Mutex<ClientConnection>>,
    /// Locked before `tls`, so that records leave in the order in which they were made.
    out: Arc<Mutex<TcpStream>>,
    tcp: Arc<TcpStream>,
    /// Received and not decrypted yet.
    raw: Arc<Mutex<Vec<u8>>>,
}

impl TlsStream {
    /// Connects and shakes hands.
    pub(crate) fn connect(addr: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream> {
        let tcp = TcpStream::connect(addr)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(super::client::PATIENCE))?;
        tcp.set_write_timeout(Some(super::client::PATIENCE))?;
        TlsStream::over(tcp, config)
    }

    /// Shakes hands on a connection.
    pub(crate) fn over(mut tcp: TcpStream, config: Arc<ClientConfig>) -> io::Result<TlsStream> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let (out, tcp) = (Arc::new(Mutex::new(tcp.try_clone()?)), Arc::new(tcp));
        Ok(TlsStream { tls: Arc::new(Mutex::new(tls)), out, tcp, raw: Arc::default() })
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The certificate that the server showed.
    pub(crate) fn server_certificate(&self) -> Vec<u8> {
        self.tls.lock().unwrap().peer_certificates().expect("a server shows one")[0].to_vec()
    }

    /// Says, encrypted, that no more will be sent.
    pub(crate) fn say_end(&mut self) -> io::Result<()> {
        self.with(|tls| tls.send_close_notify())
    }

    /// New keys from here on, and the peer is asked for new ones, too.
    pub(crate) fn renew_keys(&mut self) -> io::Result<()> {
        self.with(|tls| tls.refresh_traffic_keys().unwrap())
    }

    fn with(&mut self, act: impl FnOnce(&mut ClientConnection)) -> io::Result<()> {
        let mut out = self.out.lock().unwrap();
        let mut records = Vec::new();
        let mut tls = self.tls.lock().unwrap();
        act(&mut tls);
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        drop(tls); // Whoever reads goes on while this one waits for room.
        out.write_all(&records)
    }
}

impl Read for TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let broken = |error| io::Error::new(ErrorKind::InvalidData, error);
        loop {
            {
                let mut tls = self.tls.lock().unwrap();
                match tls.reader().read(buf) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    other => return other,
                }
                // It takes what it has room for, and nothing behind the peer's last word.
                let mut raw = self.raw.lock().unwrap();
                let mut news = &raw[..];
                let taken = if news.is_empty() { 0 } else { tls.read_tls(&mut news)? };
                raw.drain(..taken);
                if taken > 0 {
                    tls.process_new_packets().map_err(broken)?;
                    continue;
                }
                raw.clear();
            }
            let mut raw = [0; 16 << 10];
            let len = (&*self.tcp).read(&mut raw)?;
            self.raw.lock().unwrap().extend_from_slice(&raw[..len]);
            if len == 0 {
                self.tls.lock().unwrap().read_tls(&mut &[][..])?; // The end, as it is told to it.
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = buf.len().min(16 << 10);
        self.with(|tls| tls.writer().write_all(&buf[..len]).expect("a record fits into memory"))?;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
