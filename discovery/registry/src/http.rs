//! Calls over HTTP: one connection each, since there are few; bounded in length and in time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use peerloom_core::sync::lock;
use peerloom_core::{Error, ErrorKind, Result, Retry};
use peerloom_registry_protocol::http::{ErrorBody, Failure};
use peerloom_registry_protocol::{code, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::Connector;

/// How long a call may take, from connecting to the last byte: less than the 5 s that an engine waits for a
/// look-up, so that what takes too long is known to have failed.
const PATIENCE: Duration = Duration::from_secs(3);
/// No registry is left alone for longer, whatever it wants.
const LONGEST_REST: Duration = Duration::from_secs(15 * 60);
/// Most of a registry's own words that are shown, in characters.
const SHOWN: usize = 200;

/// Makes calls, and counts them.
pub(crate) struct Caller {
    pub(crate) connector: Connector,
    pub(crate) name: String,
    token: Option<String>,
    calls: AtomicU64,
    /// Until when the registry wants to be left alone.
    rest: Mutex<Option<Instant>>,
}

/// What a registry answers.
pub(crate) enum Answer<T> {
    /// What was asked for.
    Found(T),
    /// It failed, and says why.
    Failed(Failure),
}

impl<T> Answer<T> {
    /// What was asked for in another form.
    pub(crate) fn map<U>(self, form: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Found(found) => Answer::Found(form(found)),
            Self::Failed(failure) => Answer::Failed(failure),
        }
    }
}

impl Caller {
    pub(crate) fn new(connector: Connector, name: String, token: Option<String>) -> Self {
        Self { connector, name, token, calls: AtomicU64::new(0), rest: Mutex::default() }
    }

    /// How long the registry wants to be left alone from now on.
    pub(crate) fn rest(&self) -> Duration {
        lock(&self.rest).map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default()
    }

    fn wants_rest(&self, time: Duration) {
        let until = Instant::now() + time.min(LONGEST_REST);
        let mut rest = lock(&self.rest);
        *rest = (*rest).max(Some(until));
    }

    /// How many calls were made.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Asks for something. `call` says what, for the figures.
    pub(crate) async fn get<T: DeserializeOwned>(&self, call: &'static str, path: &str) -> Result<Answer<T>> {
        self.call(call, Method::GET, path, Bytes::new()).await
    }

    /// Tells something.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        call: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>> {
        let bug = |e| Error::new(ErrorKind::Internal, "registry", call, "a body that is no JSON").with_source(e);
        self.call(call, Method::POST, path, serde_json::to_vec(body).map_err(bug)?.into()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer<T>> {
        let (status, body) = self.exchange(call, method, path, body).await.map(|(status, _, body)| (status, body))?;
        let garbage = |e: serde_json::Error| {
            let advice = format!("{} doesn't answer as a registry does; is the URL right?", self.name);
            Error::new(ErrorKind::Malformed, "registry", call, advice).with_retry(Retry::Later).with_source(e)
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map(Answer::Found).map_err(garbage);
        }
        let told: ErrorBody = serde_json::from_slice(&body).map_err(garbage)?;
        Ok(Answer::Failed(told.error))
    }

    /// One request and its answer, with the registry's clock if it says it.
    pub(crate) async fn exchange(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Option<SystemTime>, Bytes)> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("peerloom_registry_calls_total", "call" => call).increment(1);
        let late = |_| {
            let advice = format!("the registry {} doesn't answer in time; try again", self.name);
            Error::new(ErrorKind::Timeout, "registry", call, advice)
        };
        tokio::time::timeout(PATIENCE, self.request(call, method, path, body)).await.map_err(late)?
    }

    async fn request(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Option<SystemTime>, Bytes)> {
        let broken = |e: hyper::Error| {
            let advice = format!("the connection to the registry {} broke off; try again", self.name);
            Error::new(ErrorKind::Unreachable, "registry", call, advice).with_source(e)
        };
        let bug = |e: hyper::http::Error| {
            Error::new(ErrorKind::Internal, "registry", call, "a request that is no HTTP").with_source(e)
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.name);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(body)).map_err(bug)?;
        let stream = TokioIo::new(self.connector.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(stream)
            .await
            .map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            let too_long = |e: Box<dyn std::error::Error + Send + Sync>| {
                let advice = format!("the registry {} answers more than {} bytes", self.name, limits::RESPONSE);
                if e.is::<http_body_util::LengthLimitError>() {
                    return Error::new(ErrorKind::TooLarge, "registry", call, advice).with_retry(Retry::Later);
                }
                let advice = format!("the connection to the registry {} broke off; try again", self.name);
                Error::new(ErrorKind::Unreachable, "registry", call, advice)
            };
            let body = Limited::new(body, limits::RESPONSE).collect().await.map_err(too_long)?.to_bytes();
            // A proxy in between says it in this way only.
            if matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
                && let Some(seconds) = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok())
            {
                self.wants_rest(Duration::from_secs(seconds));
            }
            let date = head.headers.get(DATE).and_then(http_date);
            Ok((head.status, date, body))
        };
        // Driven here, so that nothing is left behind when the call is abandoned.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            _ = &mut connection => exchange.await,
        }
    }

    /// The error for a failure that the registry told of.
    pub(crate) fn refusal(&self, operation: &'static str, failure: &Failure) -> Error {
        if let Some(ms) = failure.retry_after_ms {
            self.wants_rest(Duration::from_millis(ms));
        }
        let kind = match failure.code.as_str() {
            code::RATE_LIMITED | code::OVERLOADED | code::TIMEOUT | code::INTERNAL => ErrorKind::Overloaded,
            code::NOT_FOUND => ErrorKind::NotFound,
            _ => ErrorKind::Refused,
        };
        let said = clean(&failure.message);
        Error::new(kind, "registry", operation, format!("the registry {} says: {said}", self.name))
    }
}

/// A registry's words, safe to show.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// A time as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
fn http_date(value: &HeaderValue) -> Option<SystemTime> {
    let mut words = value.to_str().ok()?.split([' ', ':']).skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = i64::try_from(names.iter().position(|month| *month == name)?).ok()? + 1;
    let mut number = || words.next()?.parse::<i64>().ok().filter(|n| (0..10_000).contains(n));
    let (year, hour, minute, second) = (number()?, number()?, number()?, number()?);
    // Days since the epoch, by counting years from March (Howard Hinnant's days_from_civil).
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        let read = |text: &'static str| http_date(&HeaderValue::from_static(text));
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), at(784_111_777));
        assert_eq!(read("Thu, 29 Feb 2024 00:00:00 GMT"), at(1_709_164_800));
        for garbage in ["", "yesterday", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 99999999999 08:49:37 GMT"] {
            assert_eq!(read(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn a_registrys_words_are_cleaned() {
        assert_eq!(clean("no\u{1b}[31m\n way"), "no[31m way");
        assert_eq!(clean(&"x".repeat(10_000)).len(), SHOWN);
    }
}
