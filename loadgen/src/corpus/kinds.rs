//! Lines as real programs log them, in the forms that are told apart by what they cost to read: flat ones with many
//! members, nested ones, long ones, ones full of escapes or of other scripts.
//!
//! Each form is a function of the numbers drawn, so that a seed gives the same bytes everywhere. The texts are made up;
//! addresses and names are those reserved for examples.

use crate::draw::Draw;
use std::fmt::Write;

/// What the lines are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Plain flat records of a length that is asked for: what speed is compared with.
    #[default]
    Flat,
    /// A web server's access log.
    Access,
    /// A service's own log: members of all types, one object within, ids of traces.
    App,
    /// Audit events as a cluster's API writes them: objects in objects, lists of both.
    Audit,
    /// Exceptions with their stack, as one line: thousands of bytes with an escape in every fiftieth.
    Trace,
    /// Other scripts, emoji, right-to-left text, and half of it as escapes.
    Unicode,
    /// All of them, as a collector sees them.
    Mixed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Flat, Kind::Access, Kind::App, Kind::Audit, Kind::Trace, Kind::Unicode, Kind::Mixed];

    /// Its name on the command line and in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Flat => "flat",
            Kind::Access => "access",
            Kind::App => "app",
            Kind::Audit => "audit",
            Kind::Trace => "trace",
            Kind::Unicode => "unicode",
            Kind::Mixed => "mixed",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// All the names, where it is none of them.
    pub fn parse(text: &str) -> Result<Kind, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("one of {}", Kind::ALL.map(Kind::as_str).join(", ")))
    }

    /// Everything of a line behind its stamp, the closing brace included. `level` is the first member of its name.
    pub(super) fn members(self, draw: &mut Draw) -> String {
        match self {
            Kind::Flat | Kind::App => app(draw),
            Kind::Access => access(draw),
            Kind::Audit => audit(draw),
            Kind::Trace => trace(draw),
            Kind::Unicode => unicode(draw),
            Kind::Mixed => match draw.below(100) {
                0..45 => access(draw),
                45..85 => app(draw),
                85..92 => audit(draw),
                92..95 => trace(draw),
                _ => unicode(draw),
            },
        }
    }
}

fn access(draw: &mut Draw) -> String {
    let (address, method, path) = (address(draw), draw.pick(METHODS), path(draw));
    let status = draw.pick(STATUSES);
    let level = match status.as_bytes()[0] {
        b'5' => "ERROR",
        b'4' => "WARNING",
        _ => "INFO",
    };
    let (bytes, ms) = (draw.below(1 << 17), draw.below(900));
    let (day, time) = (1 + draw.below(28), clock(draw));
    let (agent, host) = (draw.pick(AGENTS), draw.pick(HOSTS));
    let upstream = format!("10.{}.{}.{}:8080", draw.below(256), draw.below(256), draw.below(256));
    format!(
        ",\"ts\":\"2026-03-{day:02}T{time}Z\",\"level\":\"{level}\",\"message\":\"{address} - - [{day:02}/Mar/2026:{time} \
         +0000] \\\"{method} {path} HTTP/1.1\\\" {status} {bytes} \\\"https:\\/\\/{host}\\/\\\" \\\"{agent}\\\"\",\
         \"remote_addr\":\"{address}\",\"method\":\"{method}\",\"path\":\"{path}\",\"status\":{status},\"bytes\":{bytes},\
         \"request_time\":0.{ms:03},\"upstream\":\"{upstream}\",\"host\":\"{host}\",\"request_id\":\"{:016x}{:016x}\"}}",
        draw.next(),
        draw.next()
    )
}

