//! What connections are encrypted with: certificate, key and the CA of clients are read here, held against one another,
//! and made into what shards are told. At the start, and again whenever somebody asks for it.
//!
//! Of the key nothing is kept but what rustls signs with, and nothing of it is ever shown: not in an error, not in a
//! notice, and no session secret goes to a key log.

use crate::small_file;
use ringest_ingest::TlsConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Where encryption comes from, and how much of it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPlan {
    /// Whether plain text is refused.
    pub is_required: bool,
    /// Where `server.crt` and `server.key` lie.
    pub cert_dir: PathBuf,
    /// The oldest version that is spoken.
    pub oldest: TlsVersion,
    /// Who has to have signed a client's certificate; without it clients need none.
    pub client_ca: Option<PathBuf>,
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246, with what was found to be sound of it.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// Files that were read and fit together.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What shards are told.
    pub config: TlsConfig,
    /// What may become a problem, a sentence each.
    pub notices: Vec<String>,
    text: String,
}

/// What it says of itself, in one line: `TLS required, 1.3, certificate of localhost, valid until 2027-11-21`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TlsVersion {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        }
    }

    fn and_later(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            TlsVersion::V1_2 => vec![&TLS13, &TLS12],
            TlsVersion::V1_3 => vec![&TLS13],
        }
    }
}

impl TlsPlan {
    /// Reads what the plan names.
    ///
    /// # Errors
    /// A sentence that names the file and says what to do about it.
    pub fn load(&self) -> Result<Identity, String> {
        let (crt, key) = (self.cert_dir.join(CERTIFICATE), self.cert_dir.join(KEY));
        let chain = certificates(&crt)?;
        let mut notices = Vec::new();
        let leaf = Leaf::read(&chain[0]).map_err(|error| format!("{}: {error}", crt.display()))?;
        leaf.judge(&crt, unix_now(), &mut notices);
        judge_mode(&key, &mut notices);
        let private = private_key(&key)?;

        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&self.oldest.and_later())
            .map_err(|error| format!("TLS_MIN={}: {error}", self.oldest.as_str()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(default_provider()));
                let verifier = verifier.build().map_err(|error| format!("CLIENT_CA {}: {error}", path.display()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder.with_single_cert(chain, private).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("{} is not the key of {}; scripts/certs makes a pair", key.display(), crt.display())
            }
            error => format!("{} and {} cannot be used: {error}", crt.display(), key.display()),
        })?;
        // Nothing to resume from: it would be shared by all shards, and a whole handshake costs a connection that lives
        // for hours next to nothing.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mode = if self.is_required { "required" } else { "allowed beside plain text" };
        let versions = match self.oldest {
            TlsVersion::V1_2 => "1.2 and 1.3",
            TlsVersion::V1_3 => "1.3",
        };
        let mut text = format!("TLS {versions} {mode}, certificate of {leaf}");
        if let Some(path) = &self.client_ca {
            text.push_str(&format!(", clients need a certificate of {}", path.display()));
        }
        Ok(Identity { config: TlsConfig { server: Arc::new(server), is_required: self.is_required }, notices, text })
    }
}

/// What a certificate says of its owner.
struct Leaf {
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
    until: String,
}

impl Leaf {
    fn read(der: &CertificateDer<'_>) -> Result<Leaf, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives.into_iter().flat_map(|names| &names.value.general_names).filter_map(name).collect();
        let validity = certificate.validity();
        let day = validity.not_after.to_datetime();
        Ok(Leaf {
            names,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            until: format!("{}-{:02}-{:02}", day.year(), u8::from(day.month()), day.day()),
        })
    }

    /// Points out what clients will not take. They are the ones to refuse it: their clock may be right, and ours wrong.
    fn judge(&self, path: &Path, now: i64, notices: &mut Vec<String>) {
        let path = path.display();
        if now > self.not_after {
            notices.push(format!("{path} expired on {}: clients will refuse it; renew it and send SIGHUP", self.until));
        } else if now + WARN_BEFORE_S > self.not_after {
            notices.push(format!("{path} expires on {}; renew it and send SIGHUP", self.until));
        }
        if now < self.not_before {
            notices.push(format!("{path} is not valid yet: clients will refuse it; is this machine's clock right?"));
        }
        if self.names.is_empty() {
            notices.push(format!("{path} names no host (subjectAltName): clients will refuse it"));
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = if self.names.is_empty() { "nobody".into() } else { self.names.join(", ") };
        write!(f, "{names} until {}", self.until)
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.escape_debug().to_string()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from);
            v4.or_else(|| <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from)).map(|address| address.to_string())
        }
        _ => None,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| match error {
        // In its own words that is a list of byte values.
        pem::Error::MissingSectionEnd { .. } => format!("{} ends within a certificate", path.display()),
        error => format!("{} cannot be read: {error}", path.display()),
    })?;
    if chain.is_empty() {
        return Err(format!("{} holds no certificate; it has to be PEM (BEGIN CERTIFICATE)", path.display()));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        // What it holds instead is not repeated: it may be the key.
        let is_locked = bytes.windows(LOCKED.len()).any(|window| window == LOCKED);
        let advice = if is_locked { "it is encrypted; openssl pkey writes it without" } else { "it has to be PEM" };
        format!("{} holds no key that can be used: {advice}", path.display())
    })
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path).map_err(|error| format!("CLIENT_CA: {error}"))? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("CLIENT_CA {} cannot be used: {error}", path.display()))?;
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    small_file::read(path, FILE_LEN_MAX).map_err(|error| {
        format!("TLS needs {}, which cannot be read: {error}; set CERT_DIR, or run scripts/certs", path.display())
    })
}

