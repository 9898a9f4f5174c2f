//! Against a real registry.

use super::{server::Server, *};
use crate::error::{Classified, Kind};
use crate::oci::Index;
use std::process::Command;
use std::sync::atomic::AtomicBool;

#[test]
fn an_image_goes_there_and_comes_back() {
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let image = Image::new(vec![noise(1, 3_000_000), noise(2, 10), vec![], noise(3, 128 << 10), noise(1, 3_000_000)]);
    let name = format!("{}/a/b:1", server.host);
    let (pushed, arrivals) = push(&client, &name, &image).unwrap();
    assert_eq!(arrivals[1], Arrival::Uploaded);
    // the same blob twice in one image is sent once
    assert_eq!(arrivals[4], Arrival::Existed);
    assert_eq!(image.produced.load(Ordering::Relaxed), 4);
    assert_eq!(client.resolve_digest(&reference(&name)).unwrap(), pushed);
    assert_pulls(&client, &name, &image);
    assert_pulls(&client, &format!("{}/a/b@{}", server.host, pushed.digest), &image);
    assert_pulls(&client, &name.replace("127.0.0.1", "localhost"), &image);

    // a second push sends nothing
    let (again, arrivals) = push(&client, &format!("{}/a/b:2", server.host), &image).unwrap();
    assert_eq!(again, pushed);
    assert!(arrivals.iter().all(|a| *a == Arrival::Existed), "{arrivals:?}");
    assert_eq!(image.produced.load(Ordering::Relaxed), 4);

    if super::server::has("skopeo") {
        let out = Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", &format!("docker://{name}"), "--format", "{{.Digest}}"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), pushed.digest.to_string(), "{out:?}");
    }
}

#[test]
fn streams_are_digested_under_way_and_skipped_when_known() {
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let mut image = Image::new(vec![noise(4, 5_000_000), vec![], noise(5, 1)]);
    image.streams = true;
    let name = format!("{}/s", server.host);
    let (first, arrivals) = push(&client, &name, &image).unwrap();
    assert_eq!(arrivals, vec![Arrival::Uploaded; 3]);
    assert_pulls(&client, &name, &image);

    image.known = true;
    let (second, arrivals) = push(&client, &name, &image).unwrap();
    assert_eq!((second, arrivals), (first, vec![Arrival::Existed; 3]));
    assert_eq!(image.produced.load(Ordering::Relaxed), 3);
}

#[test]
fn blobs_are_mounted_from_other_repositories() {
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let mut image = Image::new(vec![noise(6, 100_000)]);
    push(&client, &format!("{}/base", server.host), &image).unwrap();
    image.mount_from = Some("base".into());
    let name = format!("{}/derived", server.host);
    let (_, arrivals) = push(&client, &name, &image).unwrap();
    assert_eq!(arrivals, [Arrival::Mounted("base".into())]);
    assert_pulls(&client, &name, &image);

    // where the other repository does not have it, the offered upload is used
    let mut other = Image::new(vec![noise(7, 100_000)]);
    other.mount_from = Some("base".into());
    let (_, arrivals) = push(&client, &name, &other).unwrap();
    assert_eq!(arrivals, [Arrival::Uploaded]);
    assert_pulls(&client, &name, &other);
}

#[test]
fn an_index_leads_to_the_image_of_the_platform() {
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let image = Image::new(vec![noise(8, 1000)]);
    let (mut mine, _) = push(&client, &format!("{}/multi:host", server.host), &image).unwrap();
    mine.platform = Some(Platform::host());
    let index = Index { manifests: vec![mine.clone()], ..Index::empty() };
    let document = Document { media_type: media::OCI_INDEX.into(), bytes: serde_json::to_vec(&index).unwrap() };
    let name = reference(&format!("{}/multi", server.host));
    let pushed = client.push_manifest(&name, &document).unwrap();

    let resolved = client.resolve(&name, &Platform::host()).unwrap();
    assert_eq!(resolved.descriptor.digest, mine.digest);
    assert_eq!(resolved.index, Some((pushed.clone(), document.bytes.clone())));
    assert_eq!(client.resolve_digest(&name).unwrap(), pushed);
    assert_eq!(client.fetch_manifest(&name).unwrap(), document);
    let e = client.resolve(&name, &Platform::linux("s390x")).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.to_string().contains(&Platform::host().to_string()), "{e}");
}

