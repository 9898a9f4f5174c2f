//! Registries, and proxies before them, that take a blob only in pieces: what is sent, byte by byte.

use super::{fake::*, *};
use crate::error::{Classified, Kind};
use axum::{body::Bytes, response::Response};

const MIB: usize = 1 << 20;

/// Takes no request of more than so many bytes.
fn limited(seen: &Seen, most: usize) -> Option<Response> {
    (seen.is("PATCH", "/uploads/") && seen.body.len() > most).then(|| errors(413, "SIZE"))
}

/// The places and sizes of the pieces of which a registry took notice.
fn pieces(state: &State) -> Vec<(Option<String>, usize)> {
    let all = state.seen("PATCH", "/uploads/");
    all.iter().map(|s| (s.header("content-range").map(str::to_owned), s.body.len())).collect()
}

fn image(bytes: usize, streams: bool) -> Image {
    Image { streams, ..Image::new(vec![noise(1, bytes)]) }
}

#[test]
fn what_is_too_large_goes_in_pieces() {
    const BYTES: usize = 9 * MIB + 5;
    for streams in [false, true] {
        let fake = Fake::start(|seen, _| limited(seen, 5 * MIB));
        let dir = tempfile::tempdir().unwrap();
        let client = client(dir.path());
        let name = fake.name("a/b").to_string();
        let (_, arrivals) = push(&client, &name, &image(BYTES, streams)).unwrap();
        assert_eq!(arrivals, [Arrival::Uploaded]);
        assert_pulls(&client, &name, &image(BYTES, streams));
        let sent = pieces(&fake.state);
        // all at once; of a stream nobody knows that larger pieces are as large as all of it
        let refused = if streams { 3 } else { 1 };
        assert!(sent[..refused].iter().all(|(_, n)| *n == BYTES), "{sent:?}");
        let range = |range: &str, bytes| (Some(range.to_owned()), bytes);
        let want =
            [range("0-4194303", 4 * MIB), range("4194304-8388607", 4 * MIB), range("8388608-9437188", BYTES - 8 * MIB)];
        assert_eq!(sent[refused..], want, "streams: {streams}");
        let lengths = fake.state.seen("PATCH", "/uploads/");
        assert!(lengths[refused..].iter().all(|s| s.header("content-length") == Some(&s.body.len().to_string())));
        // What was learnt holds for the next blob.
        fake.state.log.lock().unwrap().clear();
        let other = Image { streams, ..Image::new(vec![noise(2, BYTES)]) };
        push(&client, &name, &other).unwrap();
        assert_eq!(pieces(&fake.state), want, "streams: {streams}");
        assert_pulls(&client, &name, &other);
    }
}

#[test]
fn large_pieces_of_a_stream_are_not_held() {
    const BYTES: usize = 20 * MIB;
    let fake = Fake::start(|seen, _| limited(seen, 18 * MIB));
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let name = fake.name("a/b").to_string();
    push(&client, &name, &image(BYTES, true)).unwrap();
    assert_pulls(&client, &name, &image(BYTES, true));
    // Their length is told by their end.
    assert_eq!(pieces(&fake.state)[2..], [(None, 16 * MIB), (None, 4 * MIB)]);
}