fn app(draw: &mut Draw) -> String {
    let (level, service) = (draw.pick(LEVELS), draw.pick(SERVICES));
    let text = match draw.below(5) {
        0 => format!("order {} of customer {} accepted", draw.below(1_000_000), draw.below(100_000)),
        1 => format!("slow query ({} ms): SELECT * FROM items WHERE sku = $1", 200 + draw.below(4_000)),
        2 => format!("cache miss for key \\\"user:{}:profile\\\"", draw.below(1_000_000)),
        3 => format!("retry {} of 5: connection to {service} reset by peer", 1 + draw.below(5)),
        _ => format!("job {} finished in {} ms, {} items", draw.below(10_000), draw.below(60_000), draw.below(500)),
    };
    let (day, time, micros) = (1 + draw.below(28), clock(draw), draw.below(1_000_000));
    let (thread, line) = (draw.below(64), 1 + draw.below(900));
    let (trace, span) = (format!("{:016x}{:016x}", draw.next(), draw.next()), draw.next());
    let (tenant, attempt, flag) = (draw.below(500), draw.below(4), draw.pick(&["true", "false", "null"]));
    format!(
        ",\"ts\":\"2026-03-{day:02}T{time}.{micros:06}Z\",\"level\":\"{level}\",\"logger\":\"com.example.{service}.Handler\",\
         \"thread\":\"worker-{thread}\",\"service\":\"{service}\",\"version\":\"3.{}.{}\",\"trace_id\":\"{trace}\",\
         \"span_id\":\"{span:016x}\",\"message\":\"{text}\",\"duration_ms\":{}.{},\"fields\":{{\"tenant\":{tenant},\
         \"region\":\"{}\",\"attempt\":{attempt},\"cached\":{flag}}},\"caller\":\"handler.go:{line}\"}}",
        draw.below(20),
        draw.below(10),
        draw.below(5_000),
        draw.below(1_000),
        draw.pick(REGIONS),
    )
}

fn audit(draw: &mut Draw) -> String {
    let (verb, resource) = (draw.pick(VERBS), draw.pick(RESOURCES));
    let (name, space) = (draw.pick(SERVICES), draw.pick(SPACES));
    let (day, time) = (1 + draw.below(28), clock(draw));
    let allowed = draw.below(20) > 0;
    let (level, code, decision) = if allowed { ("INFO", 200, "allow") } else { ("WARNING", 403, "forbid") };
    let mut containers = String::new();
    for at in 0..1 + draw.below(3) {
        let comma = if at > 0 { "," } else { "" };
        write!(
            containers,
            "{comma}{{\"name\":\"{name}-{at}\",\"image\":\"registry.example.com/{name}:{}.{}\",\"env\":[{{\"name\":\"LOG_LEVEL\",\
             \"value\":\"debug\"}},{{\"name\":\"POOL\",\"value\":\"{}\"}}],\"resources\":{{\"limits\":{{\"cpu\":\"{}m\",\
             \"memory\":\"{}Mi\"}},\"requests\":{{\"cpu\":\"100m\"}}}},\"ports\":[{{\"containerPort\":{}}}]}}",
            draw.below(9),
            draw.below(30),
            draw.below(64),
            100 * (1 + draw.below(20)),
            64 << draw.below(6),
            8_000 + draw.below(100)
        )
        .expect("a string takes all");
    }
    format!(
        ",\"level\":\"{level}\",\"message\":\"{verb} {resource} {space}/{name}: {decision}\",\"kind\":\"Event\",\
         \"apiVersion\":\"audit.example.com/v1\",\"auditID\":\"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}\",\"stage\":\
         \"ResponseComplete\",\"requestURI\":\"/apis/apps/v1/namespaces/{space}/{resource}/{name}\",\"verb\":\"{verb}\",\
         \"user\":{{\"username\":\"system:serviceaccount:{space}:{name}\",\"groups\":[\"system:serviceaccounts\",\
         \"system:authenticated\"],\"extra\":{{\"scopes\":[[\"{space}\",\"edit\"],[\"{space}\",\"view\"]]}}}},\
         \"sourceIPs\":[\"{}\",\"{}\"],\"objectRef\":{{\"resource\":\"{resource}\",\"namespace\":\"{space}\",\"name\":\
         \"{name}\",\"uid\":\"{:016x}\",\"resourceVersion\":\"{}\"}},\"responseStatus\":{{\"metadata\":{{}},\"code\":{code}}},\
         \"requestObject\":{{\"spec\":{{\"replicas\":{},\"template\":{{\"metadata\":{{\"labels\":{{\"app\":\"{name}\",\
         \"tier\":\"{}\"}}}},\"spec\":{{\"containers\":[{containers}],\"tolerations\":[]}}}}}}}},\"annotations\":{{\
         \"authorization/decision\":\"{decision}\",\"authorization/reason\":\"\"}},\"requestReceivedTimestamp\":\
         \"2026-03-{day:02}T{time}.{:06}Z\"}}",
        draw.next() >> 32,
        draw.below(1 << 16),
        draw.below(1 << 12),
        draw.below(1 << 12),
        draw.next() >> 16,
        address(draw),
        address(draw),
        draw.next(),
        draw.below(1 << 30),
        draw.below(12),
        draw.pick(&["web", "backend", "batch"]),
        draw.below(1_000_000)
    )
}

