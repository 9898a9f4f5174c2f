//! A small registry in memory, with a hook that may answer in its place.

use super::*;
use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};
use futures_util::StreamExt as _;
use std::{collections::HashMap, convert::Infallible, sync::Arc};

/// A request as the fake saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn path(&self) -> &str {
        self.uri.path()
    }

    pub(super) fn is(&self, method: &str, part: &str) -> bool {
        self.method.as_str() == method && self.uri.path().contains(part)
    }
}

type Hook = Box<dyn Fn(&Seen, &State) -> Option<Response> + Send + Sync>;

/// What the fake holds.
#[derive(Default)]
pub(super) struct State {
    pub(super) host: String,
    pub(super) blobs: Mutex<HashMap<String, Bytes>>,
    pub(super) manifests: Mutex<HashMap<String, (String, Bytes)>>,
    pub(super) uploads: Mutex<HashMap<String, Vec<u8>>>,
    opened: AtomicUsize,
    pub(super) log: Mutex<Vec<Seen>>,
    /// For hooks that count.
    pub(super) count: AtomicUsize,
}

impl State {
    /// Requests so far whose method and path match.
    pub(super) fn seen(&self, method: &str, part: &str) -> Vec<Seen> {
        self.log.lock().unwrap().iter().filter(|s| s.is(method, part)).cloned().collect()
    }

    /// Counts a fault; true for the first `times`.
    pub(super) fn first(&self, times: usize) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst) < times
    }

    /// Puts an image there without a push and returns its layers' descriptors.
    pub(super) fn hold(&self, repository: &str, tag: &str, image: &Image) -> Vec<Descriptor> {
        let layers: Vec<Descriptor> = image.layers.iter().map(|l| Descriptor::of(media::OCI_LAYER, l)).collect();
        let config = PushSource::config(image);
        let mut blobs = self.blobs.lock().unwrap();
        for bytes in image.layers.iter().chain([&config.bytes]) {
            blobs.insert(Digest::of(bytes).to_string(), bytes.clone().into());
        }
        let manifest = image.finish(&layers, &config.descriptor()).unwrap();
        let digest = manifest.descriptor().digest.to_string();
        let mut manifests = self.manifests.lock().unwrap();
        for name in [tag, &digest] {
            let entry = (manifest.media_type.clone(), manifest.bytes.clone().into());
            manifests.insert(format!("{repository}/manifests/{name}"), entry);
        }
        layers
    }

    /// What a registry without faults answers.
    pub(super) fn serve(&self, seen: &Seen) -> Response {
        let path = seen.path().trim_start_matches("/v2/").to_owned();
        let query: HashMap<String, String> = seen
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        match seen.method.as_str() {
            "GET" if path.contains("/uploads/") => {
                let id = path.rsplit('/').next().unwrap();
                let uploads = self.uploads.lock().unwrap();
                let Some(upload) = uploads.get(id) else { return errors(404, "BLOB_UPLOAD_UNKNOWN") };
                let mut r = located(204, &format!("/v2/{path}?state=a%2Fb"));
                let range = format!("0-{}", upload.len().saturating_sub(1));
                r.headers_mut().insert(header::RANGE, HeaderValue::from_str(&range).unwrap());
                r
            }
            "GET" | "HEAD" if path.contains("/manifests/") => match self.manifests.lock().unwrap().get(&path) {
                Some((media_type, bytes)) => {
                    let mut r = answer(200, bytes.clone());
                    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_str(media_type).unwrap());
                    let digest = Digest::of(bytes).to_string();
                    r.headers_mut().insert("docker-content-digest", HeaderValue::from_str(&digest).unwrap());
                    r
                }
                None => errors(404, "MANIFEST_UNKNOWN"),
            },
            "GET" | "HEAD" if path.contains("/blobs/") => {
                let digest = path.rsplit('/').next().unwrap();
                match self.blobs.lock().unwrap().get(digest) {
                    Some(bytes) => ranged(seen, bytes),
                    None => errors(404, "BLOB_UNKNOWN"),
                }
            }
            "GET" => answer(200, "{}"),
            "POST" => {
                if query.get("mount").is_some_and(|d| self.blobs.lock().unwrap().contains_key(d)) {
                    return answer(201, "");
                }
                let mut uploads = self.uploads.lock().unwrap();
                let id = format!("u{}", self.opened.fetch_add(1, Ordering::SeqCst));
                uploads.insert(id.clone(), vec![]);
                // relative, and with a query of its own that must be kept
                let location = format!("/v2/{}/{id}?state=a%2Fb", path.trim_end_matches('/'));
                located(202, &location)
            }
            "PATCH" | "PUT" if path.contains("/uploads/") => {
                let id = path.rsplit('/').next().unwrap().to_owned();
                let mut uploads = self.uploads.lock().unwrap();
                let Some(upload) = uploads.get_mut(&id) else { return errors(404, "BLOB_UPLOAD_UNKNOWN") };
                if query.get("state").map(String::as_str) != Some("a%2Fb") {
                    return errors(400, "BLOB_UPLOAD_INVALID");
                }
                upload.extend_from_slice(&seen.body);
                if seen.method == Method::PATCH {
                    let mut r = located(202, &format!("http://{}/v2/{path}?state=a%2Fb", self.host));
                    let range = format!("0-{}", upload.len().saturating_sub(1));
                    r.headers_mut().insert(header::RANGE, HeaderValue::from_str(&range).unwrap());
                    return r;
                }
                let bytes = Bytes::from(uploads.remove(&id).unwrap());
                let digest = Digest::of(&bytes).to_string();
                if query.get("digest") != Some(&digest) {
                    return errors(400, "DIGEST_INVALID");
                }
                self.blobs.lock().unwrap().insert(digest, bytes);
                answer(201, "")
            }
            "PUT" => {
                let media_type = seen.header("content-type").unwrap().to_owned();
                self.manifests.lock().unwrap().insert(path, (media_type, seen.body.clone()));
                answer(201, "")
            }
            _ => answer(202, ""),
        }
    }
}

