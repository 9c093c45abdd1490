//! Which registry: what stands in its URL.

use std::str::FromStr;

use peerloom_registry_protocol::limits;
use peerloom_registry_protocol::name::registry_name;

/// A registry's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    /// A name or an IP address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What it is called: the registry's challenge must say so.
    pub(crate) name: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a registry's URL such as \"https://registry.example\"");
        if text.is_empty() {
            return Err("say which registry, such as \"https://registry.example\"".into());
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
            }
            None => {
                let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
                let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
                if host.is_empty() || !host.bytes().all(good) {
                    return Err(wrong());
                }
                (host, Some(port))
            }
        };
        let port = match port.ok_or_else(wrong)? {
            "" => None,
            digits => Some(digits.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
        };
        let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let name = registry_name(&shown, port, tls);
        if name.len() > limits::REGISTRY_NAME {
            return Err(wrong());
        }
        Ok(Self { tls, host: host.to_owned(), port: port.unwrap_or(if tls { 443 } else { 80 }), name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_strictly() {
        let read = |text: &str| text.parse::<Endpoint>().map(|e| (e.tls, e.host, e.port, e.name));
        let good = |tls, host: &str, port, name: &str| Ok((tls, host.to_owned(), port, name.to_owned()));
        assert_eq!(read("https://Reg.Example/"), good(true, "Reg.Example", 443, "reg.example"));
        assert_eq!(read("http://127.0.0.1:7400"), good(false, "127.0.0.1", 7400, "127.0.0.1:7400"));
        assert_eq!(read("http://[::1]:80"), good(false, "::1", 80, "[::1]"));
        for wrong in [
            "",
            "reg.example",
            "ftp://reg.example",
            "https://",
            "https://reg.example/path",
            "https://user@reg.example",
            "https://reg.example:0",
            "https://reg.example:99999",
            "https://[::1",
            "https://[x]:1",
            "https://[::1]1",
            "https://reg example",
            "https://reg.example?x",
            "https://a\r\nb",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
