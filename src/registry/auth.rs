//! What a server asks for before it answers, and the tokens that open it.
//!
//! A server that wants credentials says so in `WWW-Authenticate`: `Basic`, or `Bearer` with the address of a token
//! server (the realm). Tokens are kept for each set of scopes until shortly before they expire.

use super::{
    Error, TokenFile,
    credentials::{Credentials, Secret},
    token_file::Way,
    transport::{Exchange, Payload, Transport, authority, is_loopback},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Longest answer of a token server, in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// Life of a token that does not say how long it lives.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in the last part of its life.
const MARGIN: Duration = Duration::from_secs(10);
/// Tokens of files that are remembered, so that no error shows them.
const MAX_SECRETS: usize = 16;
/// Parameters of one challenge that are looked at.
const MAX_PARAMETERS: usize = 32;

/// One way in that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from the server at `realm`.
    Bearer {
        /// Address of the token server.
        realm: String,
        /// What it is to be asked for.
        service: Option<String>,
        /// The scopes that the refused request needs.
        scope: Option<String>,
    },
}

/// The challenge of an answer that is best to follow: a token rather than a password.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()) {
        for (scheme, parameters) in parse_challenges(value) {
            let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            match (scheme.as_str(), get("realm")) {
                ("bearer", Some(realm)) => {
                    return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
                }
                ("basic", _) => found = Some(Challenge::Basic),
                _ => {}
            }
        }
    }
    found
}

