//! What becomes of a connection's bytes on their way to the socket and from it: nothing, or TLS. It never waits.
//!
//! The server is always verified: an encrypted connection to whoever answers protects from nobody.

use crate::io::Io;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, Error, RootCertStore};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
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
    Plain,
    /// Encrypted.
    Tls(Box<TlsStream>),
}

/// An encrypted one.
#[derive(Debug)]
pub struct TlsStream {
    tls: ClientConnection,
    /// Encrypted, and not all of it taken yet.
    out: Vec<u8>,
    sent: usize,
}

/// Where a stream's bytes go: one connection of an engine.
#[derive(Debug)]
pub struct Wire<'a> {
    /// The engine.
    pub io: &'a mut Io,
    /// The connection's number.
    pub at: usize,
}

impl Wire<'_> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.io.send(self.at, bytes)
    }
}

impl Stream {
    /// One over a new connection.
    ///
    /// # Errors
    /// Where TLS cannot begin.
    pub fn new(terms: Option<&TlsTerms>) -> io::Result<Stream> {
        let Some(terms) = terms else { return Ok(Stream::Plain) };
        let tls = ClientConnection::new(terms.config.clone(), terms.name.clone()).map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(TlsStream { tls, out: Vec::new(), sent: 0 })))
    }

    /// Says that nothing more will be sent, as far as that can be said without waiting.
    pub fn say_end(&mut self, wire: Wire<'_>) {
        if let Stream::Tls(stream) = self {
            stream.tls.send_close_notify();
            let _ = stream.push(wire); // Who has gone already need not be told.
        }
    }

    /// Whether it is not yet agreed how to speak; nothing can be written before.
    pub fn is_handshaking(&self) -> bool {
        match self {
            Stream::Plain => false,
            Stream::Tls(stream) => stream.tls.is_handshaking(),
        }
    }

    /// Sends what the stream itself has to say, and what it has taken and not sent.
    ///
    /// # Errors
    /// `WouldBlock` where no more is taken; otherwise it is broken.
    pub fn push(&mut self, wire: Wire<'_>) -> io::Result<()> {
        match self {
            Stream::Plain => Ok(()),
            Stream::Tls(stream) => stream.push(wire),
        }
    }

    /// Takes the beginning of `bytes`; how many.
    ///
    /// # Errors
    /// `WouldBlock` where it takes none now; otherwise it is broken.
    pub fn write(&mut self, mut wire: Wire<'_>, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain => wire.send(bytes),
            Stream::Tls(stream) => stream.write(wire, bytes),
        }
    }

    /// What the bytes that have come say, which may be nothing yet. `room` is where that may be put; it is emptied.
    ///
    /// # Errors
    /// Where they say nothing that can be understood: it is broken.
    pub fn read<'b>(&mut self, bytes: &'b [u8], room: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        match self {
            Stream::Plain => Ok(bytes),
            Stream::Tls(stream) => {
                room.clear();
                stream.read(bytes, room)?;
                Ok(room)
            }
        }
    }
}

impl TlsStream {
    fn push(&mut self, mut wire: Wire<'_>) -> io::Result<()> {
        loop {
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.out)?;
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
                return Ok(());
            }
            self.sent += wire.send(&self.out[self.sent..])?;
        }
    }

    fn write(&mut self, wire: Wire<'_>, bytes: &[u8]) -> io::Result<usize> {
        let Wire { io, at } = wire;
        // One piece at a time, so that what is encrypted and waits stays bounded.
        self.push(Wire { io: &mut *io, at })?;
        let len = self.tls.writer().write(&bytes[..bytes.len().min(PIECE_LEN)])?;
        match self.push(Wire { io, at }) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            Ok(()) | Err(_) => Ok(len),
        }
    }

    fn read(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() && self.tls.read_tls(&mut bytes)? > 0 {
            let state =
                self.tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            let len = state.plaintext_bytes_to_read();
            let start = plain.len();
            plain.resize(start + len, 0);
            self.tls.reader().read_exact(&mut plain[start..])?;
        }
        Ok(())
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
