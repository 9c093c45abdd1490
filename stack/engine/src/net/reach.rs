//! Who can reach this node, and whom it can't reach, for `peerloom doctor`.

use std::time::Duration;

use futures_util::future::join_all;
use peerloom_core::interfaces::{Scope, is_own};
use peerloom_core::names::HostPort;
use peerloom_core::wire::Address;
use peerloom_core::{Diagnostic, DiagnosticStatus, ErrorKind, Transport};
use peerloom_delivery::ConnectionState;

use super::Shared;
use super::announce::{Addresses, Chosen, leads};

/// How long a dial to one's own address may take.
const TIMEOUT: Duration = Duration::from_secs(6);
/// Contacts out of reach that are named.
const NAMED: usize = 5;

/// Where an announced address leads.
enum Leads {
    Here,
    /// Another device answers.
    Elsewhere,
    /// No answer, with the transport's reason.
    Silent(String),
}

/// Looks at the announced addresses and at the contacts; takes up to 6 s.
pub(super) async fn diagnose(shared: &Shared, addresses: &Addresses) -> Vec<Diagnostic> {
    let Chosen { announced, left_out } = addresses.choose();
    let mut diagnostics = where_they_lead(shared, &announced).await;
    // If the addresses lead elsewhere, it doesn't count who could use them.
    if !diagnostics.iter().any(|diagnostic| diagnostic.status == DiagnosticStatus::Bad) {
        diagnostics.push(who_can_dial(reach(shared, &announced)));
    }
    if !left_out.is_empty() {
        let detail = format!("a record has no room for all; left out: {}", list(&left_out));
        let remedy = "nothing, if contacts come by the others; otherwise listen on one address only";
        diagnostics.push(Diagnostic::note("addresses", detail, remedy));
    }
    diagnostics.extend(out_of_reach(shared));
    diagnostics
}

/// Who can make a link to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Something carries signals to it.
    Signals,
    /// Signals would reach it, but nothing carries them.
    ByHand,
    /// The widest scope of the addresses that others can dial.
    Dialed(Scope),
}

/// Why an invitation's link leads nowhere for most, and what to do about it; `None` where it leads to this node.
pub(super) fn cut_off(shared: &Shared, addresses: &Addresses) -> Option<Diagnostic> {
    let reach = reach(shared, &addresses.choose().announced);
    let cut_off = matches!(reach, Reach::ByHand | Reach::Dialed(Scope::Loopback | Scope::Nowhere));
    cut_off.then(|| who_can_dial(reach))
}

fn reach(shared: &Shared, announced: &[Address]) -> Reach {
    let by_signals = |address: &&Address| {
        shared.transports.iter().any(|t| t.scheme() == address.scheme() && t.caps().needs_signaling)
    };
    let carried = shared.discoveries.iter().any(|discovery| discovery.signaling().is_some());
    if announced.iter().any(|address| by_signals(&address)) && carried {
        return Reach::Signals;
    }
    match announced.iter().filter(|address| !by_signals(address)).map(leads).max() {
        None if !announced.is_empty() => Reach::ByHand,
        dialed => Reach::Dialed(dialed.unwrap_or(Scope::Nowhere)),
    }
}

fn who_can_dial(reach: Reach) -> Diagnostic {
    let remedy = "forward a port and set transport.advertise, or use webrtc, if contacts elsewhere shall dial";
    match reach {
        Reach::Signals => {
            Diagnostic::good("reach", "contacts come through NATs, as far as something carries signals to this node")
        }
        Reach::ByHand => {
            let detail = "nobody reaches this node by itself: no discovery carries signals to it, so links are made by \
                          hand, or over a contact in common";
            Diagnostic::note("reach", detail, "add a [[discovery]] of kind registry")
        }
        Reach::Dialed(Scope::Public) => {
            Diagnostic::good("reach", "contacts can dial this node, as far as no firewall is in the way")
        }
        Reach::Dialed(Scope::Private | Scope::Link) => {
            let detail = "only contacts in the same network can dial this node; it dials the others";
            Diagnostic::note("reach", detail, remedy)
        }
        Reach::Dialed(Scope::Loopback) => {
            let detail = "only nodes on this machine can dial this node; it dials the others";
            let remedy = "connect the machine to a network, and let transport.listen be 0.0.0.0 or [::] and the port";
            Diagnostic::note("reach", detail, remedy)
        }
        Reach::Dialed(Scope::Nowhere) => {
            let detail = "nobody can dial this node: no address leads to it";
            let remedy = "connect the machine to a network, and let transport.listen be [::] and the port, which takes \
                          IPv4 and IPv6";
            Diagnostic::bad("reach", detail, remedy)
        }
    }
}