/// Splits a header into schemes (lower case) with their parameters (names in lower case, quotes undone).
fn parse_challenges(value: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found: Vec<(String, Vec<(String, String)>)> = vec![];
    let mut rest = value.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() && found.len() < MAX_PARAMETERS {
        let end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(text) = after.trim_start().strip_prefix('=') {
            let text = text.trim_start();
            let (value, after) = match text.strip_prefix('"') {
                Some(quoted) => unquote(quoted),
                None => {
                    let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
                    (text.get(..end).unwrap_or_default().to_owned(), text.get(end..).unwrap_or_default())
                }
            };
            if let Some((_, parameters)) = found.last_mut()
                && parameters.len() < MAX_PARAMETERS
            {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            if !word.is_empty() {
                found.push((word.to_ascii_lowercase(), vec![]));
            }
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    found
}

/// The text up to the closing quote, escapes undone, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (value, text.get(i + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// What a request must be allowed to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    /// The repository whose credentials are used; empty for the server as a whole.
    pub(super) repository: String,
    /// Scopes of a token: `repository:name:pull`.
    pub(super) scopes: BTreeSet<String>,
}

impl Access {
    /// Reading a repository.
    pub(super) fn pull(repository: &str) -> Access {
        Access { repository: repository.to_owned(), scopes: [format!("repository:{repository}:pull")].into() }
    }

    /// Writing to a repository.
    pub(super) fn push(repository: &str) -> Access {
        Access { repository: repository.to_owned(), scopes: [format!("repository:{repository}:pull,push")].into() }
    }

    /// The same, and reading another repository besides.
    pub(super) fn and_pull(mut self, repository: &str) -> Access {
        self.scopes.insert(format!("repository:{repository}:pull"));
        self
    }
}

struct Token {
    value: String,
    until: Instant,
}

#[derive(Default)]
struct State {
    tokens: HashMap<BTreeSet<String>, Token>,
    /// What servers asked for beyond the scopes that they were expected to want.
    extra: HashMap<BTreeSet<String>, BTreeSet<String>>,
}

/// The way into one server.
pub(super) struct Auth {
    registry: String,
    credentials: Arc<Credentials>,
    state: tokio::sync::Mutex<State>,
    /// What tokens in files were exchanged for, by setting.
    exchanged: tokio::sync::Mutex<HashMap<String, (Secret, Instant)>>,
    /// Tokens of files that were shown.
    shown: Mutex<VecDeque<String>>,
}

/// The server that wants to know who asks.
pub(super) struct Door<'a> {
    pub(super) transport: &'a Transport,
    pub(super) doing: &'a str,
    /// Whether certificates are checked.
    pub(super) verify: bool,
    /// Whether the registry itself is reached over plain HTTP.
    pub(super) plain: bool,
}

impl Auth {
    pub(super) fn new(registry: &str, credentials: Arc<Credentials>) -> Auth {
        Auth {
            registry: registry.to_owned(),
            credentials,
            state: tokio::sync::Mutex::default(),
            exchanged: tokio::sync::Mutex::default(),
            shown: Mutex::default(),
        }
    }

    async fn secret(&self, door: &Door<'_>, access: &Access) -> Result<Option<Secret>, Error> {
        if let Some(file) = self.credentials.token_file(&self.registry, &access.repository) {
            return self.of_file(door, file).await.map(Some);
        }
        let (credentials, registry, repository) =
            (self.credentials.clone(), self.registry.clone(), access.repository.clone());
        // reads files and may run a helper program
        tokio::task::spawn_blocking(move || credentials.find(&registry, &repository))
            .await
            .map_err(|e| Error::Setup(std::io::Error::other(e)))?
    }

    /// The `Authorization` header for a request; `None` where nothing is asked for or nothing is known.
    pub(super) async fn header(
        &self,
        door: &Door<'_>,
        challenge: &Challenge,
        access: &Access,
    ) -> Result<Option<HeaderValue>, Error> {
        match challenge {
            Challenge::Basic => match self.secret(door, access).await? {
                Some(Secret::Password { user, password }) => Ok(Some(basic(&user, &password))),
                Some(Secret::Bearer(token)) => Ok(bearer(&token)),
                Some(Secret::Identity(_) | Secret::Subject { .. }) | None => Ok(None),
            },
            Challenge::Bearer { realm, service, .. } => {
                // held while a token is fetched, so that parallel requests share one
                let mut state = self.state.lock().await;
                if let Some(token) = state.tokens.get(&access.scopes)
                    && token.until > Instant::now()
                {
                    return Ok(bearer(&token.value));
                }
                let secret = self.secret(door, access).await?;
                if let Some(Secret::Bearer(token)) = &secret {
                    return Ok(bearer(token));
                }
                let mut scopes = access.scopes.clone();
                scopes.extend(state.extra.get(&access.scopes).into_iter().flatten().cloned());
                let wish = Wish { realm, service: service.as_deref(), scopes: &scopes };
                let token =
                    self.fetch(door, wish, secret).await.map_err(|e| self.explained(e, access, &[400, 401, 403]))?;
                let header = bearer(&token.value);
                state.tokens.insert(access.scopes.clone(), token);
                Ok(header)
            }
        }
    }

    /// Takes note of a refusal: the token for this access is of no use, and the server may want further scopes.
    pub(super) async fn refused(&self, challenge: Option<&Challenge>, access: &Access) {
        if let Some(file) = self.credentials.token_file(&self.registry, &access.repository) {
            self.exchanged.lock().await.remove(&file.to_string());
        }
        let mut state = self.state.lock().await;
        state.tokens.remove(&access.scopes);
        if let Some(Challenge::Bearer { scope: Some(scope), .. }) = challenge {
            let asked: BTreeSet<String> = scope.split_whitespace().take(MAX_PARAMETERS).map(str::to_owned).collect();
            let more: BTreeSet<String> = asked.difference(&access.scopes).cloned().collect();
            if !more.is_empty() && !access.scopes.is_empty() {
                state.extra.insert(access.scopes.clone(), more);
            }
        }
    }

    /// An error without the tokens that were shown; where its status says that one was refused, with the file of that.
    pub(super) fn explained(&self, e: Error, access: &Access, refusals: &[u16]) -> Error {
        let Some(file) = self.credentials.token_file(&self.registry, &access.repository) else { return e };
        let refused = e.status().is_some_and(|status| refusals.contains(&status));
        self.of_exchange(e, refused.then_some(&*file))
    }

    /// What a file's token comes to.
    async fn of_file(&self, door: &Door<'_>, file: Arc<TokenFile>) -> Result<Secret, Error> {
        // held while a token is exchanged, so that parallel requests share the result
        let mut exchanged = self.exchanged.lock().await;
        if let Some((secret, until)) = exchanged.get(&file.to_string())
            && *until > Instant::now()
        {
            return Ok(secret.clone());
        }
        let reading = file.clone();
        let token = tokio::task::spawn_blocking(move || reading.read())
            .await
            .map_err(|e| Error::Setup(std::io::Error::other(e)))??;
        self.hide(&token);
        let (secret, until) = match &file.way {
            Way::Password { user } => return Ok(Secret::Password { user: user.clone(), password: token }),
            Way::Bearer => return Ok(Secret::Bearer(token)),
            Way::Identity => return Ok(Secret::Identity(token)),
            Way::Exchange { at: None, audience } => return Ok(Secret::Subject { token, audience: audience.clone() }),
            Way::Exchange { at: Some(at), audience } => {
                let form = encoded(&exchange(&token, audience.as_deref()));
                let got = self.ask(door, at.clone(), trust(door, at), (HeaderMap::new(), Some(form))).await;
                let got = got.map_err(|e| self.of_exchange(e, Some(&file)))?;
                (Secret::Bearer(got.value), got.until)
            }
            Way::Robot { at, user } => {
                let headers = HeaderMap::from_iter([(AUTHORIZATION, basic(user, &token))]);
                let got = self.ask(door, at.clone(), trust(door, at), (headers, None)).await;
                let got = got.map_err(|e| self.of_exchange(e, Some(&file)))?;
                (Secret::Password { user: user.clone(), password: got.value }, got.until)
            }
        };
        if let Secret::Bearer(token) | Secret::Password { password: token, .. } = &secret {
            self.hide(token);
        }
        exchanged.insert(file.to_string(), (secret.clone(), until));
        Ok(secret)
    }

    /// Sees to it that no error shows a token.
    fn hide(&self, token: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if !shown.iter().any(|known| known == token) {
            shown.truncate(MAX_SECRETS - 1);
            shown.push_front(token.to_owned());
        }
    }

    /// The same for an error of what exchanges this file's token.
    fn of_exchange(&self, e: Error, file: Option<&TokenFile>) -> Error {
        e.with_token_of(file.map(|file| file.path().to_owned()), &self.shown())
    }

    /// Tokens of files that were shown to servers, who may repeat them.
    pub(super) fn shown(&self) -> Vec<String> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn broken(&self, door: &Door<'_>, why: String) -> Error {
        Error::Protocol { doing: door.doing.to_owned(), host: self.registry.clone(), why }
    }

    async fn fetch(&self, door: &Door<'_>, wish: Wish<'_>, secret: Option<Secret>) -> Result<Token, Error> {
        let broken = |why: String| self.broken(door, why);
        let mut url = Url::parse(wish.realm).map_err(|e| broken(format!("token server `{}`: {e}", wish.realm)))?;
        let mut headers = HeaderMap::new();
        let mut form = None;
        let scopes: Vec<&str> = wish.scopes.iter().map(String::as_str).collect();
        match &secret {
            Some(Secret::Identity(refresh_token)) => {
                form = Some(vec![("grant_type", "refresh_token"), ("refresh_token", refresh_token)]);
            }
            Some(Secret::Subject { token, audience }) => {
                form = Some(exchange(token, audience.as_deref().or(wish.service)))
            }
            _ => {
                let mut query = url.query_pairs_mut();
                if let Some(service) = wish.service {
                    query.append_pair("service", service);
                }
                for scope in &scopes {
                    query.append_pair("scope", scope);
                }
                if let Some(Secret::Password { user, password }) = &secret {
                    query.append_pair("account", user);
                    headers.insert(AUTHORIZATION, basic(user, password));
                }
            }
        }
        let scope = scopes.join(" ");
        let form = form.map(|mut form| {
            form.extend([("service", wish.service.unwrap_or_default()), ("scope", &scope)]);
            encoded(&form)
        });
        self.ask(door, url, (door.verify, door.plain || !door.verify), (headers, form)).await
    }

    /// Asks a server for a token: with a form, or by the address alone; whether its certificate is checked, and whether plain
    /// HTTP will do.
    async fn ask(
        &self,
        door: &Door<'_>,
        url: Url,
        (verify, plain): (bool, bool),
        (mut headers, form): (HeaderMap, Option<String>),
    ) -> Result<Token, Error> {
        let broken = |why: String| self.broken(door, why);
        let host = authority(&url);
        if url.scheme() != "https" && !(url.scheme() == "http" && plain) {
            let at = super::transport::without_query(&url);
            return Err(broken(format!("refusing to ask for a token at `{at}`: it is not https")));
        }
        let (method, payload) = match form {
            None => (Method::GET, Payload::Empty),
            Some(form) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                (Method::POST, Payload::Bytes(form.into()))
            }
        };
        let exchange = Exchange { doing: door.doing, host: &host, method, url, headers, payload };
        let answer = door.transport.exchange(exchange, verify).await?;
        if !answer.status().is_success() {
            return Err(answer.into_error().await);
        }
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            token: Option<String>,
            #[serde(default)]
            access_token: Option<String>,
            #[serde(default)]
            expires_in: Option<f64>,
        }
        let body = answer.body(MAX_TOKEN_BYTES).await?;
        // the text of a parse error could quote the token
        let parsed: Answer =
            serde_json::from_slice(&body).map_err(|_| broken(format!("token server `{host}` sent no valid JSON")))?;
        let value = parsed
            .token
            .filter(|t| !t.is_empty())
            .or(parsed.access_token)
            .filter(|t| !t.is_empty())
            .ok_or_else(|| broken(format!("token server `{host}` sent no token")))?;
        let life = parsed
            .expires_in
            .filter(|s| s.is_finite() && *s > 0.0)
            .map_or(DEFAULT_LIFE, |s| Duration::from_secs_f64(s.min(86_400.0)));
        let useful = life.saturating_sub(MARGIN).max(life / 2);
        Ok(Token { value, until: Instant::now() + useful })
    }
}

