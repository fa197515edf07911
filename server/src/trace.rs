//! Traces of batches, sent to a collector by OTLP over HTTP, where the build has the feature `otlp` and somebody asked.
//!
//! Shards only begin and end spans; a thread of the exporter's gathers and sends them, and drops what a collector does not
//! keep up with. A collector that is not there costs traces and a sentence, never a record.

/// What is traced, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct TracePlan {
    /// `http://HOST:PORT/PATH`.
    pub endpoint: String,
    /// The part of all batches that is traced, from 0 to 1.
    pub sample: f64,
}

#[cfg(feature = "otlp")]
pub use otlp::Tracer;

#[cfg(feature = "otlp")]
mod otlp {
    use super::TracePlan;
    use crate::notice;
    use opentelemetry::KeyValue;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry::Registry;

    /// Sends what is traced, for as long as it is there.
    #[derive(Debug)]
    pub struct Tracer {
        provider: SdkTracerProvider,
    }

    impl Tracer {
        /// From here on batches are traced, in every thread of the process. Once per process.
        ///
        /// # Errors
        /// The exporter or its thread cannot be made.
        pub fn start(plan: &TracePlan) -> io::Result<Tracer> {
            let exporter = SpanExporter::builder()
                .with_http()
                .with_http_client(Courier::new())
                .with_endpoint(&plan.endpoint)
                .with_protocol(Protocol::HttpBinary)
                .build()
                .map_err(io::Error::other)?;
            let resource = Resource::builder()
                .with_service_name("ringest-server")
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build();
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(plan.sample))))
                .with_resource(resource)
                .build();
            let layer = tracing_opentelemetry::layer()
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_level(false)
                .with_tracked_inactivity(false)
                .with_tracer(provider.tracer("ringest"));
            tracing::subscriber::set_global_default(Registry::default().with(layer)).map_err(io::Error::other)?;
            Ok(Tracer { provider })
        }
    }

    impl Drop for Tracer {
        fn drop(&mut self) {
            // The last spans have ended with their batches; what cannot be sent in time is not worth waiting for.
            if let Err(error) = self.provider.shutdown_with_timeout(SHUTDOWN_TIME) {
                notice!("the last traces are lost: {error}");
            }
        }
    }

    /// Carries requests to the collector, and says when it becomes one that does not take them, and when it does again.
    #[derive(Debug)]
    struct Courier {
        agent: ureq::Agent,
        is_failing: AtomicBool,
    }

    impl Courier {
        fn new() -> Courier {
            let config = ureq::Agent::config_builder()
                .timeout_global(Some(REQUEST_TIME))
                .max_redirects(0)
                .http_status_as_error(true)
                .build();
            Courier { agent: config.into(), is_failing: AtomicBool::new(false) }
        }

        fn carry(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
            let to = request.uri().to_string();
            let carried = self.agent.run(request.map(|body| body.to_vec())).and_then(|answer| {
                let (parts, mut body) = answer.into_parts();
                Ok(Response::from_parts(parts, body.with_config().limit(ANSWER_LEN_MAX).read_to_vec()?.into()))
            });
            match &carried {
                Ok(_) if self.is_failing.swap(false, Ordering::Relaxed) => notice!("traces are taken again by {to}"),
                Err(error) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                    notice!("traces are lost: {to}: {error}; ingestion goes on without them");
                }
                Ok(_) | Err(_) => {}
            }
            carried
        }
    }

    #[async_trait::async_trait]
    impl HttpClient for Courier {
        // It blocks: the exporter's thread has nothing else to do.
        async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
            Ok(self.carry(request)?)
        }
    }

    const REQUEST_TIME: Duration = Duration::from_secs(5);
    const SHUTDOWN_TIME: Duration = Duration::from_secs(2);
    /// A collector answers with a few numbers.
    const ANSWER_LEN_MAX: u64 = 64 << 10;
}
