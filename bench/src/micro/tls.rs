//! The clients' side of TLS, in memory. A record of it can be sent once alone, because its place in the stream is sealed in
//! with it: so clients seal while the pipeline runs, and what that takes is for the caller to leave out.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use std::io::{Read, Write};
use std::sync::Arc;

/// What both sides of all connections have in common.
pub(super) struct Terms {
    pub(super) server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// One client.
pub(super) struct Peer {
    tls: ClientConnection,
    /// What it sends next.
    sealed: Vec<u8>,
}

impl Terms {
    /// With a certificate made for the purpose.
    pub(super) fn new() -> Terms {
        let made = rcgen::generate_simple_self_signed(vec![NAME.into()]).expect("the name is one");
        let certificate = CertificateDer::from(made.cert);
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("it was made a moment ago");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("it was made a moment ago");
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Terms { server: Arc::new(server.expect("the key is that of the certificate")), client: Arc::new(client) }
    }
}

impl Peer {
    pub(super) fn new(terms: &Terms) -> Peer {
        let name = ServerName::try_from(NAME).expect("the name is one");
        let mut tls = ClientConnection::new(terms.client.clone(), name).expect("the configuration serves any name");
        tls.set_buffer_limit(None);
        Peer { tls, sealed: Vec::new() }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// What the server said, in the handshake; its later answers are read by nobody.
    pub(super) fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes as &mut dyn Read).expect("memory can be read");
            self.tls.process_new_packets().expect("the server keeps the protocol");
        }
    }

    /// The bytes to be sent for these, and for what TLS itself has to say.
    pub(super) fn seal(&mut self, plain: &[u8]) -> &[u8] {
        self.sealed.clear();
        self.tls.writer().write_all(plain).expect("memory takes all of it");
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.sealed).expect("memory takes all of it");
        }
        &self.sealed
    }
}

/// What sealing adds to a record: a header, the type of its content, and a tag (RFC 8446, 5.2; 16 bytes in all suites).
pub(super) const ADDED_LEN: usize = 5 + 1 + 16;
/// Bytes of a record, at most (RFC 8446, 5.1).
pub(super) const RECORD_LEN: usize = 16 << 10;
const NAME: &str = "localhost";
