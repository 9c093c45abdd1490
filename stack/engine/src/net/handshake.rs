//! One handshake for every transport: who the other side is, proved on this very link.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use peerloom_core::wire::handshake::{Negotiated, Role, auth_input, negotiate};
use peerloom_core::wire::store::Contact;
use peerloom_core::wire::{
    Auth, DeviceCertificate, DeviceId, Hello, Refusal, Restored, Stated, Statement, Verdict, WIRE_VERSION,
    WIRE_VERSION_MIN, limits,
};
use peerloom_core::{Channel, ChannelClass, Error, ErrorKind, Link, Place, Result, Retry};
use peerloom_crypto_primitives::{random, verify};

use super::Shared;
use crate::roles::LinkRole;

/// How long a handshake may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refused link stays open for the verdict to arrive, and one that ends for a notice.
pub(super) const LINGER: Duration = Duration::from_millis(500);

/// A link whose other side is known.
pub(super) struct Ready {
    pub(super) device: DeviceId,
    pub(super) initiator: bool,
    pub(super) negotiated: Negotiated,
    pub(super) control: Channel,
}

/// The handshake of the side that dialed `expected`, a contact's device.
pub(super) async fn initiate(shared: &Shared, link: &Arc<dyn Link>, expected: DeviceId) -> Result<Ready> {
    within(async {
        let mut control = link.open(ChannelClass::Control).await?;
        let ours = hello(shared)?;
        let sent = ours.encode();
        send(&mut control, sent.clone()).await?;
        let received = receive(&mut control).await?;
        let theirs = Hello::decode(received.clone())?;
        let (certificate, negotiated) = check_hello(shared, &**link, &ours, &theirs).map_err(|(_, error)| error)?;
        if certificate.device != expected {
            return Err(unauthenticated("another device answers there"));
        }
        let contact = shared.contacts.device(&expected).and_then(|(user, _)| shared.contacts.by_user(&user));
        let token = match contact.filter(|contact| contact.user == certificate.user) {
            Some(Contact { token, .. }) => token,
            // Of no contact: its certificate was known before it was dialed.
            None if shared.contacts.proved(&expected).is_some_and(|(role, _)| role != LinkRole::Contact) => None,
            None => {
                let message = "the device there is another user's than the invitation says; ask for a new one";
                return Err(unauthenticated(message));
            }
        };
        let binding = link.channel_binding()?;
        let auth = Auth::decode(receive(&mut control).await?)?;
        let input = auth_input(Role::Responder, &sent, &received, &binding);
        if !verify(&certificate.device_key, &input, &auth.signature) {
            return Err(unauthenticated("the other side's signature is wrong"));
        }
        // Only now: the token is for the inviter alone.
        let signature = shared.own.key.sign(&auth_input(Role::Initiator, &sent, &received, &binding));
        send(&mut control, Auth { signature, token, name: shared.own.name.clone() }.encode()).await?;
        match Verdict::decode(receive(&mut control).await?)? {
            Verdict::Accepted => {
                keep(shared, &certificate, &theirs).await?;
                link.admit();
                Ok(Ready { device: certificate.device, initiator: true, negotiated, control })
            }
            Verdict::Refused(refusal) => Err(refused(refusal)),
            Verdict::Restored(notice) => {
                let device = certificate.device;
                if !is_signed(&notice, &certificate) {
                    return Err(unauthenticated("the other side's notice isn't its own"));
                }
                keep(shared, &certificate, &theirs).await?;
                shared.driver.call(move |turn| turn.on_restored_notice(device, notice)).await?;
                Err(restored())
            }
        }
    })
    .await
}

/// Keeps the certificate of a device that only an invitation named until now: by it is verified what the device sends.
async fn keep(shared: &Shared, certificate: &DeviceCertificate, theirs: &Hello) -> Result<()> {
    if shared.contacts.certificate(&certificate.device).is_some() {
        return Ok(());
    }
    let (certificate, signed) = (certificate.clone(), theirs.certificate.clone());
    shared.driver.call(move |turn| turn.prove(&certificate, &signed)).await
}

/// The handshake of the side that was dialed, which holds a place meanwhile.
pub(super) async fn respond(shared: &Shared, link: &Arc<dyn Link>, place: &Place) -> Result<Ready> {
    within(async {
        let mut control = link.accept().await?;
        if control.class != ChannelClass::Control {
            // No verdict is on its way that time should be given to.
            link.close("the first channel is not a control channel");
            return Err(unauthenticated("the first channel is not a control channel"));
        }
        let received = receive(&mut control).await?;
        place.renew();
        let theirs = Hello::decode(received.clone())?;
        let ours = hello(shared)?;
        let sent = ours.encode();
        send(&mut control, sent.clone()).await?;
        let binding = link.channel_binding()?;
        let signature = shared.own.key.sign(&auth_input(Role::Responder, &received, &sent, &binding));
        send(&mut control, Auth { signature, token: None, name: String::new() }.encode()).await?;
        let verdict = verify_initiator(shared, link, &ours, &theirs, &received, &sent, &binding, &mut control).await;
        match verdict {
            Ok((device, negotiated)) => match shared.links.notice() {
                None => {
                    link.admit();
                    send(&mut control, Verdict::Accepted.encode()).await?;
                    Ok(Ready { device, initiator: false, negotiated, control })
                }
                Some(notice) => {
                    send(&mut control, Verdict::Restored(notice).encode()).await?;
                    let message = "this folder isn't its device's newest, and takes no links";
                    Err(Error::new(ErrorKind::Refused, "engine", "handshake", message))
                }
            },
            Err((refusal, error)) => {
                if let Some(refusal) = refusal {
                    send(&mut control, Verdict::Refused(refusal).encode()).await?;
                }
                Err(error)
            }
        }
    })
    .await
}