/// Of the body of an upload that breaks off, when the server drops what works on it, a registry keeps what it got.
struct Incoming<'a> {
    state: &'a State,
    upload: Option<String>,
    got: Vec<u8>,
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        let mut uploads = self.state.uploads.lock().unwrap();
        if let Some(upload) = self.upload.take().and_then(|id| uploads.get_mut(&id)) {
            upload.append(&mut self.got);
        }
    }
}

/// A running fake; it ends when this is dropped.
pub(super) struct Fake {
    pub(super) host: String,
    pub(super) state: Arc<State>,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    /// Starts a fake. Where the hook answers, the registry does not.
    pub(super) fn start(hook: impl Fn(&Seen, &State) -> Option<Response> + Send + Sync + 'static) -> Fake {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State { host: host.clone(), ..State::default() });
        let (shared, hook): (_, Arc<Hook>) = (state.clone(), Arc::new(Box::new(hook)));
        let app = axum::Router::new().fallback(move |request: Request| {
            let (state, hook) = (shared.clone(), hook.clone());
            async move {
                let (parts, body) = request.into_parts();
                let mut stream = body.into_data_stream();
                let upload =
                    (parts.method == Method::PATCH).then(|| parts.uri.path().rsplit('/').next().unwrap().to_owned());
                let mut body = Incoming { state: &state, upload, got: vec![] };
                while let Some(Ok(part)) = stream.next().await {
                    body.got.extend_from_slice(&part);
                }
                body.upload = None;
                let body = Bytes::from(std::mem::take(&mut body.got));
                let seen = Seen { method: parts.method, uri: parts.uri, headers: parts.headers, body };
                state.log.lock().unwrap().push(seen.clone());
                Ok::<_, Infallible>(hook(&seen, &state).unwrap_or_else(|| state.serve(&seen)))
            }
        });
        runtime.spawn(async move { axum::serve(listener, app).await });
        Fake { host, state, _runtime: runtime }
    }

    pub(super) fn name(&self, rest: &str) -> Reference {
        reference(&format!("{}/{rest}", self.host))
    }
}

/// An answer with a body.
pub(super) fn answer(status: u16, body: impl Into<Body>) -> Response {
    Response::builder().status(status).body(body.into()).unwrap()
}

/// A refusal as the specification writes it.
pub(super) fn errors(status: u16, code: &str) -> Response {
    answer(status, format!(r#"{{"errors":[{{"code":"{code}","message":"made up"}}]}}"#))
}

/// An answer with a header.
pub(super) fn with(status: u16, name: &'static str, value: &str) -> Response {
    let mut r = errors(status, "FAULT");
    r.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    r
}

fn located(status: u16, location: &str) -> Response {
    let mut r = answer(status, "");
    r.headers_mut().insert(header::LOCATION, HeaderValue::from_str(location).unwrap());
    r
}

/// A blob, or the part of it that was asked for.
pub(super) fn ranged(seen: &Seen, bytes: &Bytes) -> Response {
    let start = seen.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        None => answer(200, bytes.clone()),
        Some(start) => {
            let mut r = answer(206, bytes.slice(start..));
            *r.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            r.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::from_str(&range).unwrap());
            r
        }
    }
}

/// An answer that breaks off after `keep` bytes of its body although it announced all of them; `hang`: that goes silent.
pub(super) fn broken(whole: Response, keep: usize, length: usize, hang: bool) -> Response {
    let (mut parts, body) = whole.into_parts();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let pieces = futures_util::stream::unfold((Some(body), false), move |(body, ended)| async move {
        if let Some(body) = body {
            let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
            return Some((Ok(bytes.slice(..keep.min(bytes.len()))), (None, false)));
        }
        if ended {
            return None;
        }
        if hang {
            std::future::pending::<()>().await;
        }
        // what was written must reach the client before the connection is reset
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((Err(io::Error::other("made up")), (None, true)))
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}
