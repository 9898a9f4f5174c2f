//! What a server asks for before it answers, and the tokens that open it.
//!
//! A server that wants credentials says so in `WWW-Authenticate`: `Basic`, or `Bearer` with the address of a token
//! server (the realm). Tokens are kept for each set of scopes until shortly before they expire.

use super::{
    Error,
    credentials::{Credentials, Secret},
    transport::{Exchange, Payload, Transport},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

/// Longest answer of a token server, in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// Life of a token that does not say how long it lives.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in the last part of its life.
const MARGIN: Duration = Duration::from_secs(10);
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
        Auth { registry: registry.to_owned(), credentials, state: tokio::sync::Mutex::default() }
    }

    async fn secret(&self, access: &Access) -> Result<Option<Secret>, Error> {
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
            Challenge::Basic => match self.secret(access).await? {
                Some(Secret::Password { user, password }) => Ok(Some(basic(&user, &password))),
                Some(Secret::Bearer(token)) => Ok(bearer(&token)),
                Some(Secret::Identity(_)) | None => Ok(None),
            },
            Challenge::Bearer { realm, service, .. } => {
                // held while a token is fetched, so that parallel requests share one
                let mut state = self.state.lock().await;
                if let Some(token) = state.tokens.get(&access.scopes)
                    && token.until > Instant::now()
                {
                    return Ok(bearer(&token.value));
                }
                let secret = self.secret(access).await?;
                if let Some(Secret::Bearer(token)) = &secret {
                    return Ok(bearer(token));
                }
                let mut scopes = access.scopes.clone();
                scopes.extend(state.extra.get(&access.scopes).into_iter().flatten().cloned());
                let wish = Wish { realm, service: service.as_deref(), scopes: &scopes };
                let token = self.fetch(door, wish, secret).await?;
                let header = bearer(&token.value);
                state.tokens.insert(access.scopes.clone(), token);
                Ok(header)
            }
        }
    }

    /// Takes note of a refusal: the token for this access is of no use, and the server may want further scopes.
    pub(super) async fn refused(&self, challenge: Option<&Challenge>, access: &Access) {
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

    async fn fetch(&self, door: &Door<'_>, wish: Wish<'_>, secret: Option<Secret>) -> Result<Token, Error> {
        let broken = |why: String| Error::Protocol { doing: door.doing.to_owned(), host: self.registry.clone(), why };
        let mut url = Url::parse(wish.realm).map_err(|e| broken(format!("token server `{}`: {e}", wish.realm)))?;
        if url.scheme() != "https" && !(url.scheme() == "http" && (door.plain || !door.verify)) {
            return Err(broken(format!("refusing to ask for a token at `{}`: it is not https", wish.realm)));
        }
        let mut headers = HeaderMap::new();
        let mut method = Method::GET;
        let mut payload = Payload::Empty;
        let scopes: Vec<&str> = wish.scopes.iter().map(String::as_str).collect();
        if let Some(Secret::Identity(refresh_token)) = &secret {
            let mut form = Url::parse("http://form/").map_err(|e| broken(e.to_string()))?;
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", wish.service.unwrap_or_default())
                .append_pair("client_id", "rbuild")
                .append_pair("scope", &scopes.join(" "))
                .append_pair("refresh_token", refresh_token);
            method = Method::POST;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            payload = Payload::Bytes(form.query().unwrap_or_default().to_owned().into());
        } else {
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
        let host = super::transport::authority(&url);
        let exchange = Exchange { doing: door.doing, host: &host, method, url, headers, payload };
        let answer = door.transport.exchange(exchange, door.verify).await?;
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