/// Dials this node at its own addresses.
async fn where_they_lead(shared: &Shared, announced: &[Address]) -> Vec<Diagnostic> {
    let dialed = announced.iter().filter_map(|address| {
        let transport = shared.transports.iter().find(|t| t.scheme() == address.scheme())?;
        (!transport.caps().needs_signaling)
            .then_some(async move { (address, dial(shared, &**transport, address).await) })
    });
    let dialed = join_all(dialed).await;
    let here: Vec<_> = dialed.iter().filter(|(_, leads)| matches!(leads, Leads::Here)).map(|(a, _)| *a).collect();
    let mut diagnostics = Vec::new();
    if !here.is_empty() {
        let lead = if here.len() == 1 { "leads" } else { "lead" };
        diagnostics.push(Diagnostic::good("addresses", format!("{} {lead} to this node", list(here.iter().copied()))));
    }
    for (address, leads) in &dialed {
        let own = matches!(address.rest().parse(), Ok(HostPort::Ip(place)) if is_own(place.ip()));
        diagnostics.extend(match leads {
            Leads::Here => None,
            Leads::Elsewhere => {
                let remedy = "take it out of transport.advertise, or let the router forward that port to this machine";
                Some(Diagnostic::bad("addresses", format!("{address} leads to another device"), remedy))
            }
            Leads::Silent(why) if own => {
                let remedy = "if transport.advertise names it, check the port there; else a firewall on this machine \
                              seems to drop its packets: let the port through";
                Some(Diagnostic::bad("addresses", format!("{address} doesn't lead to this node: {why}"), remedy))
            }
            Leads::Silent(why) => {
                let detail = format!("{address} doesn't lead to this node, as far as can be told from here: {why}");
                let remedy = "check transport.advertise and the router's forwarding; many routers let nobody inside \
                              come by the outer address, so let a contact outside try";
                match here.is_empty() {
                    true => Some(Diagnostic::bad("addresses", detail, remedy)),
                    false => Some(Diagnostic::note("addresses", detail, remedy)),
                }
            }
        });
    }
    diagnostics
}

async fn dial(shared: &Shared, transport: &dyn Transport, address: &Address) -> Leads {
    let key = shared.own.key.public();
    match tokio::time::timeout(TIMEOUT, transport.dial(address, Some(key), None)).await {
        Ok(Ok(link)) => {
            let here = link.remote_key().as_ref() == Some(key);
            link.close("a look at the own address");
            if here { Leads::Here } else { Leads::Elsewhere }
        }
        Ok(Err(error)) if error.kind() == ErrorKind::Unauthenticated => Leads::Elsewhere,
        Ok(Err(error)) => Leads::Silent(error.for_people()),
        Err(_) => Leads::Silent("nobody answers".into()),
    }
}

/// Contacts' devices that were dialed in vain where they last were.
fn out_of_reach(shared: &Shared) -> Option<Diagnostic> {
    let devices = shared.contacts.devices();
    // A folder that was put back has a diagnostic of its own.
    let failed = |(user, device): &(peerloom_wire::UserId, peerloom_wire::store::ContactDevice)| {
        let status = shared.links.status(*user, device.device, 0);
        let reason =
            status.reason.filter(|_| status.state != ConnectionState::Connected && device.restored.is_none())?;
        Some(format!("{} ({reason})", shared.contacts.by_user(user)?.alias))
    };
    let mut names: Vec<String> = devices.iter().filter_map(failed).collect();
    names.sort();
    names.dedup();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(NAMED);
    (!names.is_empty()).then(|| {
        let detail = format!("not reached where last seen: {}{more}", names.join(", "));
        let remedy = "if the nodes run, both sides may have moved: ask for a new invitation and `add` it, which keeps \
                      the conversation; a discovery such as mdns or registry finds those who move by itself";
        Diagnostic::note("contacts", detail, remedy)
    })
}

fn list<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> String {
    addresses.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
