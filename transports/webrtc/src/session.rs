//! One session, from an offer to the end of its link: what is signaled, and what is watched.

use std::sync::Arc;
use std::time::Duration;

use peerloom_core::wire::{DeviceId, SessionId};
use peerloom_core::{Error, ErrorKind, Result, Retry, Signaling};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info};
use webrtc::peer_connection::{
    RTCIceCandidateInit, RTCIceConnectionState, RTCPeerConnectionState, RTCSessionDescription,
};

use crate::lane::Lane;
use crate::link::{LABEL, Shared};
use crate::peer::{PeerEvent, failed, longest_message};
use crate::sdp::{self, CANDIDATES, CandidateRules, Description};
use crate::signal::SignalBody;

/// How long a connection may take once both descriptions are known.
const CONNECT: Duration = Duration::from_secs(12);
/// Host candidates are there at once; a description waits for them this long, so that it has them.
const FIRST_CANDIDATES: Duration = Duration::from_millis(15);
/// How long a description that must be complete waits for servers that don't answer.
const ALL_CANDIDATES: Duration = Duration::from_secs(4);
/// How long the link may be silent after the machine's addresses changed.
const AFTER_MOVE: Duration = Duration::from_millis(3500);
/// How long the path may be silent that a move may have left as it was, before new ones are looked for.
const PROBE: Duration = Duration::from_millis(800);
/// How soon after another the other device may restart ICE.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How often a dead signaling is tried again for a restart, and how long after the move.
const RESTART_RETRY: Duration = Duration::from_millis(300);

/// What a session lives by.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) link: Arc<Shared>,
    pub(crate) events: mpsc::Receiver<PeerEvent>,
    /// Signals of the other device for this session.
    pub(crate) signals: mpsc::Receiver<SignalBody>,
    /// Where ours go; by hand there is nothing after the first.
    pub(crate) signaling: Arc<dyn Signaling>,
    pub(crate) rules: CandidateRules,
    pub(crate) moved: watch::Receiver<()>,
    pub(crate) keep_alive: Duration,
    pub(crate) idle_timeout: Duration,
    /// Candidates that came before their description, and how many were taken in all.
    pub(crate) early: Vec<String>,
    pub(crate) taken: usize,
    pub(crate) trickles: bool,
    /// The number of our last offer, if it waits for an answer after the first.
    pub(crate) awaits: Option<u32>,
    pub(crate) serial: u32,
    /// When the other device last restarted ICE.
    pub(crate) restarted: Option<Instant>,
}

impl Session {
    fn device(&self) -> DeviceId {
        self.link.device
    }

    async fn say(&self, body: SignalBody) -> Result<()> {
        self.signaling.send(self.device(), self.id, body.encode()).await
    }

    /// Offers, and returns once the link's first lane is open.
    pub(crate) async fn dial(&mut self, patience: Duration) -> Result<()> {
        // Control and chat, ready for the first channels.
        let main = self.link.new_lane().await?;
        self.link.new_lane().await?;
        let connection = self.link.peer.connection.clone();
        let offer = connection.create_offer(None).await.map_err(|e| failed("offer", e))?;
        connection.set_local_description(offer).await.map_err(|e| failed("offer", e))?;
        let sdp = self.described(!self.trickles).await?;
        self.say(SignalBody::Offer { sdp, complete: !self.trickles, serial: 0 }).await?;

        let silent = "the other device answers no offer; is the other node running?";
        let late = || Error::new(ErrorKind::Unreachable, "webrtc", "dial", silent).with_retry(Retry::Later);
        let answered = tokio::time::timeout(patience, self.answer()).await;
        self.accept_description(answered.map_err(|_| late())??, false).await?;
        self.connected(Some(main), CONNECT).await.map_err(|error| self.explain(error))
    }

    /// Answers an offer. What follows is up to the other side: [`Session::await_link`].
    pub(crate) async fn answer_offer(&mut self, offer: &str, complete: bool, serial: u32) -> Result<()> {
        let checked = match sdp::check(offer, self.rules) {
            Ok(checked) => checked,
            Err(error) => {
                // The side that offers shouldn't have to wait to hear it.
                let _ = self.say(SignalBody::Refused { reason: error.message().into() }).await;
                return Err(error);
            }
        };
        if let Err(error) = self.accept_description(checked, true).await {
            let _ = self.say(SignalBody::Refused { reason: error.message().into() }).await;
            return Err(error);
        }
        let sdp = self.make_answer(complete || !self.trickles).await?;
        self.say(SignalBody::Answer { sdp, serial }).await
    }