#[test]
fn what_is_not_there_is_named() {
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let name = format!("{}/no/such:tag", server.host);
    let e = client.resolve(&reference(&name), &Platform::host()).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    let text = e.to_string();
    assert!(text.contains(&name) && text.contains("MANIFEST_UNKNOWN") && text.contains(&server.host), "{text}");
    let blob = Descriptor::of(media::OCI_LAYER, b"absent");
    let e = fetch(&client, &reference(&name), &blob).unwrap_err();
    assert!(e.to_string().contains("BLOB_UNKNOWN"), "{e}");

    let mut options = options(dir.path());
    options.retries = 0;
    let client = Client::new(options).unwrap();
    let e = client.resolve(&reference("127.0.0.1:1/x"), &Platform::host()).unwrap_err();
    assert_eq!(e.kind(), Kind::Network);
    assert!(e.to_string().contains("refused"), "{e}");
}

#[test]
fn many_threads_share_a_client_and_slow_sinks_do_no_harm() {
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let image = Image::new((0..6).map(|i| noise(20 + i, 400_000)).collect());
    let name = reference(&format!("{}/many", server.host));
    push(&client, &name.to_string(), &image).unwrap();
    let resolved = client.resolve(&name, &Platform::host()).unwrap();
    std::thread::scope(|scope| {
        for layer in resolved.manifest.layers.iter().chain(&resolved.manifest.layers) {
            let (client, name) = (&client, &name);
            scope.spawn(move || {
                let mut sink = Slow(0);
                client.fetch_blob(name, layer, &mut sink).unwrap();
                assert_eq!(sink.0, layer.size);
            });
        }
    });
}

#[test]
fn a_failing_reader_or_writer_is_the_error_and_nothing_is_tagged() {
    struct Bad {
        stream: bool,
    }
    impl UploadMemory for Bad {}
    impl PushSource for Bad {
        fn layers(&self) -> Vec<LayerSource<'_>> {
            let failing = || io::Error::other("disk on fire");
            let descriptor = Descriptor::of(media::OCI_LAYER, b"what it was");
            vec![if self.stream {
                LayerSource::Stream {
                    media_type: media::OCI_LAYER.into(),
                    known: None,
                    mount_from: None,
                    write: Box::new(move |out| {
                        out.write_all(&noise(9, 500_000))?;
                        Err(failing())
                    }),
                }
            } else {
                LayerSource::Known {
                    descriptor,
                    mount_from: None,
                    open: Box::new(|| Ok(Box::new(io::Cursor::new(b"what it is".to_vec())) as Box<dyn Read + Send>)),
                }
            }]
        }
        fn config(&self) -> Document {
            Document { media_type: media::OCI_CONFIG.into(), bytes: b"{}".to_vec() }
        }
        fn finish(&self, _: &[Descriptor], _: &Descriptor) -> io::Result<Document> {
            panic!("a push that failed must not be finished")
        }
    }
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let name = reference(&format!("{}/bad", server.host));
    let e = client.push(&name, &Bad { stream: true }, &|_| ()).unwrap_err();
    assert!(e.to_string().contains("disk on fire"), "{e}");
    let e = client.push(&name, &Bad { stream: false }, &|_| ()).unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
    assert_eq!(client.resolve_digest(&name).unwrap_err().kind(), Kind::NotFound);
}

/// Two layers: one without an end, and one that cannot be read once that is under way.
struct Endless {
    begun: AtomicBool,
}

