//! `ringest-server inspect|verify|cat`: what is stored, for people and for pipes.
//!
//! They read with the eyes of recovery, so they show what the next start of a server would keep. They change nothing,
//! and a server may be running: what it is just writing is not reported as broken.

use crate::notice;
use crate::storage::is_served;
use crate::storage::layout;
use crate::storage::survey::{self, SegmentOnDisk};
use ringest_ingest::scan::{Item, StoredRun, scan};
use ringest_ingest::survey::{Foreign, Rest, Segment};
use ringest_ingest::{SegmentFormat, SegmentId};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Says of each segment what it holds and what state it is in.
///
/// # Errors
/// Something cannot be read.
pub fn inspect(path: &Path) -> io::Result<ExitCode> {
    let stored = Stored::find(path)?;
    quietly(|out| {
        writeln!(
            out,
            "{:>8} {:>20} {:>12} {:>8} {:>10} {:>8}  state",
            "shard", "segment", "bytes", "blocks", "rows", "runs"
        )?;
        for shard in &stored.shards {
            for segment in &shard.segments {
                let Segment { id, keep, blocks, rows, runs, .. } = &segment.found;
                let state = state(segment, stored.is_served);
                writeln!(out, "{:>8} {:>20} {keep:>12} {blocks:>8} {rows:>10} {runs:>8}  {state}", shard.label, id.0)?;
            }
        }
        Ok(())
    })
}

/// Checks every byte. Exit code 1, and a line for each finding, if there is one.
///
/// # Errors
/// Something cannot be read.
pub fn verify(path: &Path) -> io::Result<ExitCode> {
    let stored = Stored::find(path)?;
    let mut findings = Findings::default();
    let mut bytes = Vec::new();
    findings.check_strangers(&stored.strangers);
    for shard in &stored.shards {
        let mut order = HashMap::new();
        findings.check_names(shard);
        for segment in &shard.segments {
            findings.check_shape(segment, stored.is_served);
            read_counted(segment, &mut bytes)?;
            findings.check_contents(segment, &bytes, &mut order);
        }
    }
    quietly(|out| {
        for sentence in findings.sentences.iter().chain(&findings.remarks) {
            writeln!(out, "{sentence}")?;
        }
        let Findings { segments, blocks, rows, bytes, sentences, remarks: _ } = &findings;
        let verdict = if sentences.is_empty() { "all of it proves itself" } else { "NOT all of it proves itself" };
        writeln!(out, "{rows} records, {blocks} blocks, {segments} segments, {bytes} bytes: {verdict}")
    })?;
    Ok(if findings.sentences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the records of all shards, one shard after the other, each in the order it was written.
///
/// # Errors
/// Something cannot be read, or written for another reason than that nobody reads it any more.
pub fn cat(path: &Path) -> io::Result<ExitCode> {
    let stored = Stored::find(path)?;
    let mut bytes = Vec::new();
    quietly(|out| {
        for segment in stored.shards.iter().flat_map(|shard| &shard.segments) {
            read_counted(segment, &mut bytes)?;
            for item in scan(&bytes, segment.found.id) {
                match item {
                    Item::Block { offset, body, .. } => match body.records() {
                        Some(records) => out.write_all(&records)?,
                        None => {
                            let path = segment.path.display();
                            notice!("{path}: the block at {offset} does not unpack to what it says and is left out");
                        }
                    },
                    Item::Damage { from, to, .. } => {
                        notice!("{}: bytes {from} to {to} are damaged and left out", segment.path.display());
                    }
                    Item::Segment { .. } | Item::End { .. } | Item::Tail { .. } => {}
                }
            }
        }
        Ok(())
    })
}

/// What a path leads to.
struct Stored {
    shards: Vec<ShardView>,
    /// What is named like a shard and is no directory.
    strangers: Vec<PathBuf>,
    /// A server writes there now.
    is_served: bool,
}

struct ShardView {
    label: String,
    segments: Vec<SegmentOnDisk>,
    foreign: Vec<(PathBuf, Foreign)>,
    strangers: Vec<PathBuf>,
}

impl Stored {
    fn find(path: &Path) -> io::Result<Stored> {
        let path = &path.canonicalize().map_err(|err| named(err, path))?;
        if path.is_file() {
            return Stored::file(path);
        }
        if layout::shard_of(path).is_some() {
            let is_served = path.parent().is_some_and(is_served);
            return Ok(Stored { shards: vec![ShardView::read(path)?], strangers: Vec::new(), is_served });
        }
        let dirs = layout::shard_dirs(path).map_err(|err| named(err, path))?;
        let strangers = strangers(path)?;
        if dirs.is_empty() {
            let reason = "is neither a log directory nor one of a shard nor a segment: it has no shard-NN in it";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} {reason}", path.display())));
        }
        let shards = dirs.iter().map(|(_, dir)| ShardView::read(dir)).collect::<io::Result<_>>()?;
        Ok(Stored { shards, strangers, is_served: is_served(path) })
    }

    fn file(path: &Path) -> io::Result<Stored> {
        let Some(id) = layout::segment_of(path) else {
            let example = layout::segment_name(SegmentId(42), SegmentFormat::Plain);
            let reason = format!("{} is not named like a segment, {example}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        };
        let segments = vec![survey::survey_file(id, path.to_owned())?];
        if let Some(foreign) = segments[0].found.foreign {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {foreign}", path.display())));
        }
        let is_served = path.ancestors().nth(2).is_some_and(is_served);
        let shard = ShardView { label: "-".into(), segments, foreign: Vec::new(), strangers: Vec::new() };
        Ok(Stored { shards: vec![shard], strangers: Vec::new(), is_served })
    }
}

impl ShardView {
    fn read(dir: &Path) -> io::Result<ShardView> {
        let label = layout::shard_of(dir).map_or("-".into(), |shard| format!("{:02}", shard.0));
        let survey = survey::survey(dir)?;
        for (path, foreign) in &survey.foreign {
            notice!("{}: {foreign}", path.display());
        }
        let strangers = strangers(dir)?;
        Ok(ShardView { label, segments: survey.segments, foreign: survey.foreign, strangers })
    }
}

/// What has a name that means something here and cannot be read. Says so.
fn strangers(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let strangers = layout::strangers(dir).map_err(|err| named(err, dir))?;
    strangers.iter().for_each(|path| notice!("{}", Stranger(path)));
    Ok(strangers)
}

struct Stranger<'a>(&'a Path);

impl fmt::Display for Stranger<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.display();
        write!(f, "{path}: its name is that of a segment, a snapshot or a shard, and it is none; it is left out")
    }
}