#[allow(clippy::too_many_arguments)]
async fn verify_initiator(
    shared: &Shared,
    link: &Arc<dyn Link>,
    ours: &Hello,
    theirs: &Hello,
    their_bytes: &[u8],
    our_bytes: &[u8],
    binding: &[u8],
    control: &mut Channel,
) -> Result<(DeviceId, Negotiated), (Option<Refusal>, Error)> {
    let (certificate, negotiated) =
        check_hello(shared, &**link, ours, theirs).map_err(|(refusal, e)| (Some(refusal), e))?;
    let local = |error: Error| (None, error);
    let auth = Auth::decode(receive(control).await.map_err(local)?).map_err(|e| local(e.into()))?;
    let input = auth_input(Role::Initiator, their_bytes, our_bytes, binding);
    if !verify(&certificate.device_key, &input, &auth.signature) {
        return Err((Some(Refusal::Unauthenticated), unauthenticated("the other side's signature is wrong")));
    }
    if shared.links.is_full(shared.max_links, &certificate.device) {
        return Err((Some(Refusal::Busy), refused(Refusal::Busy)));
    }
    let device = certificate.device;
    let signed = theirs.certificate.clone();
    let known = shared.driver.call(move |turn| turn.authorize(&certificate, &signed, auth.token, &auth.name));
    match known.await {
        Ok(None) => Ok((device, negotiated)),
        Ok(Some(refusal)) => Err((Some(refusal), refused(refusal))),
        Err(error) => Err((Some(Refusal::Busy), error)),
    }
}

fn hello(shared: &Shared) -> Result<Hello> {
    let no_randomness = |e| Error::new(ErrorKind::System, "engine", "handshake", "no randomness").with_source(e);
    Ok(Hello {
        nonce: random().map_err(no_randomness)?,
        version_min: WIRE_VERSION_MIN,
        version_max: WIRE_VERSION,
        network: shared.own.network,
        certificate: shared.own.certificate.clone(),
        suites: shared.suites.clone(),
        policy: 0,
        features: 0,
    })
}

/// Checks what the other side says of itself; its signature comes next.
fn check_hello(
    shared: &Shared,
    link: &dyn Link,
    ours: &Hello,
    theirs: &Hello,
) -> Result<(DeviceCertificate, Negotiated), (Refusal, Error)> {
    let refuse = |refusal| Err((refusal, refused(refusal)));
    if theirs.network != ours.network {
        return refuse(Refusal::Network);
    }
    let Some(negotiated) = negotiate(ours, theirs) else {
        return refuse(Refusal::Version);
    };
    if !ours.suites.iter().any(|suite| theirs.suites.contains(suite)) {
        return refuse(Refusal::Suite);
    }
    // No suite of version 1 is post-quantum, and no link knows its key exchange: a peer that insists
    // is refused, never quietly downgraded.
    if negotiated.policy != 0 {
        return refuse(Refusal::Suite);
    }
    let certificate =
        DeviceCertificate::open(&theirs.certificate, verify).map_err(|e| (Refusal::Unauthenticated, e.into()))?;
    // A reflected hello carries our own nonce and certificate.
    if certificate.device == shared.own.device || theirs.nonce == ours.nonce {
        return Err((
            Refusal::Unauthenticated,
            unauthenticated("the other side is this node itself, or reflects what it says"),
        ));
    }
    if link.remote_key().is_some_and(|key| key != certificate.device_key) {
        return Err((Refusal::Unauthenticated, unauthenticated("the link's key is not the certificate's")));
    }
    Ok((certificate, negotiated))
}

async fn within<T>(handshake: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::new(ErrorKind::Timeout, "engine", "handshake", "the other side took too long");
    tokio::time::timeout(TIMEOUT, handshake).await.map_err(late)?
}

async fn send(control: &mut Channel, message: Bytes) -> Result<()> {
    control.sender.send(message).await
}

async fn receive(control: &mut Channel) -> Result<Bytes> {
    let ended = || Error::new(ErrorKind::Closed, "engine", "handshake", "the other side ended the handshake");
    let frame = control.receiver.next().await.ok_or_else(ended)??;
    if frame.len() > limits::HANDSHAKE_FRAME {
        return Err(Error::new(ErrorKind::TooLarge, "engine", "handshake", "a message is longer than its limit"));
    }
    Ok(frame)
}

/// Whether a notice is signed by the device that it comes from. What it says is checked where it is taken in.
fn is_signed(notice: &Stated<Restored>, by: &DeviceCertificate) -> bool {
    notice.signer() == by.device && notice.verify(|message, signature| verify(&by.device_key, message, signature))
}

fn restored() -> Error {
    let message = "the contact's folder there isn't its newest, and takes no links";
    Error::new(ErrorKind::Refused, "engine", "handshake", message).with_retry(Retry::Later)
}

fn unauthenticated(message: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, "engine", "handshake", message)
}

fn refused(refusal: Refusal) -> Error {
    let message = match refusal {
        Refusal::NotAContact => "not a contact there; ask them for an invitation and add it",
        Refusal::Version => "the two programs share no protocol version; upgrade the older one",
        Refusal::Suite => "the two nodes share no crypto suite; compare [[crypto]] in both files",
        Refusal::Network => "the other node belongs to another network; compare `network` in both files",
        Refusal::Busy => "the other node is busy; it is tried again",
        Refusal::Full => "your user has 16 devices there already, which is the most",
        Refusal::Revoked => "your user revoked this device; use another one",
        Refusal::Unauthenticated => "the other node finds our signature or certificate wrong",
    };
    let error = Error::new(ErrorKind::Refused, "engine", "handshake", message);
    if refusal == Refusal::Busy { error.with_retry(Retry::Later) } else { error }
}
