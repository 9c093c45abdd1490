//! The name by which a registry is called.

/// The name of the registry at `host` and `port`: `host`, or `host:port` unless the port is the
/// scheme's own (443 with TLS, 80 without). Lower case; an IPv6 host in brackets. It is what a
/// browser sends as `Host` and what `URL.host` says.
pub fn registry_name(host: &str, port: Option<u16>, tls: bool) -> String {
    let host = host.to_ascii_lowercase();
    match port {
        Some(port) if port != if tls { 443 } else { 80 } => format!("{host}:{port}"),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::registry_name;

    #[test]
    fn the_default_port_is_left_out() {
        assert_eq!(registry_name("Reg.Example", Some(443), true), "reg.example");
        assert_eq!(registry_name("reg.example", None, false), "reg.example");
        assert_eq!(registry_name("reg.example", Some(443), false), "reg.example:443");
        assert_eq!(registry_name("[::1]", Some(8080), false), "[::1]:8080");
    }
}
