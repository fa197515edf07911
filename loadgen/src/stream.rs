//! The bytes of one connection on their way: through a socket, or through TLS and a socket. It never waits.
//!
//! The server is always verified: an encrypted connection to whoever answers protects from nobody.

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, Error, RootCertStore};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

/// Whom to trust, who we are, and under which name the server is looked for.
#[derive(Clone, Debug)]
pub struct TlsTerms {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsTerms {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence that names the file or the name, and what to do.
    pub fn load(ca: &Path, shown: Option<(&Path, &Path)>, name: &str) -> Result<TlsTerms, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, "--ca-cert (CA_CERT_PATH)")? {
            roots.add(certificate).map_err(|error| format!("--ca-cert {}: {error}", ca.display()))?;
        }
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = verifier.build().map_err(|error| format!("--ca-cert {}: {error}", ca.display()))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_webpki_verifier(verifier);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate, "--client-cert")?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|_| format!("--client-key {}: no key in PEM can be read there", key.display()))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| {
                    format!("--client-cert {} and --client-key {}: {error}", certificate.display(), key.display())
                })?
            }
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| format!("--server-name \"{name}\" is neither a host name nor an address"))?;
        Ok(TlsTerms { config: Arc::new(config), name })
    }
}

fn certificates(path: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = fs::read(path).map_err(|error| {
        format!("{setting}: {} cannot be read: {error}; scripts/certs makes what TLS needs", path.display())
    })?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect();
    if found.is_empty() { Err(format!("{setting}: {} holds no certificate in PEM", path.display())) } else { Ok(found) }
}

/// A connection's stream of bytes.
#[derive(Debug)]
pub enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream>),
}

/// An encrypted one.
#[derive(Debug)]
pub struct TlsStream {
    tcp: TcpStream,
    tls: ClientConnection,
    /// Encrypted, and not all of it in the kernel's hands yet.
    out: Vec<u8>,
    sent: usize,
}

impl Stream {
    /// One over a connected socket that does not block.
    ///
    /// # Errors
    /// Where TLS cannot begin.
    pub fn new(tcp: TcpStream, terms: Option<&TlsTerms>) -> io::Result<Stream> {
        let Some(terms) = terms else { return Ok(Stream::Plain(tcp)) };
        let tls = ClientConnection::new(terms.config.clone(), terms.name.clone()).map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(TlsStream { tcp, tls, out: Vec::new(), sent: 0 })))
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(stream) => &stream.tcp,
        }
    }

    /// Says that nothing more will be sent, as far as that can be said without waiting.
    pub fn say_end(&mut self) {
        if let Stream::Tls(stream) = self {
            stream.tls.send_close_notify();
            let _ = stream.push(); // Who has gone already need not be told.
        }
    }

    /// Whether it is not yet agreed how to speak; nothing can be written before.
    pub fn is_handshaking(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => stream.tls.is_handshaking(),
        }
    }

    /// Sends what the stream itself has to say, and what it has taken and not sent.
    ///
    /// # Errors
    /// `WouldBlock` where the socket takes no more; otherwise it is broken.
    pub fn push(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(stream) => stream.push(),
        }
    }

    /// Takes the beginning of `bytes`; how many.
    ///
    /// # Errors
    /// `WouldBlock` where it takes none now; otherwise it is broken.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    /// What has arrived, at most `buf` full. 0 is its end.
    ///
    /// # Errors
    /// `WouldBlock` where nothing has arrived; otherwise it is broken.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.read(buf),
            Stream::Tls(stream) => stream.read(buf),
        }
    }
}

impl TlsStream {
    fn push(&mut self) -> io::Result<()> {
        loop {
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.out)?;
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
                return Ok(());
            }
            self.sent += self.tcp.write(&self.out[self.sent..])?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One piece at a time, so that what is encrypted and waits stays bounded.
        self.push()?;
        let len = self.tls.writer().write(&bytes[..bytes.len().min(PIECE_LEN)])?;
        match self.push() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            Ok(()) | Err(_) => Ok(len),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Encrypted into one half, decrypted into the other, which has room for all of it and an older unfinished record.
        let (plain, raw) = buf.split_at_mut(buf.len() / 2);
        let raw_len = raw.len().saturating_sub(RECORD_LEN_MAX).max(1);
        let len = self.tcp.read(&mut raw[..raw_len])?;
        let (mut news, mut done) = (&raw[..len], 0);
        while !news.is_empty() && self.tls.read_tls(&mut news)? > 0 {
            if let Err(error) = self.tls.process_new_packets() {
                // The server is told why, if it still listens.
                let _ = self.push();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
            loop {
                match self.tls.reader().read(&mut plain[done..]) {
                    Ok(0) => break,
                    Ok(len) => done += len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        if len > 0 && done == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(done) }
    }
}

/// What there is to be done about a TLS failure, where `error` is one. Nothing that another attempt would change.
pub fn advice(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            format!("{error}; --server-name says which name the server's certificate has to have")
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("{error}; is --ca-cert (CA_CERT_PATH) the CA that signed the server's certificate?")
        }
        Error::InvalidCertificate(_) => error.to_string(),
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion) => {
            format!("{error}; the server has TLS switched off, or none of its versions is ours")
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            format!("{error}; the server asks for --client-cert and --client-key")
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => format!("{error}; the server does not take our --client-cert"),
        Error::InvalidMessage(_) => format!("{error}; what answers there does not speak TLS"),
        _ => error.to_string(),
    })
}

/// Four records: as much as is worth a system call, and not more than a server may leave lying.
const PIECE_LEN: usize = 64 << 10;
/// The longest record, its header and what encryption adds counted, rounded up.
const RECORD_LEN_MAX: usize = 18 << 10;
