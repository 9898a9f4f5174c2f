//! Tokens in files that somebody renews, in each of the ways that registries take them.

use super::{fake::*, *};
use crate::error::{Classified, Kind};
use axum::response::Response;

/// A client with one setting; `FILE` stands for the file, `HOST` for the registry.
fn client_with(dir: &Path, fake: &Fake, setting: &str) -> Client {
    let file = dir.join("token").display().to_string();
    let setting = setting.replace("FILE", &file).replace("HOST", &fake.host);
    let mut options = options(dir);
    options.retries = 0;
    options.token_files = vec![setting.parse().unwrap()];
    Client::new(options).unwrap()
}

fn put(dir: &Path, token: &str) {
    std::fs::write(dir.join("token"), format!("{token}\n")).unwrap();
}

/// Wants this header of a request to the registry itself.
fn wants(seen: &Seen, challenge: &str, header: &str) -> Option<Response> {
    let refused = seen.path().starts_with("/v2/") && seen.header("authorization") != Some(header);
    refused.then(|| {
        let mut r = errors(401, "UNAUTHORIZED");
        r.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        r
    })
}

fn token_server(state: &State) -> String {
    format!(r#"Bearer realm="http://{}/token",service="the registry""#, state.host)
}

fn form(seen: &Seen) -> HashMap<String, String> {
    let mut url = reqwest::Url::parse("http://form/").unwrap();
    url.set_query(Some(std::str::from_utf8(&seen.body).unwrap()));
    url.query_pairs().into_owned().collect()
}

/// `user:token` as a header.
fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}")))
}