#[test]
fn a_refusal_of_every_size_names_the_largest_and_the_smallest() {
    for (bytes, streams, tries) in [(2 * MIB, false, 2), (2 * MIB, true, 5)] {
        let fake = Fake::start(|seen, _| limited(seen, 1000));
        let dir = tempfile::tempdir().unwrap();
        let image = image(bytes, streams);
        let e = push(&client(dir.path()), &fake.name("a/b").to_string(), &image).unwrap_err();
        assert_eq!(e.kind(), Kind::Exhausted, "{e}");
        let text = e.to_string();
        assert!(text.contains("413") && text.contains("neither in one request nor in pieces of 1024 KiB"), "{text}");
        assert!(e.hint().unwrap().contains("client_max_body_size"), "{e:?}");
        assert_eq!(pieces(&fake.state).len(), tries);
        assert!(fake.state.manifests.lock().unwrap().is_empty(), "nothing is tagged");
        assert!(image.uploads.lock().unwrap().is_empty(), "nothing is left to go on with");
    }
    // Nothing was sent that could be cut up.
    let fake = Fake::start(|seen, _| seen.is("POST", "/uploads/").then(|| errors(413, "SIZE")));
    let dir = tempfile::tempdir().unwrap();
    let e = push(&client(dir.path()), &fake.name("a/b").to_string(), &image(2 * MIB, true)).unwrap_err();
    assert_eq!((e.status(), fake.state.seen("PATCH", "/").len()), (Some(413), 0));
    // What is sent whole is small.
    let fake = Fake::start(|seen, _| seen.is("PUT", "/uploads/").then(|| errors(413, "SIZE")));
    let dir = tempfile::tempdir().unwrap();
    let e = push(&client(dir.path()), &fake.name("a/b").to_string(), &image(1000, false)).unwrap_err();
    assert_eq!(e.status(), Some(413));
}

#[test]
fn a_registry_that_wants_pieces_gets_them() {
    const BYTES: usize = 12 * MIB + 1;
    for streams in [false, true] {
        let fake = Fake::start(|seen, state| {
            if seen.is("POST", "/uploads/") {
                let mut r = state.serve(seen);
                r.headers_mut().insert("oci-chunk-min-length", "5242880".parse().unwrap());
                return Some(r);
            }
            // Each has to say what it is, and to be long enough unless it is the last.
            let range = seen.header("content-range").and_then(|r| r.split_once('-'));
            let range = range.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
            let length = seen.header("content-length").and_then(|n| n.parse::<usize>().ok());
            let fine = range.zip(length).is_some_and(|((start, end), length)| {
                end + 1 - start == length
                    && length == seen.body.len()
                    && (length >= 5 * MIB || end + 1 == BYTES)
                    && state.uploads.lock().unwrap().values().any(|upload| upload.len() == start)
            });
            (seen.is("PATCH", "/uploads/") && !fine).then(|| errors(416, "RANGE"))
        });
        let dir = tempfile::tempdir().unwrap();
        let client = client(dir.path());
        let name = fake.name("a/b").to_string();
        push(&client, &name, &image(BYTES, streams)).unwrap();
        assert_pulls(&client, &name, &image(BYTES, streams));
        let sizes: Vec<usize> = pieces(&fake.state).iter().map(|(_, n)| *n).collect();
        let want = if streams { vec![5 * MIB, 5 * MIB, 2 * MIB + 1] } else { vec![BYTES] };
        assert_eq!(sizes, want, "streams: {streams}");
    }
}

#[test]
fn an_upload_in_pieces_goes_on_where_the_registry_says() {
    const BYTES: usize = 10 * MIB;
    for (streams, part) in [(false, 0), (true, 0), (false, MIB), (true, MIB)] {
        // The second piece is refused, or only a part of it is kept.
        let fake = Fake::start(move |seen, state| {
            if let Some(refused) = limited(seen, 5 * MIB) {
                return Some(refused);
            }
            if !seen.is("PATCH", "/uploads/") || state.count.fetch_add(1, Ordering::SeqCst) != 1 {
                return None;
            }
            if part == 0 {
                return Some(errors(416, "RANGE"));
            }
            Some(state.serve(&Seen { body: Bytes::copy_from_slice(&seen.body[..part]), ..seen.clone() }))
        });
        let dir = tempfile::tempdir().unwrap();
        let client = client(dir.path());
        let name = fake.name("a/b").to_string();
        push(&client, &name, &image(BYTES, streams)).unwrap_or_else(|e| panic!("{streams} {part}: {e}"));
        assert_pulls(&client, &name, &image(BYTES, streams));
        let refused = if streams { 3 } else { 1 };
        let sent: usize = pieces(&fake.state)[refused..].iter().map(|(_, n)| n).sum();
        assert_eq!(sent, BYTES + 4 * MIB - part, "streams: {streams}: one piece is sent twice, but for what was kept");
    }
}