    /// Returns once the other side's first lane is open. By hand the answer is still on its way to it.
    pub(crate) async fn await_link(&mut self) -> Result<()> {
        let patience = if self.trickles { CONNECT } else { self.signaling.caps().patience };
        self.connected(None, patience).await
    }

    async fn make_answer(&mut self, complete: bool) -> Result<String> {
        let connection = self.link.peer.connection.clone();
        let answer = connection.create_answer(None).await.map_err(|e| failed("answer", e))?;
        connection.set_local_description(answer).await.map_err(|e| failed("answer", e))?;
        self.described(complete).await
    }

    /// Our description, with the candidates that are there already, or with all of them.
    async fn described(&mut self, complete: bool) -> Result<String> {
        let until = Instant::now() + if complete { ALL_CANDIDATES } else { FIRST_CANDIDATES };
        let mut others = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout_at(until, self.events.recv()).await {
            match event {
                PeerEvent::Gathered => break,
                // They are in the description.
                PeerEvent::Candidate(_) => {}
                other => others.push(other),
            }
        }
        for event in others {
            self.handle(event).await?;
        }
        let description = self.link.peer.connection.local_description().await;
        let gone = || Error::new(ErrorKind::Closed, "webrtc", "describe", "the connection ended");
        Ok(sdp::conceal_all(&description.ok_or_else(gone)?.sdp))
    }

    /// The other device's answer.
    async fn answer(&mut self) -> Result<Description> {
        loop {
            tokio::select! {
                signal = self.signals.recv() => match signal {
                    Some(SignalBody::Answer { sdp, .. }) => return sdp::check(&sdp, self.rules),
                    Some(SignalBody::Candidate { candidate }) => self.candidate(candidate).await,
                    Some(SignalBody::Refused { reason }) => return Err(refused(&reason)),
                    Some(SignalBody::Offer { .. }) => {}
                    None => return Err(Error::new(ErrorKind::Closed, "webrtc", "dial", "the node is shut down")),
                },
                Some(event) = self.events.recv() => drop(self.handle(event).await?),
                error = self.link.ended() => return Err(error),
            }
        }
    }

    async fn accept_description(&mut self, checked: Description, is_offer: bool) -> Result<()> {
        let wrong =
            |e| Error::new(ErrorKind::Malformed, "webrtc", "take a description", "it can't be used").with_source(e);
        let description = if is_offer {
            RTCSessionDescription::offer(checked.sdp)
        } else {
            RTCSessionDescription::answer(checked.sdp)
        };
        self.link.peer.runtime.heat(CONNECT);
        self.link.traffic().set_longest_message(longest_message(checked.max_message));
        self.taken += checked.candidates;
        self.link.peer.connection.set_remote_description(description.map_err(wrong)?).await.map_err(wrong)?;
        for candidate in std::mem::take(&mut self.early) {
            self.add(candidate).await;
        }
        Ok(())
    }

    /// A candidate of the other device; before its description came it waits.
    async fn candidate(&mut self, candidate: String) {
        let line = candidate.trim().trim_start_matches("a=").to_owned();
        if line.is_empty() || self.taken >= CANDIDATES || !self.rules.allow(&line) {
            return;
        }
        self.taken += 1;
        if self.link.peer.connection.current_remote_description().await.is_none()
            && self.link.peer.connection.pending_remote_description().await.is_none()
        {
            self.early.push(line);
        } else {
            self.add(line).await;
        }
    }

    async fn add(&self, candidate: String) {
        let init = RTCIceCandidateInit { candidate, ..RTCIceCandidateInit::default() };
        if let Err(error) = self.link.peer.connection.add_ice_candidate(init).await {
            debug!(%error, "a candidate is of no use");
        }
    }

