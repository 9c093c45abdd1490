//! What `peerloom doctor` is told about the registry.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::Method;
use peerloom_core::Finding;

use crate::health::Part;
use crate::shared::Shared;

/// A clock that is off by more makes records expire too early or heartbeats fail.
const SKEW: Duration = Duration::from_secs(30);

/// Looks at the registry.
pub(crate) async fn diagnose(shared: &Shared) -> Vec<Finding> {
    let name = &shared.caller.name;
    let begun = Instant::now();
    let answer = shared.caller.exchange("healthz", Method::GET, "/healthz", Bytes::new()).await;
    let took = begun.elapsed();
    let (status, date) = match answer {
        Ok((status, date, _)) => (status, date),
        Err(error) => {
            let remedy = "check `url`, the registry itself, and whether a firewall lets the connection through";
            return vec![Finding::bad("registry", error.to_string(), remedy)];
        }
    };
    let mut findings = vec![match status.is_success() {
        true => Finding::good("registry", format!("{name} answers in {} ms", took.as_millis())),
        false => {
            let detail = format!("{name} answers {status}");
            Finding::bad("registry", detail, "check `url`: this doesn't look like a registry")
        }
    }];
    if let Some(date) = date {
        findings.push(clock(date, SystemTime::now()));
    }
    let connected = shared.status.borrow().connected;
    findings.push(match shared.health.trouble(Part::Socket) {
        _ if connected => Finding::good("registry socket", "connected: this device can be found and signaled"),
        Some(error) => Finding::bad("registry socket", error.to_string(), "see what the registry says, and its log"),
        None => Finding::note("registry socket", "not connected yet", "start the node; it connects by itself"),
    });
    if let Some(error) = shared.health.trouble(Part::Record) {
        let remedy = "others find this device's earlier record meanwhile; see what the registry says";
        findings.push(Finding::bad("registry record", error.to_string(), remedy));
    }
    findings
}

fn clock(theirs: SystemTime, ours: SystemTime) -> Finding {
    let (skew, side) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if skew <= SKEW {
        return Finding::good("clock", "as the registry's");
    }
    let detail = format!("this machine's clock is {} s {side} the registry's", skew.as_secs());
    Finding::bad("clock", detail, "set the clock, best by NTP; with a wrong one records expire too early or too late")
}

#[cfg(test)]
mod tests {
    use peerloom_core::FindingStatus;

    use super::*;

    #[test]
    fn a_clock_that_is_off_is_noticed() {
        let now = SystemTime::now();
        assert_eq!(clock(now, now + Duration::from_secs(20)).status, FindingStatus::Good);
        let off = clock(now, now + Duration::from_secs(90));
        assert_eq!(off.status, FindingStatus::Bad);
        assert!(off.detail.contains("90 s ahead of"), "{off:?}");
        assert!(clock(now + Duration::from_secs(90), now).detail.contains("90 s behind"));
    }
}