/// The state of a segment, in as few words as tell what to do.
fn state(segment: &SegmentOnDisk, is_served: bool) -> String {
    let at = segment.found.keep;
    let mut state = match segment.found.rest {
        _ if segment.found.is_ended => "ended".into(),
        Rest::Zeros => "open".into(),
        Rest::Nothing => "cut".into(),
        Rest::Void => format!("failed at {at}, goes on in a later segment"),
        Rest::Torn { .. } | Rest::Unfinished { .. } if is_served => "open, being written".into(),
        Rest::Torn { .. } => format!("torn at {at}"),
        Rest::Unfinished { to } => format!("torn at {at}, unacknowledged up to {to}"),
    };
    for range in &segment.found.damage {
        state += &format!(", damaged from {} to {}", range.start, range.end);
    }
    state
}

/// What was counted, and what is not as it should be.
#[derive(Default)]
struct Findings {
    segments: u64,
    blocks: u64,
    rows: u64,
    bytes: u64,
    sentences: Vec<String>,
    /// What need not be wrong.
    remarks: Vec<String>,
}

/// The incarnation and the number that each producer's next run has to be behind.
type Order = HashMap<String, (u64, u64)>;

impl Findings {
    /// What is not there, and what should not be.
    fn check_names(&mut self, shard: &ShardView) {
        self.check_strangers(&shard.strangers);
        for (path, foreign) in &shard.foreign {
            match foreign {
                Foreign::Compressed => {} // Somebody saves room, and has been told.
                Foreign::Unknown => self.sentences.push(format!("{}: {foreign}", path.display())),
            }
        }
        let newest = shard.segments.last().map(|segment| segment.found.id);
        for segment in &shard.segments {
            if segment.found.len == 0 && Some(segment.found.id) != newest {
                self.say(segment, format_args!("empty, though there are later ones: no server leaves one like this"));
            }
        }
        let mut ids: Vec<u64> = shard.segments.iter().map(|segment| segment.found.id.0).collect();
        ids.extend(shard.foreign.iter().filter_map(|(path, _)| layout::segment_of(path)).map(|id| id.0));
        ids.sort_unstable();
        for pair in ids.windows(2).filter(|pair| pair[1] > pair[0] + 1) {
            self.remarks.push(format!(
                "shard {}: segments {} to {} are not here; a start removes those that hold nothing, so they need not have \
                 held anything",
                shard.label,
                pair[0] + 1,
                pair[1] - 1
            ));
        }
    }

