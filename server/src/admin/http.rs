//! HTTP/1 for a few clients that look: GET and HEAD, bounded in every direction.
//!
//! One thread reads and writes (hyper on a runtime of tokio that has this thread alone); questions are answered on a few
//! others, because an answer waits for shards. It knows no path.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::{self, LocalSet};
use tokio::time::{self, Instant};

/// What somebody asks for.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) path: String,
    /// What stands behind the question mark.
    pub(super) query: String,
    /// What formats are asked for, as the client puts it.
    pub(super) accept: String,
}

/// What is said to that.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The content type.
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// A sentence, or lines.
    pub(super) fn text(status: u16, text: impl Into<String>) -> Answer {
        Answer { status, kind: "text/plain; charset=utf-8", body: text.into().into_bytes() }
    }

    pub(super) fn json(value: &Value) -> Answer {
        Answer { status: 200, kind: "application/json", body: format!("{value}\n").into_bytes() }
    }
}

type Respond = Arc<dyn Fn(Question) -> Answer + Send + Sync>;

/// Answers who connects, for as long as the process lives.
///
/// # Errors
/// The kernel refuses what it takes to listen.
pub(super) fn serve(
    listener: std::net::TcpListener,
    respond: impl Fn(Question) -> Answer + Send + Sync + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(ANSWERS_AT_ONCE)
        .thread_name("admin-answer")
        .build()?;
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::from_std(listener)?;
        accept(&listener, Arc::new(respond)).await;
        Ok(())
    })
}

async fn accept(listener: &TcpListener, respond: Respond) {
    let places = Rc::new(Cell::new(CONNECTIONS_MAX));
    let places_to_leave = Rc::new(Cell::new(CONNECTIONS_MAX));
    loop {
        match listener.accept().await {
            Ok(_) if places.get() == 0 && places_to_leave.get() == 0 => {} // Closed without a word.
            Ok((stream, _)) if places.get() == 0 => {
                let place = Place::take(&places_to_leave);
                task::spawn_local(async move {
                    turn_away(stream).await;
                    drop(place);
                });
            }
            Ok((stream, _)) => {
                let place = Place::take(&places);
                let respond = respond.clone();
                task::spawn_local(async move {
                    converse(stream, respond).await;
                    drop(place);
                });
            }
            // Descriptors have run out, or the peer is gone already: neither lasts.
            Err(_) => time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// One of the connections that may be.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(places: &Rc<Cell<usize>>) -> Place {
        places.set(places.get() - 1);
        Place(places.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// There are as many as may be: said at once, so that a health check does not take the wait for an answer. The request is
/// read first, because closing on bytes that nobody has read would take back what was said.
async fn turn_away(stream: TcpStream) {
    let _ = time::timeout(TURN_AWAY_MAX, stream.readable()).await;
    let _ = stream.try_read(&mut [0; REQUEST_LEN_MAX]);
    let _ = stream.try_write(
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
          too many connections to the admin listener\n",
    );
}

/// Serves one connection until it ends, or makes no headway. Each step has its time, which sending a byte now and then does
/// not prolong: the request, the answer to it, and until that is taken and the next request has come.
async fn converse(stream: TcpStream, respond: Respond) {
    let until = Rc::new(Cell::new(Instant::now() + REQUEST_MAX));
    let deadline = until.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (respond, deadline) = (respond.clone(), deadline.clone());
        async move {
            deadline.set(Instant::now() + ANSWER_MAX);
            let response = reply(&request, respond).await;
            deadline.set(Instant::now() + NEXT_MAX);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_MAX)
        .max_buf_size(REQUEST_LEN_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    loop {
        let at = until.get();
        match time::timeout_at(at, connection.as_mut()).await {
            Ok(_) => return, // However it ended, it is over, and the peer knows why.
            Err(_) if until.get() > at => {}
            Err(_) => return,
        }
    }
}

async fn reply(request: &Request<Incoming>, respond: Respond) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = build(Answer::text(405, "only GET and HEAD: nothing can be changed here\n"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let question = Question {
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        accept: joined(request.headers()),
    };
    let answer = task::spawn_blocking(move || respond(question)).await;
    build(answer.unwrap_or_else(|_| Answer::text(500, "this answer could not be given; standard error says why\n")))
}

/// Everything that is accepted, as one list: a header may come more than once.
fn joined(headers: &HeaderMap) -> String {
    let values: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn build(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whatever a page shows, it loads and tells nothing elsewhere.
const CONTENT_POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; \
                              style-src 'unsafe-inline'; frame-ancestors 'none'";
/// A few scrapers, a few people, and room for those that hang.
const CONNECTIONS_MAX: usize = 32;
/// Each waits for shards for a second or two at most, or for a profile.
const ANSWERS_AT_ONCE: usize = 8;
/// The least that hyper takes; a request here is a line and a few headers. More is answered with 431.
const REQUEST_LEN_MAX: usize = 8192;
const HEADERS_MAX: usize = 64;
/// Until the first request is there.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Until it is answered; a profile takes as long as it was asked to.
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// Until an answer was taken and the next request is there. Scrapers come every 15 seconds.
const NEXT_MAX: Duration = Duration::from_secs(30);
/// How long the request of somebody who is turned away is waited for.
const TURN_AWAY_MAX: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
