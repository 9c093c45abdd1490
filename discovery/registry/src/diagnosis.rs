//! What `peerloom doctor` is told about the registry.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::Method;
use peerloom_core::Diagnostic;

use crate::health::Part;
use crate::shared::Shared;

/// A clock that is off by more makes records expire too early or heartbeats fail.
const SKEW: Duration = Duration::from_secs(30);

/// Looks at the registry.
pub(crate) async fn diagnose(shared: &Shared) -> Vec<Diagnostic> {
    let name = &shared.caller.name;
    let begun = Instant::now();
    let answer = shared.caller.exchange("healthz", Method::GET, "/healthz", Bytes::new()).await;
    let took = begun.elapsed();
    let (status, date) = match answer {
        Ok((status, date, _)) => (status, date),
        Err(error) => {
            let remedy = "check `url`, the registry itself, and whether a firewall lets the connection through";
            return vec![Diagnostic::bad("registry", error.for_people(), remedy)];
        }
    };
    let mut diagnostics = vec![match status.is_success() {
        true => Diagnostic::good("registry", format!("{name} answers in {} ms", took.as_millis())),
        false => {
            let detail = format!("{name} answers {status}");
            Diagnostic::bad("registry", detail, "check `url`: this doesn't look like a registry")
        }
    }];
    if let Some(date) = date {
        diagnostics.push(clock(date, SystemTime::now()));
    }
    let connected = shared.status.borrow().connected;
    diagnostics.push(match shared.health.trouble(Part::Socket) {
        _ if connected => Diagnostic::good("registry socket", "connected: this device can be found and signaled"),
        Some(error) => {
            Diagnostic::bad("registry socket", error.for_people(), "see what the registry says, and its log")
        }
        None => Diagnostic::note("registry socket", "not connected yet", "start the node; it connects by itself"),
    });
    if let Some(error) = shared.health.trouble(Part::Record) {
        let remedy = "others find this device's earlier record meanwhile; see what the registry says";
        diagnostics.push(Diagnostic::bad("registry record", error.for_people(), remedy));
    }
    diagnostics
}

fn clock(theirs: SystemTime, ours: SystemTime) -> Diagnostic {
    let (skew, side) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if skew <= SKEW {
        return Diagnostic::good("clock", "as the registry's");
    }
    let detail = format!("this machine's clock is {} s {side} the registry's", skew.as_secs());
    Diagnostic::bad(
        "clock",
        detail,
        "set the clock, best by NTP; with a wrong one records expire too early or too late",
    )
}

#[cfg(test)]
mod tests {
    use peerloom_core::DiagnosticStatus;

    use super::*;

    #[test]
    fn a_clock_that_is_off_is_noticed() {
        let now = SystemTime::now();
        assert_eq!(clock(now, now + Duration::from_secs(20)).status, DiagnosticStatus::Good);
        let off = clock(now, now + Duration::from_secs(90));
        assert_eq!(off.status, DiagnosticStatus::Bad);
        assert!(off.detail.contains("90 s ahead of"), "{off:?}");
        assert!(clock(now + Duration::from_secs(90), now).detail.contains("90 s behind"));
    }
}