fn trace(draw: &mut Draw) -> String {
    let (service, exception) = (draw.pick(SERVICES), draw.pick(EXCEPTIONS));
    let (day, time) = (1 + draw.below(28), clock(draw));
    let mut stack = String::new();
    let mut cause = exception;
    for depth in 0..1 + draw.below(3) {
        if depth > 0 {
            cause = draw.pick(EXCEPTIONS);
            let port = 1_024 + draw.below(60_000);
            write!(stack, "\\nCaused by: {cause}: 10.0.0.{}:{port}", draw.below(256)).expect("a string takes all");
        }
        for _ in 0..12 + draw.below(40) {
            let (package, class, method) = (draw.pick(PACKAGES), draw.pick(CLASSES), draw.pick(METHOD_NAMES));
            let line = 1 + draw.below(1_500);
            write!(stack, "\\n\\tat {package}.{class}.{method}({class}.java:{line})").expect("a string takes all");
        }
        write!(stack, "\\n\\t... {} more", draw.below(60)).expect("a string takes all");
    }
    format!(
        ",\"ts\":\"2026-03-{day:02}T{time}Z\",\"level\":\"ERROR\",\"service\":\"{service}\",\"thread\":\"http-nio-8080-exec-{}\",\
         \"message\":\"Unhandled exception: {exception}: request {:08x} failed{stack}\",\"exception\":{{\"class\":\
         \"{exception}\",\"root\":\"{cause}\"}}}}",
        1 + draw.below(200),
        draw.next() >> 32
    )
}

fn unicode(draw: &mut Draw) -> String {
    let level = draw.pick(LEVELS);
    let (day, time) = (1 + draw.below(28), clock(draw));
    let mut text = String::new();
    for at in 0..3 + draw.below(6) {
        let (space, phrase) = (if at > 0 { " " } else { "" }, draw.pick(PHRASES));
        text += space;
        if draw.below(2) == 0 {
            text += phrase;
        } else {
            // As programs write it that trust nothing but ASCII: two escapes for what lies beyond the first plane.
            let mut units = [0; 2];
            for unit in phrase.chars().flat_map(|char| char.encode_utf16(&mut units).to_vec()) {
                write!(text, "\\u{unit:04x}").expect("a string takes all");
            }
        }
    }
    format!(
        ",\"ts\":\"2026-03-{day:02}T{time}Z\",\"level\":\"{level}\",\"message\":\"{text}\",\"größe\":{},\"город\":\"{}\",\
         \"利用者\":\"{}-{}\",\"tags\":[\"naïve\",\"\\u2028\",\"🦀\"]}}",
        draw.below(10_000),
        draw.pick(TOWNS),
        draw.pick(TOWNS),
        draw.below(1_000)
    )
}

fn clock(draw: &mut Draw) -> String {
    format!("{:02}:{:02}:{:02}", draw.below(24), draw.below(60), draw.below(60))
}

