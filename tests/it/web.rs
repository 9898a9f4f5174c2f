//! A web server for tests, on a free port of the loopback interface: files that a test puts there, and repositories through
//! git's own `http-backend`. It remembers what it was asked for.

use crate::server::Server;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What is behind a path.
#[derive(Clone, Default)]
pub struct Page {
    pub body: Vec<u8>,
    /// Status line and headers that are not the usual ones.
    pub status: Option<&'static str>,
    pub headers: Vec<(&'static str, String)>,
    /// After the head and half of the body, nothing more comes.
    pub stalls: bool,
    /// The first time, the connection ends after half of the body.
    pub breaks: bool,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Asked {
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct State {
    pages: Mutex<BTreeMap<String, Page>>,
    asked: Mutex<Vec<Asked>>,
    repositories: Mutex<Option<PathBuf>>,
    login: Mutex<Option<String>>,
}

/// The server; it ends when this goes away.
pub struct Web {
    state: Arc<State>,
    server: Server,
}

impl Web {
    pub fn start() -> Web {
        let state = Arc::new(State::default());
        Web { server: Server::start(state.clone(), answer), state }
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.server.port)
    }

    pub fn put(&self, path: &str, page: Page) {
        self.state.pages.lock().expect("pages").insert(path.to_owned(), page);
    }

    /// What is behind each path now, also what others put there.
    pub fn pages(&self) -> BTreeMap<String, Page> {
        self.state.pages.lock().expect("pages").clone()
    }

    /// Serves the repositories in a directory below `/git/`.
    pub fn serve_git(&self, directory: PathBuf) {
        *self.state.repositories.lock().expect("repositories") = Some(directory);
    }

    /// From now on, this is what the header `Authorization` must say.
    pub fn demand_login(&self, header: &str) {
        *self.state.login.lock().expect("login") = Some(header.to_owned());
    }

    /// What was asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.asked.lock().expect("requests"))
    }
}

fn answer(stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        input.read_line(&mut header)?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let mut body = vec![];
    if let Some(length) = headers.get("content-length").and_then(|n| n.parse().ok()) {
        input.by_ref().take(length).read_to_end(&mut body)?;
    }
    let asked = Asked { line: line.trim_end().to_owned(), headers, body };
    state.asked.lock().expect("requests").push(asked.clone());
    let login = state.login.lock().expect("login").clone();
    if login.is_some_and(|login| asked.headers.get("authorization") != Some(&login)) {
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return output.write_all(head.as_bytes());
    }
    let target = asked.line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let repositories = state.repositories.lock().expect("repositories").clone();
    if let (Some(path), Some(root)) = (path.strip_prefix("/git/"), repositories) {
        return git(&asked, path, query, &root, output);
    }
    if asked.line.starts_with("PUT ") {
        let page = Page { body: asked.body, ..Page::default() };
        state.pages.lock().expect("pages").insert(path.to_owned(), page);
        return output.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let page = state.pages.lock().expect("pages").get(path).cloned();
    let page = page.unwrap_or(Page { status: Some("404 Not Found"), ..Page::default() });
    let tag = page.headers.iter().find(|(name, _)| *name == "ETag").map(|(_, tag)| tag.clone());
    let same = tag.is_some() && asked.headers.get("if-none-match") == tag.as_ref();
    let status = if same { "304 Not Modified" } else { page.status.unwrap_or("200 OK") };
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in &page.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if same {
        return output.write_all(format!("{head}\r\n").as_bytes());
    }
    output.write_all(format!("{head}Content-Length: {}\r\n\r\n", page.body.len()).as_bytes())?;
    if asked.line.starts_with("HEAD ") {
        return Ok(());
    }
    if page.stalls {
        output.write_all(&page.body[..page.body.len() / 2])?;
        // Until the other side is gone.
        return input.read_to_end(&mut vec![]).map(drop);
    }
    if page.breaks {
        state.pages.lock().expect("pages").entry(path.to_owned()).and_modify(|page| page.breaks = false);
        return output.write_all(&page.body[..page.body.len() / 2]);
    }
    output.write_all(&page.body)
}

/// Hands a request to `git http-backend`, as a web server would.
fn git(asked: &Asked, path: &str, query: &str, root: &PathBuf, mut output: TcpStream) -> std::io::Result<()> {
    let mut command = Command::new("git");
    // The repositories belong to the user of the test, and this process may be root.
    command
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("PATH_INFO", format!("/{path}")).env("QUERY_STRING", query).env("REMOTE_ADDR", "127.0.0.1");
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    command.env("REQUEST_METHOD", asked.line.split(' ').next().unwrap_or_default());
    for (header, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        if let Some(value) = asked.headers.get(header) {
            command.env(variable, value);
        }
    }
    command.env("CONTENT_LENGTH", asked.body.len().to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().expect("piped");
    let body = asked.body.clone();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&body)));
    let mut answer = vec![];
    child.stdout.take().expect("piped").read_to_end(&mut answer)?;
    child.wait()?;
    writer.join().expect("writer");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK");
    let rest: Vec<&str> = head.lines().filter(|l| !l.starts_with("Status: ")).collect();
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{}\r\n\r\n", rest.join("\r\n"));
    output.write_all(head.as_bytes())?;
    output.write_all(answer.get(end + 4..).unwrap_or_default())
}
