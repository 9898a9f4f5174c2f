//! Mutated Dockerfiles through everything that reads them: nothing panics, what parses prints and reads back, and time grows
//! no faster than the input.
//!
//! `FUZZ_SECONDS` says for how long (2 where it is not set), `FUZZ_SEED` where to begin: the same seed gives the same inputs.
//! `FUZZ_CORPUS` names a directory whose files are mutated besides the ones written here. An input that fails is written to
//! `fuzz-failure.Dockerfile` in the directory for temporary files, and its name is printed.

use rbuild::dockerfile::expand::{Expander, NoVariables};
use rbuild::dockerfile::ignore::Patterns;
use rbuild::dockerfile::{MountFlag, parse, parse_trigger, table};
use rbuild::error::{Classified, Kind};
use rbuild::lint::{self, Bases, Subject, compat, outline, report};
use rbuild::oci::{Digest, ImageConfig, Platform};
use rbuild::plan::{ContextId, PlanRequest, ResolveError, ResolvedImage, Resolver, plan};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest input of a mutation, in bytes.
const LONGEST: usize = 4 << 10;

const SEEDS: [&str; 13] = [
    "FROM a\nADD --keep-git-dir --checksum=abcdef0 https://u:p%20@h/r.git?ref=a&subdir=b%2f#c:d /d/\nADD git@h:r#x:y http://h/%2e/f?q x /e/\n",
    "# syntax=docker/dockerfile:1\n# check=skip=all;error=true\nARG V=1\nFROM --platform=$BUILDPLATFORM base:$V AS a\nRUN echo hi \\\n && true\n",
    "# escape=`\nFROM a\nRUN a `\n  # note\n\n b\nCOPY a b `\n c\n",
    "FROM a\nRUN --mount=type=cache,target=/x,id=$ID,sharing=locked --mount=type=secret,id=s,required --network=none x\n",
    "FROM a\nRUN <<A cat && <<-B cat\n1\nA\n\t2\n\tB\nCOPY <<'E' <<F /x/\n$A ${B:-c}\nE\n${D#*/}\nF\n",
    "FROM a\nENV A=1 B=\"$A ${A:+x}\" C='d e'\nENV OLD way of it\nLABEL a=b c=\"d\\\"e\"\nARG X=${A%%*} Y\n",
    "FROM a AS b\nONBUILD COPY --from=b x /y\nONBUILD RUN --mount=from=b,target=/z <<E\n#!/x\nE\nFROM b\nFROM 0\n",
    "FROM a\nHEALTHCHECK --interval=1h2m3.5s --retries=3 CMD [\"a\", \"b\\u00e9\"]\nSHELL [\"/b\",\"-c\"]\nCMD [\"x\"\nENTRYPOINT x y\n",
    "FROM a\nEXPOSE 80 53/UDP 8000-8010 127.0.0.1:80:80 [::1]:1:2\nVOLUME [\"/a\"] /b\nUSER u:g\nWORKDIR x/../y\nSTOPSIGNAL SIGRTMIN+3\n",
    "FROM a\nADD --checksum=sha256:00 --unpack=true https://localhost/x.git?ref=a#b /d\nADD --keep-git-dir=true git@localhost:x /e\n",
    "FROM a\nCOPY --link --parents --exclude=*.o --chown=\"a b\":c --chmod=u=rwX,go=rX [\"x y\", \"/z/./w\", \"/d/\"]\nMAINTAINER me\n",
    "# out the end\nFROM ${A:-${B:-${C:?no}}} AS out\nCOPY ${A/b/c} ${A//b*/c} ${A##x} /y\n",
    "*\n!a/*/keep\n!b\n#c\n**/x/**\n[a-c]?\\d\nd/../e\n",
];

/// Pieces that reach deep.
const PIECES: [&str; 40] = [
    "\n",
    "\\\n",
    "`\n",
    " ",
    "\t",
    "\r\n",
    "\u{b}",
    "\"",
    "'",
    "\\",
    "$",
    "${",
    "}",
    ":-",
    "/",
    "//",
    "#",
    "##",
    "%",
    "<<E",
    "\nE\n",
    "<<-\"E F\"",
    "[\"",
    "\"]",
    ",",
    "=",
    "--",
    "--from=",
    "--mount=type=",
    "FROM a\n",
    "ONBUILD ",
    "RUN ",
    "ENV A=$A$A\n",
    "ARG ",
    "# check=",
    "# escape=`\n",
    "AS ",
    "\u{feff}",
    "\0",
    "é",
];

