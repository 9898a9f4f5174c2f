//! Whatever the input is, nothing here panics, and what is printed reads back.

use super::expand::{Expander, NoVariables};
use super::ignore::Patterns;
use super::{
    ArgDef, CommandLine, Copy, Dockerfile, From, Healthcheck, Heredoc, Instruction, KeyValue, Kind, MountFlag, Run,
    RunNetwork, Source, Span, Stage, command, parse, parse_trigger,
};
use proptest::prelude::*;

/// Text that is likely to reach deep into the parser.
fn dockerfile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(command::KEYWORDS.to_vec()).prop_map(str::to_owned),
        prop::sample::select(vec![
            "\n",
            "\n",
            " ",
            "\t",
            "\\\n",
            "\\",
            "\"",
            "'",
            "[\"a\"]",
            "[",
            "]",
            "<<A",
            "<<-B",
            "\nA\n",
            "\n\tB\n",
            "=",
            "$",
            "${A",
            "}",
            ":-",
            "--from=x",
            "--mount=type=cache,",
            "--",
            "# escape=`\n",
            "#",
            "`",
            "AS",
            "a",
            "é",
            "\u{feff}",
            "\0",
            "CMD",
            "5s",
            "--interval=",
            "\r\n",
            "/",
            "scratch",
            "FROM a\n",
        ])
        .prop_map(str::to_owned),
        ".{0,4}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A tree without what printing loses: where things stood and how they were written.
fn bare(mut file: Dockerfile) -> Dockerfile {
    fn instruction(i: &mut Instruction) {
        i.span = Span::default();
        i.original.clear();
        if let Kind::Onbuild(o) = &mut i.kind {
            o.instruction.span = Span::default();
            o.instruction.original.clear();
        }
    }
    file.warnings.clear();
    file.global_args.iter_mut().for_each(instruction);
    for stage in &mut file.stages {
        stage.span = Span::default();
        stage.original.clear();
        stage.instructions.iter_mut().for_each(instruction);
    }
    file
}

fn reads_back(file: Dockerfile) -> Result<(), TestCaseError> {
    let printed = file.to_string();
    let again = parse(&printed, "Dockerfile").map(bare).map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
    prop_assert_eq!(again, bare(file), "{}", printed);
    Ok(())
}

/// Any text on one line.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec!["echo hi", "a", "/x y", "$A", "[\"a\"", "-- b", "--x", "'a b'", "\\", "#", "é"])
            .prop_map(str::to_owned),
        1 => "[^\\p{C}\\\\]{0,8}",
    ]
}

/// Text without blanks at its ends, which begins no JSON array and no heredoc.
fn shell() -> impl Strategy<Value = String> {
    line().prop_map(|l| l.replace("<<", "< ").replace('[', "(").trim().to_owned())
}

fn command_line() -> impl Strategy<Value = CommandLine> {
    prop_oneof![shell().prop_map(CommandLine::Shell), prop::collection::vec(line(), 0..3).prop_map(CommandLine::Exec)]
}

fn heredoc() -> impl Strategy<Value = Heredoc> {
    let content =
        prop::collection::vec("[a-z$\t ]{0,6}", 0..3).prop_map(|l| l.iter().map(|l| format!("{l}\n")).collect());
    ("E[A-Z\"'\\\\$]{0,3}", content, any::<bool>(), any::<bool>(), prop::option::of(0..9u32))
        .prop_map(|(name, content, expand, chomp, fd)| Heredoc { name, content, expand, chomp, fd })
}