impl UploadMemory for Endless {}
impl PushSource for Endless {
    fn layers(&self) -> Vec<LayerSource<'_>> {
        let stream =
            |write| LayerSource::Stream { media_type: media::OCI_LAYER.into(), known: None, mount_from: None, write };
        let endless = |out: &mut dyn Write| {
            loop {
                out.write_all(&[0; 1 << 16])?;
                self.begun.store(true, Ordering::SeqCst);
            }
        };
        let failing = |_: &mut dyn Write| {
            while !self.begun.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(io::Error::other("disk on fire"))
        };
        vec![stream(Box::new(endless)), stream(Box::new(failing))]
    }
    fn config(&self) -> Document {
        Document { media_type: media::OCI_CONFIG.into(), bytes: b"{}".to_vec() }
    }
    fn finish(&self, _: &[Descriptor], _: &Descriptor) -> io::Result<Document> {
        panic!("a push that failed must not be finished")
    }
}

#[test]
fn an_upload_ends_when_nobody_wants_it_any_more() {
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let name = reference(&format!("{}/endless", server.host));
    let image = Endless { begun: AtomicBool::new(false) };
    let e = client.push(&name, &image, &|_| ()).unwrap_err();
    assert!(e.to_string().contains("disk on fire"), "{e}");
    let image = Endless { begun: AtomicBool::new(false) };
    let layer = image.layers().swap_remove(0);
    client.push_layer(&name, &layer, &image, &|| image.begun.load(Ordering::SeqCst)).unwrap_err();
}

#[test]
fn a_private_ca_is_trusted_by_certs_d_cert_dir_and_environment_only() {
    let Some(server) = Server::with_tls() else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(vec![noise(10, 100_000)]);
    let name = format!("{}/tls", server.host);
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = options(dir.path());
        options.tls_verify = Some(true);
        change(&mut options);
        Client::new(options).unwrap()
    };
    let e = push(&with(&|_| ()), &name, &image).unwrap_err();
    assert!(e.to_string().contains("UnknownIssuer"), "{e}");
    assert!(e.hint().unwrap().contains("certs.d"), "{e:?}");
    assert!(!e.retryable());

    push(&with(&|o| o.tls_verify = Some(false)), &name, &image).unwrap();
    push(&with(&|o| o.tls_verify = None), &name, &image).unwrap();

    let text = std::fs::read_to_string(server.dir.path().join("ca.crt")).unwrap();
    assert_pulls(&with(&|o| o.environment.local_ca = Some(text.clone())), &name, &image);
    let e = push(&with(&|o| o.environment.local_ca = Some("PEM".into())), &name, &image).unwrap_err();
    assert!(e.to_string().contains("$LOCAL_CA_CERTIFICATE"), "{e}");

    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    std::fs::copy(server.dir.path().join("ca.crt"), certs.join("ca.crt")).unwrap();
    assert_pulls(&with(&|o| o.cert_dir = Some(certs.clone())), &name, &image);

    let by_host = dir.path().join("home/.config/containers/certs.d").join(&server.host);
    std::fs::create_dir_all(&by_host).unwrap();
    std::fs::copy(server.dir.path().join("ca.crt"), by_host.join("ca.crt")).unwrap();
    assert_pulls(&with(&|_| ()), &name, &image);
}

#[test]
fn a_password_is_not_sent_from_https_to_a_plain_token_server() {
    let Some(server) = Server::with_careless_tokens() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.tls_verify = Some(true);
    options.cert_dir = Some(server.dir.path().to_owned());
    options.creds = Some(("user".into(), "pass".into()));
    let name = reference(&format!("{}/x", server.host));
    let e = Client::new(options).unwrap().resolve_digest(&name).unwrap_err();
    assert!(matches!(&e, Error::Protocol { why, .. } if why.contains("not https")), "{e}");
}

