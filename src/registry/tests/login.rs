//! Credentials: logging in and out, and where they are found.

use super::{server::Server, *};
use crate::error::{Classified, Kind};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

#[test]
fn a_login_is_checked_kept_privately_and_forgotten() {
    let Some(server) = Server::with_password() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run/containers/auth.json");
    let image = Image::new(vec![noise(1, 1000)]);
    let name = format!("{}/a/b", server.host);

    let e = push(&client(dir.path()), &name, &image).unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    assert!(e.to_string().contains("UNAUTHORIZED"), "{e}");
    assert!(e.hint().unwrap().contains("rbuild login"), "{e:?}");
    let e = client(dir.path()).login(&server.host, "user", "wrong", None).unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    assert!(!e.to_string().contains("wrong"), "{e}");
    assert!(!file.exists());

    client(dir.path()).login(&server.host, "user", "pass", None).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    push(&client(dir.path()), &name, &image).unwrap();
    assert_pulls(&client(dir.path()), &name, &image);

    assert!(client(dir.path()).logout(&server.host, None).unwrap());
    assert!(!client(dir.path()).logout(&server.host, None).unwrap());
    assert_eq!(client(dir.path()).resolve_digest(&reference(&name)).unwrap_err().kind(), Kind::Denied);

    let mut options = options(dir.path());
    options.creds = Some(("user".into(), "pass".into()));
    assert_pulls(&Client::new(options).unwrap(), &name, &image);
}

#[test]
fn a_named_file_is_the_only_one_and_keeps_what_it_held() {
    let Some(server) = Server::with_password() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.json");
    fs::write(&file, r#"{"auths":{"other.test":{"auth":"eDp5"}},"HttpHeaders":{"a":"b"}}"#).unwrap();
    client(dir.path()).login(&format!("https://{}/v2/", server.host), "user", "pass", Some(&file)).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("other.test") && text.contains("HttpHeaders") && text.contains(&server.host), "{text}");

    let mut options = options(dir.path());
    options.authfile = Some(file.clone());
    let name = format!("{}/x", server.host);
    let e = Client::new(options.clone()).unwrap().resolve_digest(&reference(&name)).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    options.authfile = Some(dir.path().join("absent.json"));
    let e = Client::new(options).unwrap().resolve_digest(&reference(&name)).unwrap_err();
    assert!(e.to_string().contains("absent.json"), "{e}");
}

#[test]
fn many_logins_at_once_lose_nothing() {
    let Some(server) = Server::with_password() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (file, client, host) = (&file, client(dir.path()), &server.host);
            scope.spawn(move || client.login(&format!("{host}/team{i}"), "user", "pass", Some(file)).unwrap());
        }
    });
    let text: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(text["auths"].as_object().unwrap().len(), 8);
}

#[test]
fn a_credential_helper_is_asked() {
    let Some(server) = Server::with_password() else { return };
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-test");
    let kept = dir.path().join("kept");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) read host; test -f {0} && grep -q \"\\\"$host\\\"\" {0} && cat {0} \
         || {{ echo credentials not found in native keychain; exit 1; }} ;;\nerase) rm {0} ;;\nesac\n",
        kept.display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("config.json");
    fs::write(&file, format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, server.host)).unwrap();
    let mut options = options(dir.path());
    options.authfile = Some(file.clone());
    options.environment.path = Some(format!("{}:/usr/bin:/bin", bin.display()).into());
    let client = || Client::new(options.clone()).unwrap();
    let name = reference(&format!("{}/x", server.host));

    assert_eq!(client().resolve_digest(&name).unwrap_err().kind(), Kind::Denied);
    client().login(&server.host, "user", "pass", None).unwrap();
    assert!(!fs::read_to_string(&file).unwrap().contains("\"auth\""));
    assert_eq!(client().resolve_digest(&name).unwrap_err().kind(), Kind::NotFound);
    assert!(client().logout(&server.host, None).unwrap());
    assert!(!kept.exists());
}
