//! Whatever the input is, nothing here panics, and what is printed reads back.

use super::expand::{Expander, NoVariables};
use super::ignore::Patterns;
use super::{MountFlag, command, parse, parse_trigger};
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