/// A generator of numbers (xorshift64*): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("small")
    }

    /// A place between two characters.
    fn place(&mut self, text: &str) -> usize {
        let mut at = self.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    fn range(&mut self, text: &str) -> std::ops::Range<usize> {
        let (a, b) = (self.place(text), self.place(text));
        a.min(b)..a.max(b)
    }
}

fn mutated(random: &mut Random, pool: &[String]) -> String {
    let mut text = pool[random.below(pool.len())].clone();
    for _ in 0..=random.below(8) {
        match random.below(6) {
            0 => {
                let gone = random.range(&text);
                text.replace_range(gone, "");
            }
            1 => {
                let other = &pool[random.below(pool.len())];
                let piece = other[random.range(other)].to_owned();
                text.insert_str(random.place(&text), &piece);
            }
            2 => {
                let piece = text[random.range(&text)].to_owned();
                text.insert_str(random.place(&text), &piece);
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                text.insert_str(random.place(&text), piece);
            }
        }
        while text.len() > LONGEST || !text.is_char_boundary(text.len()) {
            let mut half = text.len() / 2;
            while !text.is_char_boundary(half) {
                half -= 1;
            }
            text.truncate(half);
        }
    }
    text
}

#[derive(Debug, thiserror::Error)]
#[error("no such image")]
struct NoImage;

impl Classified for NoImage {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }
}

/// Every image whose name is short exists.
struct Images;

impl Resolver for Images {
    fn image(&mut self, reference: &str, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        let parsed = reference.parse().map_err(|_| Box::new(NoImage) as ResolveError)?;
        if reference.len() > 8 {
            return Err(Box::new(NoImage));
        }
        let mut config = ImageConfig::scratch(platform);
        config.config.env = vec!["A=base".into(), "NO_VALUE".into()];
        config.config.on_build = vec!["ARG T=1".into(), "COPY --from=0 a b".into()];
        Ok(Arc::new(ResolvedImage { name: reference.to_owned(), reference: parsed, manifest: Digest::of("m"), config }))
    }

    fn layout(&mut self, _: ContextId, _: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        Err(Box::new(NoImage))
    }
}

/// Everything that reads a Dockerfile.
fn languages(text: &str) {
    if let Ok(file) = parse(text, "Dockerfile") {
        let printed = file.to_string();
        let again = parse(&printed, "Dockerfile").unwrap_or_else(|e| panic!("printed, it does not parse: {e}"));
        assert_eq!(again.to_string(), printed, "printed twice, it differs");
    }
    let _ = parse_trigger(text);
    let _ = plan(&PlanRequest::new(text), &mut Images).map_err(|e| (e.to_string(), e.hint()));
    let (ignore, bases) = (Patterns::new(["*", "!a", "b/no"]).expect("patterns"), Bases::new());
    let subject = Subject::new(text, "Dockerfile", &ignore, &bases);
    let source = report::Source { name: "Dockerfile", text };
    let findings = lint::check(&subject);
    let _ = report::text(&findings, source);
    let _ = report::json(&[(source, findings)]);
    let _ = outline::outline(&subject).map(|o| (report::outline_text(&o), report::outline_json(&o, source)));
    let _ = outline::targets(&subject).map(|t| report::targets_text(&t));
    let _ = compat::compare(&subject, &compat::Tool::ALL);
}

/// Everything that reads a word or a line.
fn words(text: &str) {
    for escape in ['\\', '`'] {
        let plain = Expander::new(escape);
        for expander in [plain, Expander { keep_unset: true, ..plain }, Expander { ignore_quotes: true, ..plain }] {
            let _ = expander.expand(text, &NoVariables);
        }
    }
    let _ = MountFlag { text: text.to_owned() }.resolve(&mut |v| Ok(v.to_owned()));
    let _ = table::answer(text);
    let _ = rbuild::lint::Settings::parse(text);
    let _ = text.parse::<compat::Tool>();
    // by its contract this takes pattern times path
    let short: String = text.chars().take(512).collect();
    if let Ok(patterns) = Patterns::parse(short.as_bytes()) {
        let _ = patterns.excludes(short.as_bytes());
        let _ = patterns.may_include_below(short.as_bytes());
    }
}

