//! What arguments are made of: how values are read, and what is said of those that are none.

pub(crate) fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| "it takes an IP address and a port, such as 127.0.0.1:9464".into())
}

pub(crate) fn count<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| large_or(text, "it takes a whole number from 1 on"))
}

pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| large_or(text, "it takes a whole number"))
}

/// What is wrong with a number.
fn large_or(text: &str, other: &str) -> String {
    let digits = text.trim_start_matches('0');
    let large = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if large { "the number is too large".into() } else { other.into() }
}

pub(crate) fn lifetime(text: &str) -> Result<std::time::Duration, String> {
    let lifetime = duration(text)?;
    let good = peerloom::INVITATION_LIFETIME.contains(&lifetime);
    good.then_some(lifetime).ok_or_else(|| "it takes from 1ms to 365d".into())
}

pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let parsed = text.parse::<peerloom::core::kinds::DurationText>();
    parsed.map(|duration| duration.0).map_err(|_| "it takes a duration, such as 500ms, 90m or 7d".into())
}