fn copy(add: bool) -> impl Strategy<Value = Copy> {
    let text = || prop::option::of("[a-z0-9$:=,'\" \\\\-]{1,6}");
    let source = prop_oneof![
        4 => line().prop_map(Source::Path),
        1 => heredoc().prop_map(Source::Heredoc),
    ];
    let sources = prop::collection::vec(source, 1..4);
    let flags = (text(), text(), text(), prop::collection::vec("[a-z*/]{0,4}", 0..3));
    (sources, "[a-z/]{1,5}", flags, any::<[bool; 4]>(), prop::option::of(any::<bool>())).prop_map(
        move |(mut sources, dest, (from, chown, chmod, exclude), switches, maybe)| {
            // beside a heredoc, paths are words; two heredocs of one name have one body
            let mut names = std::collections::BTreeSet::new();
            sources.retain(|s| !matches!(s, Source::Heredoc(h) if !names.insert(h.name.clone())));
            if !names.is_empty() {
                for s in &mut sources {
                    if let Source::Path(path) = s {
                        path.retain(|c| c.is_ascii_alphanumeric() || c == '/');
                        path.push('p');
                    }
                }
            }
            let [link, parents, ..] = switches;
            Copy {
                sources,
                dest,
                from: from.clone().filter(|_| !add),
                chown,
                chmod,
                link,
                parents: parents && !add,
                exclude,
                keep_git_dir: maybe.filter(|_| add),
                checksum: from.filter(|_| add),
                unpack: maybe.filter(|_| add),
            }
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let name = || "[A-Za-z_][A-Za-z0-9_.]{0,5}";
    let value = || prop::sample::select(vec!["", "v", "$A", "'a b'", "\"c\\\"d\"", "e\\ f", "${B:-g h}", "=", "--i"]);
    let pair = (name(), value()).prop_map(|(key, value)| KeyValue {
        key,
        value: value.replace("${B:-g h}", "${B:-g}"),
        legacy: false,
    });
    let pairs = || {
        prop_oneof![
            prop::collection::vec(pair.clone(), 1..4),
            (name(), "[a-z][a-z =$]{0,5}[a-z]").prop_map(|(key, value)| vec![KeyValue { key, value, legacy: true }]),
        ]
    };
    let arg = (name(), prop::option::of(value()))
        .prop_map(|(name, default)| ArgDef { name, default: default.map(|d| d.replace("${B:-g h}", "")) });
    let run = (
        prop_oneof![
            command_line().prop_map(|c| (c, vec![])),
            heredoc().prop_map(|mut h| {
                // the text of the command has the terminator as it is
                h.name.retain(char::is_alphanumeric);
                (CommandLine::Shell("cat".into()), vec![h])
            }),
        ],
        prop::option::of(prop::sample::select(vec![RunNetwork::Default, RunNetwork::None, RunNetwork::Host])),
        prop::collection::vec("type=cache,target=/[a-z \"']{1,4}", 0..2),
        prop::collection::vec("[a-z=/ ]{0,4}", 0..2),
    );
    let run = run.prop_map(|((command, heredocs), network, mounts, devices)| {
        let mounts = mounts.into_iter().map(|text| MountFlag { text: text.replace('"', "q") }).collect();
        let command = match (command, heredocs.first()) {
            (CommandLine::Shell(text), Some(h)) => {
                let mark = if h.chomp { "<<-" } else { "<<" };
                let fd = h.fd.map(|n| n.to_string()).unwrap_or_default();
                let quoted = if h.expand { h.name.clone() } else { format!("'{}'", h.name) };
                CommandLine::Shell(format!("{text} {fd}{mark}{quoted} && x"))
            }
            (command, _) => command,
        };
        Kind::Run(Run { command, heredocs, mounts, network, security: None, devices })
    });
    let time = || prop_oneof![Just(0i64), 1_000_000..i64::MAX];
    let check = (prop::option::of(command_line()), time(), time(), time(), time(), 0..=i64::from(i32::MAX));
    let check = check.prop_map(|(command, interval, timeout, start_period, start_interval, retries)| {
        let command = command.filter(|c| *c != CommandLine::Shell(String::new()) && *c != CommandLine::Exec(vec![]));
        Kind::Healthcheck(Healthcheck { command, interval, timeout, start_period, start_interval, retries })
    });
    let words = || prop::collection::vec("[^\\p{C}\\s\\[\\\\-]{1,5}", 1..3);
    let one = || shell().prop_filter("not empty", |s| !s.is_empty());
    prop_oneof![
        copy(false).prop_map(Kind::Copy),
        copy(true).prop_map(Kind::Add),
        prop::collection::vec(arg, 1..3).prop_map(Kind::Arg),
        command_line().prop_map(Kind::Cmd),
        command_line().prop_map(Kind::Entrypoint),
        pairs().prop_map(Kind::Env),
        pairs().prop_map(Kind::Label),
        words().prop_map(Kind::Expose),
        check,
        one().prop_map(Kind::Maintainer),
        run,
        prop::collection::vec(line(), 1..3).prop_map(Kind::Shell),
        one().prop_map(Kind::StopSignal),
        one().prop_map(Kind::User),
        words().prop_map(Kind::Volume),
        one().prop_map(Kind::Workdir),
    ]
}

fn tree() -> impl Strategy<Value = Dockerfile> {
    let comments = || prop::collection::vec("[a-z=][a-z= ]{0,6}[a-z]", 0..2);
    let instruction = || {
        (kind(), comments()).prop_map(|(kind, comments)| Instruction {
            span: Span::default(),
            original: String::new(),
            comments,
            kind,
        })
    };
    let name = || prop::option::of("[a-z][a-z0-9_./-]{0,5}");
    let stage = (
        "[a-z$][a-z0-9:/${}-]{0,6}",
        name(),
        prop::option::of("[a-z/$]{1,5}"),
        comments(),
        prop::collection::vec(instruction(), 0..4),
    );
    let stage = stage.prop_map(|(base, name, platform, comments, instructions)| Stage {
        from: From { base, name, platform },
        span: Span::default(),
        original: String::new(),
        comments,
        instructions,
    });
    let directive = || prop::option::of("[a-z][a-z=]{0,6}");
    (prop::collection::vec(stage, 1..3), directive(), directive(), prop::collection::vec(instruction(), 0..2)).prop_map(
        |(stages, syntax, check, mut global_args)| {
            global_args.retain(|i| matches!(i.kind, Kind::Arg(_)));
            Dockerfile { escape: '\\', syntax, check, global_args, stages, warnings: vec![] }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(text in dockerfile()) {
        let _ = parse(&text, "Dockerfile");
        let _ = parse(&format!("FROM a\n{text}"), "Dockerfile").map_err(|e| e.to_string());
        let _ = parse_trigger(&text);
        let _ = Expander::new('\\').expand(&text, &NoVariables);
        let _ = Expander { keep_unset: true, ..Expander::new('`') }.expand(&text, &NoVariables);
        let _ = Patterns::parse(text.as_bytes()).map(|p| p.excludes(text.as_bytes()));
        let _ = MountFlag { text }.resolve(&mut |v| Ok(v.to_owned()));
    }

    /// Whatever parses can be printed, and is the same then.
    #[test]
    fn what_parses_reads_back(text in dockerfile()) {
        for text in [text.clone(), format!("FROM a\n{text}"), format!("# escape=`\nFROM a\nONBUILD {text}\n")] {
            if let Ok(file) = parse(&text, "Dockerfile") {
                reads_back(file)?;
            }
        }
    }

    /// Any tree can be printed, and is what the text parses to.
    #[test]
    fn trees_read_back(file in tree()) {
        reads_back(file)?;
    }

    /// What an image stores of an ONBUILD is what ran.
    #[test]
    fn triggers_read_back(text in dockerfile()) {
        let Ok(file) = parse(&format!("FROM a\nONBUILD {text}\n"), "Dockerfile") else { return Ok(()) };
        for i in file.stages.iter().flat_map(|s| &s.instructions) {
            if let super::Kind::Onbuild(o) = &i.kind {
                // the escape character is the file's, which an image does not store
                if file.escape == '\\' && !o.trigger.ends_with('\\') {
                    let again = parse_trigger(&o.trigger);
                    prop_assert_eq!(again.map(|i| i.kind), Ok(o.instruction.kind.clone()), "{}", o.trigger);
                }
            }
        }
    }

    /// A path is excluded by an ignore file with only itself in it, but for characters with a meaning.
    #[test]
    fn plain_names_match_themselves(name in "[a-z.é][a-z0-9._é-]{0,8}(/[a-z0-9_é-]{1,5}){0,3}") {
        prop_assume!(!name.split('/').any(|p| p == "." || p == ".."));
        let p = Patterns::new([&name]).expect("a plain pattern");
        prop_assert!(p.excludes(name.as_bytes()));
        let below = format!("{name}/x");
        prop_assert!(p.excludes(below.as_bytes()));
    }
}