fn everything(text: &str) {
    languages(text);
    words(text);
}

/// What it costs of this thread's own time: the machine has other things to do.
fn time(text: &str) -> Duration {
    let now = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).expect("below a second"))
    };
    let started = now();
    everything(text);
    now() - started
}

/// The text again and again, to about `size` bytes.
fn repeated(text: &str, size: usize) -> String {
    text.repeat(size / text.len().max(1) + 1)
}

/// Whether four times the input, which begins at `size` bytes, takes clearly more than four times the time. Only what is
/// seen three times in a row counts.
fn grows_too_fast(piece: &str, size: usize) -> Option<(Duration, Duration)> {
    let (small, large) = (repeated(piece, size), repeated(piece, 4 * size));
    let mut worst = None;
    for _ in 0..3 {
        let (a, b) = (time(&small), time(&large));
        if b < a * 9 + Duration::from_millis(100) {
            return None;
        }
        worst = Some((a, b));
    }
    worst
}

fn failed(text: &str, why: &str) -> ! {
    let path = std::env::temp_dir().join("fuzz-failure.Dockerfile");
    let kept = std::fs::write(&path, text);
    panic!("{why}; the input is in `{}` ({kept:?}):\n{text:.2000}", path.display());
}

fn pool() -> Vec<String> {
    fn read(dir: &Path, pool: &mut Vec<String>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                read(&path, pool);
            } else if path.file_name().is_some_and(|n| n.to_string_lossy().contains("Dockerfile"))
                && let Ok(text) = std::fs::read_to_string(&path)
                && text.len() <= LONGEST
            {
                pool.push(text);
            }
        }
    }
    let mut pool: Vec<String> = SEEDS.map(str::to_owned).to_vec();
    if let Some(dir) = std::env::var_os("FUZZ_CORPUS") {
        read(Path::new(&dir), &mut pool);
    }
    pool
}

#[test]
fn mutated_dockerfiles_are_read() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", 2));
    let seed = number("FUZZ_SEED", 0x9e37_79b9_7f4a_7c15).max(1);
    println!("FUZZ_SEED={seed}");
    let mut random = Random(seed);
    let pool = pool();
    let (mut count, mut scaled) = (0_u64, 0_u64);
    while Instant::now() < until {
        let text = mutated(&mut random, &pool);
        if catch_unwind(AssertUnwindSafe(|| everything(&text))).is_err() {
            failed(&text, "it panics");
        }
        count += 1;
        if count.is_multiple_of(50) {
            let piece = text[random.range(&text)].to_owned();
            scaled += 1;
            match catch_unwind(|| grows_too_fast(&piece, 16 << 10)) {
                Ok(None) => {}
                Ok(Some((a, b))) => failed(&piece, &format!("repeated, it takes {a:?}, and four times as often {b:?}")),
                Err(_) => failed(&piece, "repeated, it panics"),
            }
        }
    }
    println!("{count} inputs from {} seeds, {scaled} of them repeated", pool.len());
}

#[test]
fn long_inputs_take_linear_time() {
    for piece in [
        "ENV A=$A$A\n",
        "ARG A\nENV B$A=c\n",
        "FROM a\n",
        "FROM a AS b\n",
        "COPY a b\n",
        "# words\n",
        "\\\n",
        "RUN a \\\n",
        "${A:-",
        "\"",
        "<<A ",
        "COPY <<A b\nA\n",
        "ENV $B=1\n",
        "RUN --mount=from=b,target=/x true\n",
        "LABEL $X=$Y\n",
        "# a b\nARG a\n",
        "ENV a b\n",
    ] {
        let text = format!("FROM a\n{piece}");
        for piece in [piece, text.as_str()] {
            if let Some((a, b)) = grows_too_fast(piece, 4 << 10) {
                failed(piece, &format!("repeated, it takes {a:?}, and four times as often {b:?}"));
            }
        }
    }
}
