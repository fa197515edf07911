//! TLS on the server's only port: what is said inside of it is what is said outside, and whatever goes wrong has a clear
//! end.

use crate::support::client::Client;
use crate::support::lines::{OK, joined, record};
use crate::support::on_each_backend;
use crate::support::process::{Server, Setup};
use crate::support::tls::{Ca, TlsStream, client_config};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// A CA, and a server that shows a certificate of it.
struct House {
    setup: Setup,
    ca: Ca,
}

impl House {
    fn new(setup: Setup, mode: &str) -> House {
        let ca = Ca::new();
        ca.server(&["localhost", "127.0.0.1"]).lay(&setup.room().join("certs"));
        let dir = setup.room().join("certs").into_os_string().into_string().unwrap();
        House { setup: setup.env("ENABLE_TLS", mode).env("CERT_DIR", &dir), ca }
    }

    fn trusting(&self) -> Arc<ClientConfig> {
        client_config(&self.ca.pem(), None, ANY)
    }

    fn connect(&self, server: &Server) -> Client {
        Client::encrypted(TlsStream::connect(server.addr(), self.trusting()).unwrap())
    }
}

const ANY: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

on_each_backend!(lines_inside_tls_are_stored_and_answered_like_any_others, |setup: Setup| {
    let house = House::new(setup, "require");
    let server = house.setup.start();
    let lines: Vec<String> = (0..20_000).map(|number| record("t", number)).collect();
    let replies = house.connect(&server).exchange(joined(&lines));
    assert_eq!(replies.len(), lines.len());
    assert!(replies.iter().all(|reply| reply == OK));
    server.stop();
    assert!(house.setup.records() == lines, "the stored bytes are the sent bytes");
    house.setup.assert_verified();
});