    /// What might be records that are not here: a link to a disk that is not mounted has such a name.
    fn check_strangers(&mut self, strangers: &[PathBuf]) {
        self.sentences.extend(strangers.iter().map(|path| Stranger(path).to_string()));
    }

    /// What recovery would change.
    fn check_shape(&mut self, segment: &SegmentOnDisk, is_served: bool) {
        let keep = segment.found.keep;
        for range in &segment.found.damage {
            self.say(segment, format_args!("bytes {} to {} are damaged", range.start, range.end));
        }
        match segment.found.rest {
            Rest::Nothing | Rest::Zeros | Rest::Void => {}
            Rest::Torn { .. } | Rest::Unfinished { .. } if is_served => {}
            Rest::Torn { .. } => {
                self.say(segment, format_args!("a write was cut off at byte {keep}, or damaged later"))
            }
            Rest::Unfinished { to } => self.say(
                segment,
                format_args!("a write was cut off at byte {keep}; what follows up to {to} was acknowledged to nobody"),
            ),
        }
    }

    /// What a checksum does not tell: that counts are right, and that no producer's records are out of order or twice.
    fn check_contents(&mut self, segment: &SegmentOnDisk, bytes: &[u8], order: &mut Order) {
        self.segments += 1;
        self.bytes += bytes.len() as u64;
        let mut segment_rows = 0;
        for item in scan(bytes, segment.found.id) {
            match item {
                Item::Segment { .. } | Item::Damage { .. } | Item::Tail { .. } => {}
                Item::Block { offset, rows, runs, body, .. } => {
                    self.blocks += 1;
                    segment_rows += u64::from(rows);
                    let records = body.records().unwrap_or_else(|| {
                        self.say(segment, format_args!("the block at {offset} does not unpack to what it says"));
                        Default::default()
                    });
                    let lines = records.iter().filter(|&&byte| byte == b'\n').count() as u64;
                    if lines != u64::from(rows) || !(records.is_empty() || records.ends_with(b"\n")) {
                        self.say(segment, format_args!("the block at {offset} names {rows} records and has {lines}"));
                    }
                    let claimed: u64 = runs.iter().map(|run| u64::from(run.rows)).sum();
                    if claimed != u64::from(rows) {
                        self.say(segment, format_args!("the runs at {offset} name {claimed} records of {rows}"));
                    }
                    runs.iter().for_each(|run| self.check_run(segment, offset, run, order));
                }
                Item::End { rows, .. } => {
                    if rows != segment_rows && segment.found.damage.is_empty() {
                        self.say(segment, format_args!("the last line names {rows} records of {segment_rows}"));
                    }
                }
            }
        }
        self.rows += segment_rows;
    }

    fn check_run(&mut self, segment: &SegmentOnDisk, offset: u64, run: &StoredRun, order: &mut Order) {
        let StoredRun { producer, epoch, first, upto, rows } = run;
        if producer.is_empty() {
            return;
        }
        if first > upto || u64::from(*rows) > upto - first + 1 {
            self.say(segment, format_args!("the run {first} to {upto} of {producer} at {offset} has {rows} records"));
        }
        if let Some((known_epoch, known_upto)) = order.get(producer.as_str())
            && (epoch, first) <= (known_epoch, known_upto)
        {
            self.say(
                segment,
                format_args!(
                    "{producer} at {offset}: {first} of epoch {epoch} comes after {known_upto} of epoch {known_epoch}"
                ),
            );
        }
        order.insert(producer.clone(), (*epoch, *upto));
    }

    fn say(&mut self, segment: &SegmentOnDisk, sentence: std::fmt::Arguments<'_>) {
        self.sentences.push(format!("{}: {sentence}", segment.path.display()));
    }
}

/// Reads the bytes of a segment that count. A running server may have cut it in the meantime, or removed it.
fn read_counted(segment: &SegmentOnDisk, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    if segment.found.keep == 0 {
        return Ok(());
    }
    match survey::read_segment(&segment.path, bytes) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err),
        Ok(_) => {
            bytes.truncate(segment.found.keep as usize);
            Ok(())
        }
    }
}

/// Writes to standard output until all is said or nobody listens any more, which is no failure.
pub(crate) fn quietly(say: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<ExitCode> {
    let mut out = BufWriter::with_capacity(OUTPUT_LEN, io::stdout().lock());
    match say(&mut out).and_then(|()| out.flush()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(err),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn named(err: io::Error, path: &Path) -> io::Error {
    let path: PathBuf = path.into();
    io::Error::new(err.kind(), format!("cannot read {}: {err}", path.display()))
}

/// Bytes gathered for one write to standard output.
const OUTPUT_LEN: usize = 256 << 10;
