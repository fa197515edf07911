//! What the memory is for: a sample of what is allocated and was not given back, with the stacks that asked for it. Only in
//! builds with the feature `heap-profile`, which takes memory from jemalloc, and where jemalloc was told to sample.

use super::http::Answer;

/// The heap as it is now, for `go tool pprof` and its like.
#[cfg(feature = "heap-profile")]
pub(super) fn heap() -> Answer {
    let Some(sampler) = jemalloc_pprof::PROF_CTL.as_ref() else {
        return Answer::text(501, format!("allocations are not sampled: start the server with {SWITCH}\n"));
    };
    let mut sampler = sampler.blocking_lock();
    if !sampler.activated() {
        return Answer::text(501, format!("sampling is switched off: start the server with {SWITCH}\n"));
    }
    match sampler.dump_pprof() {
        Ok(body) => Answer { status: 200, kind: "application/octet-stream", body },
        Err(error) => Answer::text(500, format!("no heap profile could be taken: {error}\n")),
    }
}

#[cfg(not(feature = "heap-profile"))]
pub(super) fn heap() -> Answer {
    Answer::text(
        501,
        format!(
            "this build does not sample allocations: build it with --features heap-profile, and start it with {SWITCH}\n"
        ),
    )
}

/// A sample per 512 KiB. It has to be there before the first allocation, and so before any flag is read.
const SWITCH: &str = "_RJEM_MALLOC_CONF=prof:true,prof_active:true,lg_prof_sample:19 in its environment";