fn judge_mode(key: &Path, notices: &mut Vec<String>) {
    // A file that is not there is somebody else's error.
    if let Ok(found) = fs::metadata(key)
        && found.permissions().mode() & 0o007 != 0
    {
        notices.push(format!("{0} can be read by everybody on this machine; run  chmod 600 {0}", key.display()));
    }
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// The server's certificate, and behind it those that lead to its CA.
const CERTIFICATE: &str = "server.crt";
const KEY: &str = "server.key";
/// Every CA that a browser knows comes to a quarter of a mebibyte.
const FILE_LEN_MAX: u64 = 4 << 20;
const LOCKED: &[u8] = b"ENCRYPTED";
/// Two weeks, so that a weekend does not decide.
const WARN_BEFORE_S: i64 = 14 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    /// A directory with a certificate and its key.
    fn made(names: &[&str], until: i32) -> (TempDir, TlsPlan) {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(until, 7, 3);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join(CERTIFICATE), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(dir.path().join(KEY), key.serialize_pem()).unwrap();
        fs::set_permissions(dir.path().join(KEY), fs::Permissions::from_mode(0o600)).unwrap();
        let plan =
            TlsPlan { is_required: true, cert_dir: dir.path().into(), oldest: TlsVersion::V1_3, client_ca: None };
        (dir, plan)
    }

    #[test]
    fn an_identity_says_who_it_is_and_until_when() {
        let (dir, plan) = made(&["log.example", "127.0.0.1", "::1"], 2099);
        let identity = plan.load().unwrap();
        assert_eq!(identity.notices, [""; 0]);
        let who = "certificate of log.example, 127.0.0.1, ::1 until 2099-07-03";
        assert_eq!(identity.to_string(), format!("TLS 1.3 required, {who}"));
        let ca = dir.path().join(CERTIFICATE);
        let plan = TlsPlan { is_required: false, oldest: TlsVersion::V1_2, client_ca: Some(ca.clone()), ..plan };
        let needs = format!("clients need a certificate of {}", ca.display());
        let text = format!("TLS 1.2 and 1.3 allowed beside plain text, {who}, {needs}");
        assert_eq!(plan.load().unwrap().to_string(), text);
    }

    #[test]
    fn what_clients_will_not_take_is_pointed_out() {
        let (dir, plan) = made(&["log.example"], 2020);
        fs::set_permissions(dir.path().join(KEY), fs::Permissions::from_mode(0o644)).unwrap();
        let notices = plan.load().unwrap().notices;
        assert!(notices[0].contains("server.crt expired on 2020-07-03"), "{notices:?}");
        assert!(notices[1].contains("run  chmod 600"), "{notices:?}");
        let (_dir, plan) = made(&[], 2099);
        assert!(plan.load().unwrap().notices[0].contains("names no host"));
        let leaf = Leaf { names: vec!["x".into()], not_before: 100, not_after: 10_000_000, until: "then".into() };
        for (now, words) in [(99, "not valid yet"), (9_999_999, "expires on then")] {
            let mut notices = Vec::new();
            leaf.judge(Path::new("server.crt"), now, &mut notices);
            assert!(notices.len() == 1 && notices[0].contains(words), "{notices:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_what_to_do_and_without_the_key() {
        let key_of = |plan: &TlsPlan| plan.cert_dir.join(KEY);
        let refused = |change: &dyn Fn(&TlsPlan)| {
            let (_dir, plan) = made(&["log.example"], 2099);
            let secret = fs::read_to_string(key_of(&plan)).unwrap();
            change(&plan);
            let reason = plan.load().unwrap_err();
            assert!(secret.lines().all(|line| !reason.contains(line)), "{reason}");
            reason
        };
        let other = KeyPair::generate().unwrap().serialize_pem();
        type Change<'a> = &'a dyn Fn(&TlsPlan);
        let cases: [(Change<'_>, &str); 8] = [
            (&|plan| fs::remove_file(plan.cert_dir.join(CERTIFICATE)).unwrap(), "server.crt, which cannot be read"),
            (&|plan| fs::remove_file(key_of(plan)).unwrap(), "server.key, which cannot be read"),
            (&|plan| fs::write(key_of(plan), &other).unwrap(), "server.key is not the key of"),
            (&|plan| fs::write(key_of(plan), "nonsense").unwrap(), "it has to be PEM"),
            (
                &|plan| {
                    let text = fs::read_to_string(key_of(plan)).unwrap();
                    fs::write(key_of(plan), text.replace("PRIVATE", "ENCRYPTED PRIVATE")).unwrap();
                },
                "it is encrypted; openssl pkey",
            ),
            (&|plan| fs::write(plan.cert_dir.join(CERTIFICATE), "").unwrap(), "server.crt holds no certificate"),
            (
                &|plan| {
                    let text = fs::read_to_string(plan.cert_dir.join(CERTIFICATE)).unwrap();
                    fs::write(plan.cert_dir.join(CERTIFICATE), &text[..100]).unwrap();
                },
                "server.crt ends within a certificate",
            ),
            (
                &|plan| {
                    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
                    fs::write(plan.cert_dir.join(CERTIFICATE), pem).unwrap();
                },
                "server.crt: no certificate",
            ),
        ];
        for (change, words) in cases {
            let reason = refused(change);
            assert!(reason.contains(words), "{words}: {reason}");
        }
        let (dir, plan) = made(&["log.example"], 2099);
        for (ca, words) in [("none", "cannot be read"), (KEY, "holds no certificate")] {
            let plan = TlsPlan { client_ca: Some(dir.path().join(ca)), ..plan.clone() };
            let reason = plan.load().unwrap_err();
            assert!(reason.contains("CLIENT_CA") && reason.contains(words), "{reason}");
        }
    }
}
