use super::*;
use crate::dockerfile::ignore::Patterns;
use crate::lint::Bases;
use crate::oci::Platform;

fn compared(text: &str) -> String {
    let (ignore, bases) = (Patterns::default(), Bases::new());
    let host = Platform::linux("amd64");
    let mut subject = Subject::new(text, "Dockerfile", &ignore, &bases);
    (subject.platform, subject.build_platform) = (host.clone(), host);
    let list = compare(&subject, &Tool::ALL).unwrap();
    let line = |c: &Conflict| format!("{} {} {}", c.span.start, c.tool, c.effect);
    list.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// One line each: the instruction, and what is said of it. Everything stands on line 2 but for FROM.
#[test]
fn each_feature_is_found_and_nothing_else() {
    for (instruction, want) in [
        ("RUN echo hi", ""),
        ("COPY a b /c/", ""),
        ("COPY --chown=1:2 --chmod=755 a /b", ""),
        ("RUN <<EOF\necho hi\nEOF", ""),
        ("RUN <<EOF\n#!/usr/bin/env python3\nEOF", "2 kaniko differs"),
        ("RUN cat <<EOF >x\na\nEOF", "2 kaniko differs"),
        ("RUN --mount=target=/x true", "2 kaniko differs"),
        ("RUN --mount=from=a,target=/x true", "2 kaniko drops"),
        ("RUN --mount=type=cache,target=/x true", "2 kaniko differs"),
        ("RUN --mount=type=cache,target=/x,sharing=locked true", "2 kaniko differs; 2 kaniko drops"),
        (
            "RUN --mount=type=cache,target=/x,sharing=private true",
            "2 kaniko differs; 2 kaniko drops; 2 buildah refuses",
        ),
        ("RUN --mount=type=tmpfs,target=/x true", "2 kaniko drops"),
        ("RUN --mount=type=tmpfs,target=/x,size=1m true", "2 kaniko drops; 2 buildah refuses"),
        ("RUN --mount=type=secret,id=x true", "2 kaniko differs"),
        ("RUN --mount=type=secret,source=x true", "2 kaniko differs; 2 buildah refuses"),
        ("RUN --mount=type=ssh true", "2 kaniko drops"),
        ("RUN --network=default true", ""),
        ("RUN --network=none true", "2 kaniko drops"),
        ("RUN --network=host true", "2 kaniko drops; 2 buildkit refuses"),
        ("RUN --security=sandbox true", "2 kaniko drops; 2 buildah refuses"),
        ("RUN --security=insecure true", "2 kaniko drops; 2 buildah refuses; 2 buildkit refuses"),
        ("RUN --device=a/b true", "2 kaniko drops; 2 buildah refuses; 2 buildkit refuses"),
        ("COPY --chmod=u=rwX a /b", "2 buildah refuses"),
        ("COPY --chmod=755 a /b/c", "2 kaniko differs"),
        ("COPY --link a /b", "2 kaniko drops; 2 buildah drops"),
        ("COPY --parents a /b", "2 kaniko drops"),
        ("COPY --exclude=x a /b", "2 kaniko drops"),
        ("COPY <<EOF /b\n$A\nEOF", "2 kaniko differs"),
        ("COPY <<'EOF' /b\n$A\nEOF", ""),
        ("ADD https://localhost/x.git /b", "2 kaniko differs"),
        ("ADD https://localhost/x.git?ref=a /b", "2 kaniko differs; 2 buildah refuses"),
        ("ADD --keep-git-dir https://localhost/x.git /b", "2 kaniko drops; 2 kaniko differs; 2 buildah refuses"),
        ("ADD --checksum=abc https://localhost/x.git /b", "2 kaniko drops; 2 kaniko differs; 2 buildah refuses"),
        ("ADD --checksum=sha256:a https://localhost/x /b", "2 kaniko drops"),
        ("ADD --unpack https://localhost/x.tar /b", "2 kaniko drops; 2 buildah refuses"),
        ("ADD x.tar.zst /b", "2 kaniko differs"),
        ("ADD x.tar.gz /b", ""),
        ("HEALTHCHECK CMD true", "2 buildah drops"),
        ("HEALTHCHECK --start-interval=1s CMD true", "2 kaniko drops; 2 buildah drops"),
        ("SHELL [\"/bin/bash\", \"-c\"]", "2 buildah drops"),
        ("ONBUILD RUN true", "2 buildah drops"),
        ("ONBUILD COPY --from=a x /x", "2 buildah drops; 2 buildah differs"),
        ("ONBUILD COPY --exclude=x a /b", "2 kaniko drops; 2 buildah drops"),
        ("MAINTAINER me", "2 kaniko drops"),
        ("USER a:b", "2 kaniko differs"),
        ("USER a", ""),
        ("USER a\nWORKDIR /b/c", "3 kaniko differs"),
        ("WORKDIR /b/c", ""),
        ("VOLUME /a\nRUN true", "2 kaniko differs"),
        ("RUN true\nVOLUME /a", ""),
        ("ENV A=1\nARG A=2", "3 buildah differs"),
        ("ARG A=2\nENV A=1", ""),
        ("ARG TARGETOSVERSION", "2 buildah differs"),
        ("ARG TARGETPLATFORM=linux/arm64", "2 buildah refuses"),
        ("ARG TARGETPLATFORM", ""),
        ("ENV A=${B-c}", "2 buildah refuses"),
        ("ENV A=${B:-c}", ""),
        ("ENV A=${B:?c}", "2 buildah differs"),
        ("RUN echo ${B-c}", ""),
    ] {
        assert_eq!(compared(&format!("FROM a\n{instruction}\n")), want, "{instruction}");
    }
}

#[test]
fn from_and_directives() {
    for (text, want) in [
        ("FROM oci-archive:x.tar\n", "1 kaniko refuses; 1 buildkit refuses"),
        ("FROM --platform=linux/arm64 a\n", "1 kaniko differs"),
        ("FROM --platform=$BUILDPLATFORM a\n", ""),
        ("# syntax=docker/dockerfile:1.7\nFROM a\n", ""),
        ("# syntax=docker/dockerfile:1-labs\nFROM a\n", "1 kaniko drops; 1 buildah drops"),
        ("# syntax=localhost/mine\nFROM a\n", "1 kaniko drops; 1 buildah drops"),
    ] {
        assert_eq!(compared(text), want, "{text}");
    }
}

#[test]
fn only_the_tools_that_are_asked_for() {
    let (ignore, bases) = (Patterns::default(), Bases::new());
    let subject = Subject::new("FROM a\nCOPY --link a b\n", "Dockerfile", &ignore, &bases);
    let list = compare(&subject, &[Tool::Buildah]).unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].tool, Tool::Buildah);
    assert_eq!("Docker".parse(), Ok(Tool::Buildkit));
    assert_eq!("kanico".parse::<Tool>().unwrap_err().hint.as_deref(), Some("did you mean `kaniko`?"));
}

#[test]
fn the_table_is_sound() {
    let mut seen = std::collections::BTreeSet::new();
    for (feature, tool, _, detail) in table::TABLE {
        assert!(seen.insert((format!("{feature:?}"), *tool)), "{feature:?} has two rows for {tool}");
        assert!(!detail.ends_with('.'), "{detail}");
    }
}