#[test]
fn a_token_opens_a_registry_in_each_way() {
    const BASIC: &str = "Basic realm=\"x\"";
    // the setting, and what the registry makes of it
    type Hook = fn(&Seen, &State) -> Option<Response>;
    let ways: &[(&str, Hook)] = &[
        ("HOST=FILE", |seen, _| wants(seen, BASIC, &basic("serviceaccount", "jwt.1"))),
        ("HOST/a=FILE,as=password,user=me", |seen, state| match seen.path() {
            "/token" if seen.header("authorization") == Some(&basic("me", "jwt.1")) => {
                Some(answer(200, r#"{"token":"t"}"#))
            }
            "/token" => Some(errors(401, "UNAUTHORIZED")),
            _ => wants(seen, &token_server(state), "Bearer t"),
        }),
        ("HOST=FILE,as=bearer", |seen, state| wants(seen, &token_server(state), "Bearer jwt.1")),
        ("HOST=FILE,as=bearer", |seen, _| wants(seen, BASIC, "Bearer jwt.1")),
        ("HOST=FILE,as=identity", |seen, state| {
            if !seen.is("POST", "/token") {
                return wants(seen, &token_server(state), "Bearer t");
            }
            let form = form(seen);
            let fine = form["grant_type"] == "refresh_token" && form["refresh_token"] == "jwt.1";
            let fine = fine && form["service"] == "the registry" && form["scope"].starts_with("repository:a/b:pull");
            Some(if fine { answer(200, r#"{"access_token":"t"}"#) } else { errors(400, "BAD") })
        }),
        ("HOST=FILE,as=exchange", |seen, state| {
            if !seen.is("POST", "/token") {
                return wants(seen, &token_server(state), "Bearer t");
            }
            let form = form(seen);
            let fine = form["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
                && form["subject_token"] == "jwt.1"
                && form["subject_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
                && form["audience"] == "the registry"
                && form["scope"].starts_with("repository:a/b:pull");
            Some(if fine { answer(200, r#"{"access_token":"t","expires_in":300}"#) } else { errors(400, "BAD") })
        }),
        ("HOST=FILE,as=exchange,at=http://HOST/sts,audience=them", |seen, state| {
            if !seen.is("POST", "/sts") {
                return wants(seen, &token_server(state), "Bearer t");
            }
            let form = form(seen);
            let fine = form["subject_token"] == "jwt.1" && form["audience"] == "them" && !form.contains_key("scope");
            Some(if fine { answer(200, r#"{"access_token":"t","expires_in":300}"#) } else { errors(400, "BAD") })
        }),
        ("HOST=FILE,as=robot,user=org+r,at=http://HOST/robot", |seen, _| match seen.path() {
            "/robot" if seen.header("authorization") == Some(&basic("org+r", "jwt.1")) => {
                Some(answer(200, r#"{"token":"short"}"#))
            }
            "/robot" => Some(errors(401, "UNAUTHORIZED")),
            _ => wants(seen, BASIC, &basic("org+r", "short")),
        }),
    ];
    for (setting, hook) in ways {
        let fake = Fake::start(*hook);
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "jwt.1");
        let client = client_with(dir.path(), &fake, setting);
        let image = Image::new(vec![noise(1, 10_000), noise(2, 10_000)]);
        let name = fake.name("a/b").to_string();
        push(&client, &name, &image).unwrap_or_else(|e| panic!("{setting}: {e} {:?}", e.hint()));
        assert_pulls(&client, &name, &image);
        // what was exchanged is used as long as it lives
        let exchanges = fake.state.seen("POST", "/sts").len() + fake.state.seen("GET", "/robot").len();
        assert!(exchanges <= 1, "{setting}: {exchanges}");
    }
}

#[test]
fn a_token_is_only_for_its_registry_and_path() {
    let fake = Fake::start(|seen, _| wants(seen, "Basic realm=\"x\"", &basic("serviceaccount", "jwt.1")));
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "jwt.1");
    let image = Image::new(vec![noise(1, 10)]);
    for setting in ["HOST/other=FILE", "HOST/a/bc=FILE", "elsewhere.test=FILE"] {
        let e = push(&client_with(dir.path(), &fake, setting), &fake.name("a/b").to_string(), &image).unwrap_err();
        assert_eq!(e.status(), Some(401), "{setting}: {e}");
        assert!(e.hint().unwrap().contains("rbuild login"), "{setting}");
    }
    assert!(fake.state.seen("GET", "/").iter().all(|s| s.header("authorization").is_none()));
    // The most specific setting counts, whatever their order; and `--creds` before all.
    let mut options = options(dir.path());
    let good = format!("{}/a={}", fake.host, dir.path().join("token").display());
    options.token_files = [&format!("{}=/none", fake.host), &good, &format!("{}/a/c=/none", fake.host)]
        .map(|setting| setting.parse().unwrap())
        .into();
    push(&Client::new(options.clone()).unwrap(), &fake.name("a/b").to_string(), &image).unwrap();
    options.creds = Some(("serviceaccount".into(), "jwt.1".into()));
    push(&Client::new(options.clone()).unwrap(), &fake.name("x").to_string(), &image).unwrap();
    // A file of credentials does not; and the variable says the same as the flag.
    (options.creds, options.token_files) = (None, vec![]);
    options.environment.docker_auth_config = Some(format!(r#"{{"auths":{{"{}":{{"auth":"eDp5"}}}}}}"#, fake.host));
    options.environment.token_files = Some(format!("elsewhere.test=/none\n {good}"));
    push(&Client::new(options.clone()).unwrap(), &fake.name("a/b").to_string(), &image).unwrap();
    options.environment.token_files = Some("nonsense".into());
    let e = Client::new(options).err().unwrap().to_string();
    assert!(e.contains("$RBUILD_REGISTRY_TOKEN_FILE") && e.contains("`nonsense`"), "{e}");
}

#[test]
fn a_token_that_is_renewed_in_mid_push_is_read_again() {
    for setting in ["HOST=FILE", "HOST=FILE,as=bearer", "HOST=FILE,as=exchange,at=http://HOST/sts"] {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "jwt.1");
        let path = dir.path().to_owned();
        // With the first upload the kubelet renews the file, and the old token is no good any more.
        let fake = Fake::start(move |seen, state| {
            if seen.is("PATCH", "/uploads/") && state.count.fetch_add(1, Ordering::SeqCst) == 0 {
                put(&path, "jwt.2");
            }
            let good = if state.count.load(Ordering::SeqCst) > 0 { "jwt.2" } else { "jwt.1" };
            if seen.path() == "/sts" {
                let body = format!(r#"{{"access_token":"of-{}","expires_in":300}}"#, form(seen)["subject_token"]);
                return Some(answer(200, body));
            }
            let (as_password, as_bearer, exchanged) =
                (basic("serviceaccount", good), format!("Bearer {good}"), format!("Bearer of-{good}"));
            let shown = seen.header("authorization").unwrap_or_default();
            let fine = [&as_password, &as_bearer, &exchanged].iter().any(|header| **header == shown);
            if fine { None } else { wants(seen, "Basic realm=\"x\"", "") }
        });
        let mut image = Image::new(vec![noise(1, 2_000_000)]);
        image.streams = true;
        let client = client_with(dir.path(), &fake, setting);
        let name = fake.name("a").to_string();
        let (_, arrivals) = push(&client, &name, &image).unwrap_or_else(|e| panic!("{setting}: {e}"));
        assert_eq!(arrivals, [Arrival::Uploaded], "{setting}");
        assert_pulls(&client, &name, &image);
    }
}

#[test]
fn files_without_a_token_are_named_with_the_field_of_the_pod() {
    let fake = Fake::start(|seen, _| wants(seen, "Basic realm=\"x\"", "nothing"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let client = client_with(dir.path(), &fake, "HOST=FILE");
    let tried = || client.resolve_digest(&fake.name("a/b")).unwrap_err();
    let cases: &[(&dyn Fn(), &str)] = &[
        (&|| (), "there is no such file"),
        (&|| std::fs::write(&file, "").unwrap(), "it is empty"),
        (&|| std::fs::write(&file, " \n").unwrap(), "it is empty"),
        (&|| std::fs::write(&file, vec![b'a'; 70_000]).unwrap(), "larger than 65536 bytes"),
        (&|| std::fs::write(&file, "kind: Secret\ndata: {}\n").unwrap(), "more than one word"),
        (&|| std::fs::write(&file, b"\xff\xfe").unwrap(), "more than one word"),
        (
            &|| {
                std::fs::remove_file(&file).unwrap();
                std::fs::create_dir(&file).unwrap();
            },
            "no regular file",
        ),
    ];
    for (make, why) in cases {
        make();
        let e = tried();
        let (text, hint) = (e.to_string(), e.hint().unwrap());
        assert!(
            text.contains(&file.display().to_string()) && text.contains(why) && text.contains(&fake.host),
            "{text}"
        );
        assert!(hint.contains("`projected`") && hint.contains("`serviceAccountToken`"), "{hint}");
        assert_eq!(e.kind(), Kind::Usage);
    }
    assert!(fake.state.seen("GET", "/").iter().all(|s| s.header("authorization").is_none()));
}

#[test]
fn a_refused_token_is_explained_and_not_shown() {
    // Servers that repeat what they were sent.
    for (setting, path, status) in [
        ("HOST=FILE", "/v2/", 401),
        ("HOST=FILE,as=bearer", "/v2/a/b/manifests/latest", 403),
        ("HOST=FILE,as=exchange", "/token", 400),
        ("HOST=FILE,as=exchange,at=http://HOST/sts", "/sts", 400),
        ("HOST=FILE,as=robot,user=r,at=http://HOST/robot", "/robot", 401),
    ] {
        let fake = Fake::start(move |seen, state| {
            if seen.path() == path && (seen.header("authorization").is_some() || seen.method.as_str() == "POST") {
                return Some(answer(status, r#"{"errors":[{"code":"BAD","message":"not jwt.secret"}]}"#));
            }
            let challenge = if path == "/token" { token_server(state) } else { "Basic realm=\"x\"".into() };
            wants(seen, &challenge, "")
        });
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "jwt.secret");
        let e = client_with(dir.path(), &fake, setting).resolve_digest(&fake.name("a/b")).unwrap_err();
        let (text, hint) = (format!("{e} {e:?}"), e.hint().unwrap());
        assert!(!text.contains("jwt.secret"), "{setting}: {text}");
        let file = dir.path().join("token").display().to_string();
        assert!(hint.contains(&file) && hint.contains("`audience`"), "{setting}: {text}: {hint}");
        assert_eq!(e.kind(), if status == 400 { Kind::System } else { Kind::Denied }, "{setting}");
    }
    // Also where something else is wrong, and where the text is cut off within the token.
    let token = "jwt.secret.".repeat(100);
    for (setting, path) in [("HOST=FILE,as=bearer", "/v2/a/b/blobs/uploads/"), ("HOST=FILE,as=exchange", "/token")] {
        let said = format!(r#"{{"errors":[{{"code":"BAD","message":"went wrong: {token}"}}]}}"#);
        let fake = Fake::start(move |seen, state| match seen.path() == path {
            true if seen.header("authorization").is_some() || path == "/token" => Some(answer(500, said.clone())),
            _ => wants(seen, &token_server(state), ""),
        });
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &token);
        let client = client_with(dir.path(), &fake, setting);
        let e = push(&client, &fake.name("a/b").to_string(), &Image::new(vec![noise(1, 10)])).unwrap_err();
        let text = format!("{e} {e:?}");
        assert!(text.contains("went wrong: ****") && !text.contains("secret"), "{text}");
        assert!(!e.hint().unwrap_or_default().contains("`audience`"), "{:?}", e.hint());
    }
    // A token goes nowhere in the clear but to this machine.
    let fake = Fake::start(|seen, _| wants(seen, "Basic realm=\"x\"", ""));
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "jwt");
    let client = client_with(dir.path(), &fake, "HOST=FILE,as=exchange,at=http://me:secret@sts.test/x?secret");
    let e = client.resolve_digest(&fake.name("a/b")).unwrap_err().to_string();
    assert!(e.contains("`http://me@sts.test/x`") && e.contains("not https"), "{e}");
}
