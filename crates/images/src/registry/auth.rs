//! How a registry says who may read, and how the right to read is got.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::Instant;

use super::{AGENT, Login, Repository, Token};
use crate::ImageError;

/// How long a token lasts that does not say it.
const TOKEN: u64 = 60;

/// How long before its end a token is not used any more: a request is on its way for a while.
const MARGIN: u64 = 10;

/// How long the answer to a name and a password is taken as known.
const BASIC: Duration = Duration::from_mins(5);

/// What a registry wants to see before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password.
    Basic,
    /// A token that is given out at `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The challenge in the headers of an answer that we understand, if there is one.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).into_iter();
        let mut found: Vec<_> = values
            .filter_map(|value| Self::parse(value.to_str().ok()?))
            .collect();
        // The token is worth less to whoever gets hold of it.
        found.sort_by_key(|challenge| *challenge == Self::Basic);
        found.into_iter().next()
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (key, value) in parameters(rest) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        realm.map(|realm| Self::Bearer {
            realm,
            service,
            scope,
        })
    }
}

/// Reads `key="value",key=value`.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim().trim_start_matches(',').trim().to_owned();
        let (value, after) = if let Some(quoted) = after.strip_prefix('"') {
            unquoted(quoted)
        } else {
            let (value, after) = after.split_once(',').unwrap_or((after, ""));
            (value.trim().to_owned(), after)
        };
        found.push((key, value));
        rest = after;
    }
    found
}

fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Repository {
    /// Answers a challenge of the registry itself; nobody else's is ever answered.
    pub(super) async fn log_in(
        &self,
        challenge: Option<Challenge>,
        login: Option<&Login>,
        wanted: Option<&str>,
    ) -> Result<Token, ImageError> {
        match challenge {
            None => Err(self.denied(&self.name, login)),
            Some(Challenge::Basic) => {
                // An identity token is no password.
                let login = login.filter(|login| login.identity_token().is_none());
                let login = login.ok_or_else(|| self.denied(&self.name, None))?;
                Ok(Token {
                    value: basic(login),
                    until: Instant::now() + BASIC,
                })
            }
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let scope = wanted.map(str::to_owned).or(scope);
                self.ask_for_token(&realm, service, scope, login).await
            }
        }
    }

    /// The address where a registry says that rights are given out.
    fn realm(&self, address: &str) -> Result<Uri, ImageError> {
        let what = "the right to read";
        let uri: Uri = address
            .parse()
            .map_err(|_| self.answered(what, "an address that cannot be used"))?;
        // Whoever speaks TLS does not send us and our password to somebody who does not.
        if self.base.starts_with("https:") && uri.scheme_str() != Some("https") {
            return Err(self.answered(what, "an address without TLS"));
        }
        Ok(uri)
    }

    async fn ask_for_token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
        login: Option<&Login>,
    ) -> Result<Token, ImageError> {
        let what = "the right to read";
        let unusable = || self.answered(what, "an address that cannot be used");
        let wanted = [("service", service), ("scope", scope)];
        let wanted = wanted
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        let identity = login.and_then(Login::identity_token);
        let request = if let Some(token) = identity {
            // OAuth 2: a token that lasts is exchanged for one that does not. It goes into the body,
            // because addresses are logged.
            let fixed = [
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", "bugle".to_owned()),
                ("refresh_token", token.to_owned()),
            ];
            let form = form(fixed.into_iter().chain(wanted));
            Request::post(self.realm(realm)?)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::from(form))
        } else {
            let mut address = realm.to_owned();
            let query = form(wanted);
            if !query.is_empty() {
                address.push(if address.contains('?') { '&' } else { '?' });
                address.push_str(&query);
            }
            let mut request = Request::get(self.realm(&address)?);
            if let Some(login) = login {
                request = request.header(AUTHORIZATION, basic(login));
            }
            request.body(Full::default())
        };
        let mut request = request.map_err(|_| unusable())?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.exchange(request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.denied(&self.name, login));
            }
            status => return Err(self.unexpected(what, status)),
        }
        let bytes = self.small(response, "a token").await?;
        // The text of a parser's complaint could hold the token.
        let wrong = || self.answered(what, "something that is no token");
        let given: Given = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        let token = given.token.or(given.access_token).ok_or_else(wrong)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| wrong())?;
        value.set_sensitive(true);
        let seconds = given.expires_in.unwrap_or(TOKEN).min(3600);
        Ok(Token {
            value,
            until: Instant::now() + Duration::from_secs(seconds.saturating_sub(MARGIN)),
        })
    }
}

/// Names and values as a form has them.
fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs = pairs.into_iter().map(|(key, value)| {
        let value = utf8_percent_encode(&value, NON_ALPHANUMERIC);
        format!("{key}={value}")
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn basic(login: &Login) -> HeaderValue {
    let pair = STANDARD.encode(format!("{}:{}", login.username, login.password));
    let mut value = HeaderValue::from_str(&format!("Basic {pair}"))
        .expect("base64 has no characters that a header may not have");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_challenge_that_gives_a_token_is_preferred() {
        let mut headers = HeaderMap::new();
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"r\""),
        );
        assert_eq!(Challenge::of(&headers), Some(Challenge::Basic));
        let bearer =
            "bearer realm=\"https://a.example/t\", service=s,scope=\"repository:a,b:pull\"";
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(bearer));
        assert_eq!(
            Challenge::of(&headers),
            Some(Challenge::Bearer {
                realm: "https://a.example/t".to_owned(),
                service: Some("s".to_owned()),
                scope: Some("repository:a,b:pull".to_owned()),
            })
        );
    }

    #[test]
    fn what_is_not_understood_is_no_challenge() {
        for text in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer scope=\"x\"",
            "Digest realm=\"r\"",
        ] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_parser(text in "(Bearer )?[ -~]{0,80}") {
            let _ = Challenge::parse(&text);
        }
    }
}