struct Wish<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scopes: &'a BTreeSet<String>,
}

/// The form that asks for a token to be exchanged, by RFC 8693.
fn exchange<'a>(token: &'a str, audience: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
    let mut form = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", token),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
    ];
    form.extend(audience.map(|audience| ("audience", audience)));
    form
}

/// The text of a form.
fn encoded(form: &[(&str, &str)]) -> String {
    let address = Url::parse("http://form/").map(|mut address| {
        address.query_pairs_mut().append_pair("client_id", "rbuild").extend_pairs(form);
        address.query().unwrap_or_default().to_owned()
    });
    address.unwrap_or_default()
}

/// Whether certificates are checked, and whether plain HTTP will do, for a server that the user has named. It is another one
/// than the registry, so that only this machine's are trusted without.
fn trust(door: &Door<'_>, at: &Url) -> (bool, bool) {
    let here = is_loopback(&authority(at));
    (door.verify || !here, here)
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    sensitive(&format!("Basic {encoded}")).unwrap_or(HeaderValue::from_static(""))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for v in values {
            headers.append(WWW_AUTHENTICATE, v.parse().unwrap());
        }
        challenge(&headers)
    }

    #[test]
    fn challenges_are_parsed() {
        let token = |service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: "https://a.test/t?x=1".into(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (values, want) in [
            (vec![r#"Basic realm="x""#], Some(Challenge::Basic)),
            (vec!["basic"], Some(Challenge::Basic)),
            (
                vec![r#"Bearer realm="https://a.test/t?x=1",service="s",scope="repository:a:pull,push""#],
                token(Some("s"), Some("repository:a:pull,push")),
            ),
            (vec![r#"Basic realm="a, b", bearer Realm = "https://a.test/t?x=1" , service=s"#], token(Some("s"), None)),
            (vec![r#"Basic realm="x""#, r#"Bearer realm="https://a.test/t?x=1""#], token(None, None)),
            (vec![r#"Bearer realm="https://a.test/t?x=1",service="a\"b""#], token(Some("a\"b"), None)),
            (vec!["Bearer"], None),
            (vec!["Negotiate", "Digest realm=\"x\""], None),
            (
                vec![r#"Bearer realm="unclosed"#],
                Some(Challenge::Bearer { realm: "unclosed".into(), service: None, scope: None }),
            ),
            (vec!["=,=,,\"\"= = ="], None),
            (vec![], None),
        ] {
            assert_eq!(best(&values), want, "{values:?}");
        }
    }
}
