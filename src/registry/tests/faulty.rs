//! Against a registry that misbehaves: each fault with the outcome that it must have.

use super::{fake::*, *};
use crate::error::{Classified, Kind};
use std::{sync::Arc, time::Instant};

/// A client that gives up soon.
fn hasty(dir: &Path) -> Client {
    let mut options = options(dir);
    options.timeouts = Timeouts {
        connect: Duration::from_secs(2),
        answer: Duration::from_millis(300),
        idle: Duration::from_millis(300),
        store: Duration::from_millis(300),
    };
    Client::new(options).unwrap()
}

/// Digests of blobs hold `:`; tokens are asked for once and shown to the registry only.
fn guarded(seen: &Seen, state: &State, good: &str) -> Option<axum::response::Response> {
    if seen.path() == "/token" {
        return None;
    }
    (seen.header("authorization") != Some(&format!("Bearer {good}"))).then(|| {
        let realm = format!(r#"Bearer realm="http://{}/token?fixed=1",service="the registry""#, state.host);
        let mut r = errors(401, "UNAUTHORIZED");
        r.headers_mut().insert("www-authenticate", realm.parse().unwrap());
        r
    })
}

#[test]
fn tokens_are_fetched_with_scopes_and_shared() {
    let fake = Fake::start(|seen, state| {
        if seen.path() == "/token" {
            return Some(answer(200, r#"{"token":"t1","expires_in":300}"#));
        }
        guarded(seen, state, "t1")
    });
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.creds = Some(("user".into(), "pass".into()));
    let client = Client::new(options).unwrap();
    let image = Image::new((0..6).map(|i| noise(i, 1000)).collect());
    let name = fake.name("a/b").to_string();
    push(&client, &name, &image).unwrap();
    assert_pulls(&client, &name, &image);

    let tokens = fake.state.seen("GET", "/token");
    let queries: Vec<&str> = tokens.iter().filter_map(|t| t.uri.query()).collect();
    assert_eq!(
        queries,
        [
            "fixed=1&service=the+registry&scope=repository%3Aa%2Fb%3Apull%2Cpush&account=user",
            "fixed=1&service=the+registry&scope=repository%3Aa%2Fb%3Apull&account=user",
        ]
    );
    assert_eq!(tokens[0].header("authorization"), Some("Basic dXNlcjpwYXNz"));
    // after the ping, no request is refused
    let log = fake.state.log.lock().unwrap();
    assert!(log.iter().skip(1).all(|s| s.header("authorization").is_some()), "{log:?}");
}

#[test]
fn identity_tokens_buy_access_tokens() {
    let fake = Fake::start(|seen, state| {
        if seen.is("POST", "/token") {
            return Some(answer(200, r#"{"access_token":"t2"}"#));
        }
        guarded(seen, state, "t2")
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("home/.docker/config.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, format!(r#"{{"auths":{{"{}":{{"identitytoken":"i+1"}}}}}}"#, fake.host)).unwrap();
    let image = Image::new(vec![noise(1, 10)]);
    fake.state.hold("x", "latest", &image);
    assert_pulls(&client(dir.path()), &fake.name("x").to_string(), &image);
    let asked = fake.state.seen("POST", "/token");
    assert_eq!(asked.len(), 1);
    let form = std::str::from_utf8(&asked[0].body).unwrap();
    assert!(form.contains("grant_type=refresh_token") && form.contains("refresh_token=i%2B1"), "{form}");
}

#[test]
fn a_token_that_runs_out_in_mid_push_is_replaced() {
    // the token changes when the first upload ends; streams cannot be sent twice in one request
    let fake = Fake::start(|seen, state| {
        let renewed = state.count.load(Ordering::SeqCst) > 0;
        let good = if renewed { "new" } else { "old" };
        if seen.path() == "/token" {
            return Some(answer(200, format!(r#"{{"token":"{good}","expires_in":300}}"#)));
        }
        if seen.is("PATCH", "/uploads/") && !renewed {
            state.count.fetch_add(1, Ordering::SeqCst);
        }
        let good = if state.count.load(Ordering::SeqCst) > 0 { "new" } else { "old" };
        guarded(seen, state, good)
    });
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(vec![noise(1, 300_000)]);
    image.streams = true;
    let name = fake.name("a").to_string();
    let (_, arrivals) = push(&client(dir.path()), &name, &image).unwrap();
    assert_eq!(arrivals, [Arrival::Uploaded]);
    assert_eq!(image.produced.load(Ordering::SeqCst), 2);
    assert_pulls(&client(dir.path()), &name, &image);
}

#[test]
fn a_rate_limit_is_waited_out_and_named_when_it_stays() {
    let fake = Fake::start(|seen, state| {
        (seen.is("GET", "/manifests/") && state.first(2)).then(|| with(429, "retry-after", "1"))
    });
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(vec![noise(1, 10)]);
    fake.state.hold("x", "latest", &image);
    let begun = Instant::now();
    client(dir.path()).resolve(&fake.name("x"), &Platform::host()).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(fake.state.seen("GET", "/manifests/").len(), 3);

    let fake = Fake::start(|seen, _| seen.is("GET", "/manifests/").then(|| errors(429, "TOOMANYREQUESTS")));
    let e = client(dir.path()).resolve(&fake.name("x"), &Platform::host()).unwrap_err();
    assert_eq!(fake.state.seen("GET", "/manifests/").len(), 4);
    let text = e.to_string();
    assert!(e.kind() == Kind::Network && text.contains("TOOMANYREQUESTS") && text.contains(&fake.host), "{text}");
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    for (hang, ranges) in [(false, true), (true, true), (false, false)] {
        let fake = Fake::start(move |seen, state| {
            if !seen.is("GET", "/blobs/") {
                return None;
            }
            let bytes = state.blobs.lock().unwrap().get(seen.path().rsplit('/').next()?)?.clone();
            let whole = if ranges { ranged(seen, &bytes) } else { answer(200, bytes.clone()) };
            if bytes.len() < 100_000 || !state.first(2) {
                return Some(whole);
            }
            let start = if ranges { state.seen("GET", "/blobs/").len().saturating_sub(1) * 50_000 } else { 0 };
            Some(broken(whole, 50_000, bytes.len() - start, hang))
        });
        let dir = tempfile::tempdir().unwrap();
        let image = Image::new(vec![noise(1, 200_000)]);
        let layers = fake.state.hold("x", "latest", &image);
        let bytes = fetch(&hasty(dir.path()), &fake.name("x"), &layers[0]).unwrap();
        assert_eq!(bytes, image.layers[0]);
        let asked: Vec<Option<String>> =
            fake.state.seen("GET", "/blobs/").iter().map(|s| s.header("range").map(str::to_owned)).collect();
        if ranges {
            assert_eq!(asked, [None, Some("bytes=50000-".into()), Some("bytes=100000-".into())], "hang: {hang}");
        } else {
            assert_eq!(asked.len(), 3);
        }
    }
}

#[test]
fn content_that_does_not_match_is_refused_without_another_try() {
    let good = noise(1, 1000);
    let mut bad = good.clone();
    bad[500] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    for wrong in [bad, noise(2, 2000)] {
        let fake = Fake::start(|_, _| None);
        let image = Image::new(vec![good.clone()]);
        let layers = fake.state.hold("x", "latest", &image);
        fake.state.blobs.lock().unwrap().insert(layers[0].digest.to_string(), wrong.into());
        let e = fetch(&client(dir.path()), &fake.name("x"), &layers[0]).unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt, "{e}");
        assert!(e.to_string().contains(&layers[0].digest.to_string()), "{e}");
        assert_eq!(fake.state.seen("GET", "/blobs/").len(), 1);
    }

    // a manifest that is another than its digest says, and a config that is
    let fake = Fake::start(|_, _| None);
    let image = Image::new(vec![]);
    fake.state.hold("x", "latest", &image);
    let wanted = Digest::of("another");
    let manifest = fake.state.manifests.lock().unwrap()["x/manifests/latest"].clone();
    fake.state.manifests.lock().unwrap().insert(format!("x/manifests/{wanted}"), manifest);
    let by_digest = Reference { digest: Some(wanted), ..fake.name("x") };
    let e = client(dir.path()).resolve(&by_digest, &Platform::host()).unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
    let config = PushSource::config(&image);
    let same_length = vec![b' '; config.bytes.len()];
    fake.state.blobs.lock().unwrap().insert(config.descriptor().digest.to_string(), same_length.into());
    let e = client(dir.path()).resolve(&fake.name("x"), &Platform::host()).unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
}

#[test]
fn documents_without_end_are_cut_off() {
    let fake = Fake::start(|seen, _| {
        seen.is("GET", "/manifests/").then(|| {
            let spaces = axum::body::Bytes::from(vec![b' '; 1 << 16]);
            let forever = futures_util::stream::repeat_with(move || Ok::<_, io::Error>(spaces.clone()));
            answer(200, axum::body::Body::from_stream(forever))
        })
    });
    let dir = tempfile::tempdir().unwrap();
    let e = client(dir.path()).resolve(&fake.name("x"), &Platform::host()).unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
    assert!(e.to_string().contains(&MAX_MANIFEST_BYTES.to_string()), "{e}");
}

#[test]
fn redirects_carry_ranges_but_no_credentials_to_other_hosts() {
    let image = Image::new(vec![noise(1, 200_000)]);
    let store = Fake::start(|seen, state| {
        let bytes = state.blobs.lock().unwrap().get(seen.path().rsplit('/').next()?)?.clone();
        state.first(1).then(|| broken(ranged(seen, &bytes), 50_000, bytes.len(), false))
    });
    let layers = store.state.hold("x", "latest", &image);
    let other = store.host.clone();
    let fake = Fake::start(move |seen, state| {
        if let Some(refused) = guarded(seen, state, "t") {
            return Some(refused);
        }
        match seen.path() {
            "/token" => Some(answer(200, r#"{"token":"t"}"#)),
            p if p.contains("/blobs/") => {
                let to = format!("http://{other}/v2/x/blobs/{}?signature=s", p.rsplit('/').next()?);
                Some(with(307, "location", &to))
            }
            _ => None,
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let bytes = fetch(&client(dir.path()), &fake.name("x"), &layers[0]).unwrap();
    assert_eq!(bytes, image.layers[0]);
    let seen = store.state.seen("GET", "/blobs/");
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|s| s.header("authorization").is_none() && s.uri.query() == Some("signature=s")));
    assert_eq!(seen[1].header("range"), Some("bytes=50000-"));

    let round = Fake::start(|seen, _| seen.is("GET", "/blobs/").then(|| with(302, "location", seen.path())));
    let e = fetch(&client(dir.path()), &round.name("x"), &layers[0]).unwrap_err();
    assert!(e.to_string().contains("redirects"), "{e}");
}

#[test]
fn uploads_are_tried_again_from_their_start() {
    for (fault, streams) in [(500, false), (500, true), (404, false), (404, true), (416, true), (503, true)] {
        for method in ["POST", "PATCH", "PUT"] {
            let fake = Fake::start(move |seen, state| {
                let hit = seen.is(method, "/uploads/") && (method != "POST" || fault >= 500);
                (hit && state.first(1)).then(|| errors(fault, "FAULT"))
            });
            let dir = tempfile::tempdir().unwrap();
            let mut image = Image::new(vec![noise(1, 300_000)]);
            image.streams = streams;
            let name = fake.name("a/b").to_string();
            push(&client(dir.path()), &name, &image)
                .unwrap_or_else(|e| panic!("{method} {fault}, streams: {streams}: {e}"));
            assert_pulls(&client(dir.path()), &name, &image);
        }
    }
}

#[test]
fn nothing_is_tagged_when_a_blob_is_refused() {
    for (status, kind) in [(403, Kind::Denied), (400, Kind::Denied), (413, Kind::Exhausted), (507, Kind::Exhausted)] {
        let fake = Fake::start(move |seen, _| {
            let hit = (seen.is("PATCH", "/uploads/") || seen.is("PUT", "/uploads/")) && seen.body.len() > 1000;
            hit.then(|| errors(status, "DENIED"))
        });
        let dir = tempfile::tempdir().unwrap();
        for streams in [false, true] {
            let mut image = Image::new(vec![noise(1, 10), noise(2, 300_000), noise(3, 10)]);
            image.streams = streams;
            let e = push(&client(dir.path()), &fake.name("a/b").to_string(), &image).unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains("DENIED: made up"), "{e}");
            assert!(fake.state.seen("PUT", "/manifests/").is_empty());
        }
    }
}

#[test]
fn every_wait_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.retries = 0;
    options.timeouts = Timeouts {
        connect: Duration::from_millis(500),
        answer: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        store: Duration::from_millis(200),
    };
    let client = Client::new(options).unwrap();
    let begun = Instant::now();

    // listens, and never answers
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = reference(&format!("{}/x", silent.local_addr().unwrap()));
    let e = client.resolve(&name, &Platform::host()).unwrap_err();
    assert_eq!(e.kind(), Kind::Network, "{e}");

    // takes an upload, and never says that it has it
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let waiting = gate.clone();
    let fake = Fake::start(move |seen, _| {
        if seen.is("PUT", "/uploads/") {
            drop(waiting.lock());
        }
        None
    });
    let image = Image::new(vec![noise(1, 300_000)]);
    let e = push(&client, &fake.name("x").to_string(), &image).unwrap_err();
    assert!(matches!(e, Error::Timeout { .. }), "{e}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(held);
}

#[test]
fn a_slow_producer_is_no_timeout() {
    struct Sleepy;
    impl UploadMemory for Sleepy {}
    impl PushSource for Sleepy {
        fn layers(&self) -> Vec<LayerSource<'_>> {
            let write = Box::new(|out: &mut dyn Write| {
                out.write_all(&noise(1, 200_000))?;
                // longer than any wait for the network may be
                std::thread::sleep(Duration::from_millis(3500));
                out.write_all(&noise(2, 200_000))
            });
            vec![LayerSource::Stream { media_type: media::OCI_LAYER.into(), known: None, mount_from: None, write }]
        }
        fn config(&self) -> Document {
            Document { media_type: media::OCI_CONFIG.into(), bytes: b"{}".to_vec() }
        }
        fn finish(&self, layers: &[Descriptor], _: &Descriptor) -> io::Result<Document> {
            assert_eq!(layers[0].size, 400_000);
            Ok(Document { media_type: media::OCI_MANIFEST.into(), bytes: b"{}".to_vec() })
        }
    }
    let fake = Fake::start(|_, _| None);
    let dir = tempfile::tempdir().unwrap();
    hasty(dir.path()).push(&fake.name("x"), &Sleepy, &|_| ()).unwrap();
}

/// A server in the middle that passes on so many bytes of the first connection that brings a large body, and then breaks it
/// off; counts what went through.
fn breaking(to: &str, after: usize) -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (host, to) = (listener.local_addr().unwrap().to_string(), to.to_owned());
    let passed = Arc::new(AtomicUsize::new(0));
    let counter = passed.clone();
    std::thread::spawn(move || {
        let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, std::net::TcpStream::connect(&to)) else { return };
            let (mut down, mut up) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = io::copy(&mut down, &mut up);
                let _ = up.shutdown(std::net::Shutdown::Both);
            });
            let (counter, broken) = (counter.clone(), broken.clone());
            std::thread::spawn(move || {
                let (mut here, mut buffer) = (0, vec![0; 1 << 14]);
                while let Ok(n) = client.read(&mut buffer)
                    && n > 0
                {
                    here += n;
                    counter.fetch_add(n, Ordering::SeqCst);
                    if server.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                    if here > after && !broken.swap(true, Ordering::SeqCst) {
                        let _ = client.shutdown(std::net::Shutdown::Both);
                        break;
                    }
                }
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (host, passed)
}

#[test]
fn an_upload_that_breaks_off_goes_on_where_it_broke() {
    const BYTES: usize = 4_000_000;
    for streams in [false, true] {
        let fake = Fake::start(|_, _| None);
        let (host, passed) = breaking(&fake.host, BYTES / 2);
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::new(vec![noise(1, BYTES)]);
        image.streams = streams;
        push(&client(dir.path()), &format!("{host}/a/b"), &image).unwrap();
        assert_pulls(&client(dir.path()), &fake.name("a/b").to_string(), &image);
        let passed = passed.load(Ordering::SeqCst);
        assert!(passed < BYTES + BYTES / 10, "{passed} bytes were sent for {BYTES}, streams: {streams}");
        assert_eq!(image.produced.load(Ordering::Relaxed), 2);
        assert!(image.uploads.lock().unwrap().is_empty(), "it is over");
    }
}

#[test]
fn an_upload_of_an_earlier_push_is_gone_on_with() {
    const BYTES: usize = 4_000_000;
    for streams in [false, true] {
        let fake = Fake::start(|_, _| None);
        let (host, _) = breaking(&fake.host, BYTES / 2);
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::new(vec![noise(1, BYTES)]);
        image.streams = streams;
        let mut once = options(dir.path());
        once.retries = 0;
        push(&Client::new(once).unwrap(), &format!("{host}/a/b"), &image).unwrap_err();
        assert_eq!(image.uploads.lock().unwrap().len(), 1);
        fake.state.log.lock().unwrap().clear();
        // the address leads through the server in the middle, as far as it does any more
        let address = image.uploads.lock().unwrap()[&0].replace(&host, &fake.host);
        image.uploads.lock().unwrap().insert(0, address);
        push(&client(dir.path()), &fake.name("a/b").to_string(), &image).unwrap();
        assert_pulls(&client(dir.path()), &fake.name("a/b").to_string(), &image);
        let sent: usize = fake.state.seen("PATCH", "/uploads/").iter().map(|s| s.body.len()).sum();
        assert!(sent > 0 && sent < BYTES * 6 / 10, "{sent} of {BYTES}, streams: {streams}");
    }
}

#[test]
fn an_upload_that_holds_other_bytes_is_begun_anew() {
    let fake = Fake::start(|_, _| None);
    let dir = tempfile::tempdir().unwrap();
    let (host, _) = breaking(&fake.host, 1_000_000);
    let other = Image::new(vec![noise(7, 2_000_000)]);
    let mut once = options(dir.path());
    once.retries = 0;
    push(&Client::new(once).unwrap(), &format!("{host}/a/b"), &other).unwrap_err();
    let image = Image::new(vec![noise(1, 2_000_000)]);
    let address = other.uploads.lock().unwrap()[&0].replace(&host, &fake.host);
    image.remember_upload(0, Some(&address));
    push(&client(dir.path()), &fake.name("a/b").to_string(), &image).unwrap();
    assert_pulls(&client(dir.path()), &fake.name("a/b").to_string(), &image);
    // and one that the registry has forgotten
    let image = Image::new(vec![noise(3, 20_000)]);
    image.remember_upload(0, Some(&format!("http://{}/v2/a/b/blobs/uploads/u999?state=a%2Fb", fake.host)));
    push(&client(dir.path()), &fake.name("a/b").to_string(), &image).unwrap();
}

#[test]
fn whether_a_push_is_allowed_can_be_asked_and_leaves_nothing() {
    let fake = Fake::start(|_, _| None);
    let dir = tempfile::tempdir().unwrap();
    client(dir.path()).check_push(&fake.name("a/b:1")).unwrap();
    let (begun, given_up) = (fake.state.seen("POST", "/a/b/blobs/uploads/"), fake.state.seen("DELETE", "/uploads/u0"));
    assert_eq!((begun.len(), given_up.len()), (1, 1));
    for (status, kind) in [(401, Kind::Denied), (403, Kind::Denied), (404, Kind::NotFound), (500, Kind::Network)] {
        let fake = Fake::start(move |seen, _| seen.is("POST", "/uploads/").then(|| errors(status, "DENIED")));
        let e = client(dir.path()).check_push(&fake.name("a/b:1")).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
    }
    // who cannot give an upload up need not
    let fake = Fake::start(|seen, _| seen.is("DELETE", "/uploads/").then(|| errors(405, "UNSUPPORTED")));
    client(dir.path()).check_push(&fake.name("a/b:1")).unwrap();
}