/// Of the networks that are reserved for documentation.
fn address(draw: &mut Draw) -> String {
    match draw.below(4) {
        0 => format!("2001:db8::{:x}:{:x}", draw.below(1 << 16), draw.below(1 << 16)),
        1 => format!("198.51.100.{}", draw.below(256)),
        _ => format!("203.0.113.{}", draw.below(256)),
    }
}

fn path(draw: &mut Draw) -> String {
    let thing = draw.pick(THINGS);
    match draw.below(4) {
        0 => format!("/static/{thing}.{:08x}.js", draw.next() >> 32),
        1 => format!("/api/v2/{thing}?page={}&sort=-created&q=%E6%9D%B1%E4%BA%AC", draw.below(400)),
        2 => "/healthz".into(),
        _ => format!("/api/v2/{thing}/{}", draw.below(10_000_000)),
    }
}

/// Weighted as logs are. No TRACE, so that the default filter of a server (DEBUG) lets all pass.
const LEVELS: &[&str] = &["INFO", "INFO", "INFO", "INFO", "INFO", "DEBUG", "DEBUG", "WARNING", "ERROR", "CRITICAL"];
const METHODS: &[&str] = &["GET", "GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"];
const STATUSES: &[&str] = &["200", "200", "200", "200", "204", "301", "304", "400", "401", "404", "429", "500", "503"];
const THINGS: &[&str] = &["orders", "users", "carts", "invoices", "search", "images", "sessions"];
const HOSTS: &[&str] = &["shop.example.com", "api.example.com", "www.example.org", "m.example.net"];
const AGENTS: &[&str] = &[
    "Mozilla\\/5.0 (X11; Linux x86_64; rv:128.0) Gecko\\/20100101 Firefox\\/128.0",
    "Mozilla\\/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit\\/537.36 (KHTML, like Gecko) Chrome\\/126.0.0.0 Safari\\/537.36",
    "Mozilla\\/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit\\/605.1.15 (KHTML, like Gecko) Version\\/17.5",
    "curl\\/8.8.0",
    "kube-probe\\/1.30",
];
const SERVICES: &[&str] = &["checkout", "auth-api", "inventory", "mail-relay", "edge", "billing-eu", "search", "cron"];
const REGIONS: &[&str] = &["eu-central-1", "us-east-2", "ap-northeast-1"];
const VERBS: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
const RESOURCES: &[&str] = &["deployments", "pods", "configmaps", "secrets", "jobs"];
const SPACES: &[&str] = &["prod", "staging", "kube-system", "team-a"];
const EXCEPTIONS: &[&str] = &[
    "java.net.SocketTimeoutException",
    "java.lang.IllegalStateException",
    "org.example.db.DeadlockException",
    "java.io.IOException",
];
const PACKAGES: &[&str] = &["com.example.shop.web", "com.example.shop.db", "org.example.http", "java.util.concurrent"];
const CLASSES: &[&str] = &["RequestHandler", "ConnectionPool$Lease", "ThreadPoolExecutor$Worker", "OrderService"];
const METHOD_NAMES: &[&str] = &["run", "invoke", "doFilter", "lambda$submit$3", "<init>", "execute"];
const TOWNS: &[&str] = &["Zürich", "Łódź", "Αθήνα", "Москва", "القاهرة", "東京", "서울", "กรุงเทพฯ"];
const PHRASES: &[&str] = &[
    "接続が拒否されました",
    "เชื่อมต่อไม่ได้",
    "المستخدم غير موجود",
    "Übergröße: Maß überschritten",
    "не удалось открыть файл",
    "δεν βρέθηκε",
    "파일을 찾을 수 없습니다",
    "👩‍👩‍👧‍👦 🇪🇺 🚀",
    "e\u{301}tat a\u{308}hnlich",
    "𝕬𝖇𝖈 𠜎 𡃁",
    "שלום עולם",
];