    /// Waits until the first lane is open, ours or the other side's, then binds the handshake to the
    /// connection.
    async fn connected(&mut self, mut main: Option<Arc<Lane>>, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            // Only what is received may be dropped with a branch, never what is being handled.
            tokio::select! {
                () = opened(main.as_ref()) => break,
                Some(event) = self.events.recv() => {
                    let lane = self.handle(event).await?;
                    main = main.or(lane);
                }
                Some(signal) = self.signals.recv() => self.signal(signal).await?,
                error = self.link.ended() => return Err(error),
                () = tokio::time::sleep_until(until) => return Err(self.unreachable()),
            }
        }
        self.link.bind().await?;
        // It may have taken people minutes: the silence before doesn't count.
        self.link.traffic().heard(0);
        self.link.look_at_path().await;
        self.link.peer.runtime.cool();
        Ok(())
    }

    /// What a failure means for the side that dialed: a connection that ended before it stood found no way,
    /// or the other side showed another certificate than its description said.
    fn explain(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Closed { self.unreachable().with_source(error) } else { error }
    }

    fn unreachable(&self) -> Error {
        let message = "no path to the other device was found; behind two strict NATs it takes a TURN server \
                       (transport.ice_servers), and `peerloom doctor` says what this network allows";
        Error::new(ErrorKind::Unreachable, "webrtc", "connect", message).with_retry(Retry::Later)
    }

    async fn handle(&mut self, event: PeerEvent) -> Result<Option<Arc<Lane>>> {
        match event {
            PeerEvent::Candidate(candidate) if self.trickles && !candidate.is_empty() => {
                // Lost ones are made up for by others, or by the next attempt.
                let candidate = sdp::conceal(&candidate);
                if let Err(error) = self.say(SignalBody::Candidate { candidate }).await {
                    debug!(%error, "a candidate could not be sent");
                }
            }
            PeerEvent::Candidate(_) | PeerEvent::Gathered => {}
            PeerEvent::Lane(channel) => {
                if channel.label().await.is_ok_and(|label| label == LABEL) {
                    return self.link.on_lane(channel).await;
                }
                return Err(Error::new(ErrorKind::Malformed, "webrtc", "accept", "the data channel isn't Peerloom's"));
            }
            PeerEvent::Ice(RTCIceConnectionState::Connected | RTCIceConnectionState::Completed) => {
                self.link.look_at_path().await;
            }
            PeerEvent::Ice(RTCIceConnectionState::Failed) | PeerEvent::State(RTCPeerConnectionState::Failed) => {
                return Err(self.unreachable());
            }
            PeerEvent::State(RTCPeerConnectionState::Closed) => {
                return Err(Error::new(ErrorKind::Closed, "webrtc", "link", "the connection was closed"));
            }
            PeerEvent::Ice(_) | PeerEvent::State(_) => {}
        }
        Ok(None)
    }

    /// A signal once the session stands: candidates, or an ICE restart.
    async fn signal(&mut self, signal: SignalBody) -> Result<()> {
        match signal {
            SignalBody::Candidate { candidate } => self.candidate(candidate).await,
            SignalBody::Offer { sdp, serial, .. } => {
                // Anybody who carries signals can make one up; so many and no more.
                if self.restarted.is_some_and(|at| at.elapsed() < RESTART_PAUSE) {
                    return Ok(());
                }
                debug!(session = %self.id, "the other device restarts ICE");
                if self.awaits.is_some() {
                    // Both began. The side that made the session's first offer goes on with its own.
                    if self.link.is_offerer() {
                        return Ok(());
                    }
                    self.awaits = None;
                    let back = RTCSessionDescription::rollback(None).map_err(|e| failed("restart", e))?;
                    let connection = &self.link.peer.connection;
                    connection.set_local_description(back).await.map_err(|e| failed("restart", e))?;
                }
                self.restarted = Some(Instant::now());
                self.link.peer.runtime.guard().begin_again();
                self.taken = 0;
                self.accept_description(sdp::check(&sdp, self.rules)?, true).await?;
                let sdp = self.make_answer(false).await?;
                self.say(SignalBody::Answer { sdp, serial }).await?;
            }
            SignalBody::Answer { sdp, serial } => {
                // A late answer to an earlier offer would be taken for this one's.
                if self.awaits != Some(serial) {
                    return Ok(());
                }
                self.awaits = None;
                self.taken = 0;
                self.accept_description(sdp::check(&sdp, self.rules)?, false).await?;
            }
            // A link that is up ends by its own means, not by a signal that anybody may have made.
            SignalBody::Refused { .. } => {}
        }
        Ok(())
    }

    /// Watches a link that is up, until it ends.
    pub(crate) async fn watch(mut self) {
        let (link, idle_timeout) = (self.link.clone(), self.idle_timeout);
        // Beside the rest: whatever the crate keeps waiting, a silent link ends.
        tokio::select! {
            () = self.keep_up() => {}
            error = silent(&link, idle_timeout) => {
                debug!(session = %self.id, device = ?link.device, %error, "a link is over");
                link.end(error);
            }
        }
        link.part().await;
        link.peer.close().await;
    }

    async fn keep_up(&mut self) {
        let mut beat = tokio::time::interval(self.keep_alive);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut deadline, mut probe): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            let outcome = tokio::select! {
                error = self.link.ended() => Err(error),
                Some(event) = self.events.recv() => self.handle(event).await.map(drop),
                Some(signal) = self.signals.recv() => {
                    if let Err(error) = self.signal(signal).await {
                        debug!(session = %self.id, %error, "a signal for a link that is up is of no use");
                    }
                    Ok(())
                }
                Ok(()) = self.moved.changed() => {
                    self.link.ping();
                    if self.link.is_at_home() {
                        // Another address came or went; the path may be as good as it was.
                        probe = Some(Instant::now() + PROBE);
                        Ok(())
                    } else {
                        deadline = Some(Instant::now() + AFTER_MOVE);
                        self.restart().await
                    }
                }
                () = sleep_until(probe) => {
                    probe = None;
                    if self.link.traffic().silence() < PROBE {
                        Ok(())
                    } else {
                        deadline = Some(Instant::now() + AFTER_MOVE);
                        self.restart().await
                    }
                }
                _ = beat.tick() => {
                    self.link.ping();
                    self.link.look_at_path().await;
                    Ok(())
                }
                () = sleep_until(deadline) => {
                    deadline = None;
                    let silence = self.link.traffic().silence();
                    if silence < AFTER_MOVE.mul_f32(0.8) { Ok(()) } else { Err(too_silent(silence)) }
                }
            };
            if let Err(error) = outcome {
                debug!(session = %self.id, device = ?self.device(), %error, "a link is over");
                return self.link.end(error);
            }
        }
    }

    /// Looks for new paths, on new sockets; what runs in the connection goes on.
    async fn restart(&mut self) -> Result<()> {
        if !self.trickles {
            return Ok(());
        }
        info!(session = %self.id, "the machine moved; looking for new paths");
        let connection = self.link.peer.connection.clone();
        self.link.peer.runtime.heat(AFTER_MOVE);
        self.link.peer.runtime.guard().begin_again();
        connection.restart_ice().await.map_err(|e| failed("restart", e))?;
        let offer = connection.create_offer(None).await.map_err(|e| failed("restart", e))?;
        connection.set_local_description(offer).await.map_err(|e| failed("restart", e))?;
        let sdp = self.described(false).await?;
        self.taken = 0;
        self.serial += 1;
        self.awaits = Some(self.serial);
        self.link.ping();
        let until = Instant::now() + AFTER_MOVE / 2;
        let offer = SignalBody::Offer { sdp, complete: false, serial: self.serial };
        // The signaling has moved, too, and needs a moment.
        while let Err(error) = self.say(offer.clone()).await {
            if Instant::now() > until {
                debug!(session = %self.id, %error, "nothing carries the restart");
                break;
            }
            tokio::time::sleep(RESTART_RETRY).await;
        }
        Ok(())
    }
}

/// Completes once a lane is there and open.
async fn opened(lane: Option<&Arc<Lane>>) {
    match lane {
        Some(lane) => lane.opened().await,
        None => std::future::pending().await,
    }
}

/// Completes once nothing was heard for so long.
async fn silent(link: &Shared, longest: Duration) -> Error {
    loop {
        let silence = link.traffic().silence();
        match longest.checked_sub(silence) {
            Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
            _ => return too_silent(silence),
        }
    }
}

fn too_silent(silence: Duration) -> Error {
    let message = format!("nothing was heard for {} ms; the link is made again", silence.as_millis());
    Error::new(ErrorKind::Closed, "webrtc", "link", message)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What a refusal means for the side that dialed.
fn refused(reason: &str) -> Error {
    let shown: String = reason.chars().filter(|c| !c.is_control()).take(100).collect();
    Error::new(ErrorKind::Refused, "webrtc", "dial", format!("the other device refuses: {shown}"))
        .with_retry(Retry::Later)
}