#[test]
fn plain_http_needs_permission() {
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.tls_verify = Some(true);
    let e =
        Client::new(options.clone()).unwrap().resolve_digest(&reference(&format!("{}/x", server.host))).unwrap_err();
    assert!(matches!(e, Error::Transport { .. }), "{e}");
    assert!(e.hint().unwrap().contains("--tls-verify=false"), "{e:?}");
    options.tls_verify = Some(false);
    let e = Client::new(options).unwrap().resolve_digest(&reference(&format!("{}/x", server.host))).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
}

#[test]
fn configuration_leads_elsewhere_and_mirrors_come_first() {
    let (Some(server), Some(mirror)) = (Server::open(), Server::open()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}/hub\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:1\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{}/m\"\ninsecure = true\n",
        server.host, mirror.host
    );
    std::fs::write(&conf, text).unwrap();
    let mut options = options(dir.path());
    options.registries_conf = Some(conf);
    options.retries = 0;
    let client = Client::new(options).unwrap();
    let image = Image::new(vec![noise(11, 1000)]);
    let names = client.candidates("thing").unwrap();
    assert_eq!(names, [reference("docker.io/library/thing:latest")]);
    push(&client, "docker.io/library/thing", &image).unwrap();
    // the dead mirror and the empty one are passed over
    assert_pulls(&client, "docker.io/library/thing", &image);
    assert_pulls(&client, &format!("{}/hub/library/thing", server.host), &image);
    let other = Image::new(vec![noise(12, 1000)]);
    push(&client, &format!("{}/m/library/thing", mirror.host), &other).unwrap();
    assert_pulls(&client, "docker.io/library/thing", &other);
}

#[test]
fn memory_does_not_grow_with_a_blob() {
    const CHUNKS: usize = 3000;
    struct Large(Vec<u8>);
    impl UploadMemory for Large {}
    impl PushSource for Large {
        fn layers(&self) -> Vec<LayerSource<'_>> {
            let write = Box::new(|out: &mut dyn Write| (0..CHUNKS).try_for_each(|_| out.write_all(&self.0)));
            vec![LayerSource::Stream { media_type: media::OCI_LAYER.into(), known: None, mount_from: None, write }]
        }
        fn config(&self) -> Document {
            let rootfs = RootFs { diff_ids: vec![DiffId(Digest::of("any"))], ..Default::default() };
            let config = ImageConfig { rootfs, ..ImageConfig::scratch(&Platform::host()) };
            Document { media_type: media::OCI_CONFIG.into(), bytes: serde_json::to_vec(&config).unwrap() }
        }
        fn finish(&self, layers: &[Descriptor], config: &Descriptor) -> io::Result<Document> {
            Image::new(vec![]).finish(layers, config)
        }
    }
    /// Bytes of memory that are this process's own and not a file's.
    fn anonymous() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
    const ALONE: &str = "RBUILD_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // other tests of this process would be measured too
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "registry::tests::real::memory_does_not_grow_with_a_blob"]).env(ALONE, "1");
        let out = alone.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        return;
    }
    let Some(server) = Server::open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path());
    let name = reference(&format!("{}/large", server.host));
    let image = Large(noise(1, 100_000));
    let limit = anonymous() + (24 << 20);
    let peak = Mutex::new(0);
    client
        .push(&name, &image, &|event| {
            if !matches!(event, PushEvent::LayerSent { bytes, .. } if bytes % (4 << 20) == 0) {
                return;
            }
            let mut peak = peak.lock().unwrap();
            *peak = anonymous().max(*peak);
        })
        .unwrap();
    let peak = peak.into_inner().unwrap();
    assert!(peak > 0 && peak < limit, "{peak} of {limit}");
    let resolved = client.resolve(&name, &Platform::host()).unwrap();
    let mut sink = Slow(0);
    client.fetch_blob(&name, &resolved.manifest.layers[0], &mut sink).unwrap();
    assert_eq!(sink.0, (CHUNKS * 100_000) as u64);
    assert!(anonymous() < limit);
}
