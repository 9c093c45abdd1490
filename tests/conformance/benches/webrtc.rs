//! `cargo bench -p peerloom-conformance --bench webrtc`: links over WebRTC on loopback, both ends in this
//! process. Prints one JSON object: how long connecting takes, what idle links cost, how many are held.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerloom_conformance::identity::identity;
use peerloom_core::memory::{MemorySignaling, SignalingHub};
use peerloom_core::{Link, Signaling, Transport};
use peerloom_transport_webrtc::{WebRtcConfig, WebRtcTransport};
use rtc_baseline::baseline;

const DIALS: usize = 40;
const HELD: usize = 256;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    times[((times.len() as f64 - 1.0) * share).round() as usize].as_secs_f64() * 1000.0
}

/// The ceiling: the bare crate, set up as its documentation does.
mod rtc_baseline {
    use super::{Duration, Instant};
    use std::net::SocketAddr;
    use std::sync::Arc;

    use webrtc::data_channel::DataChannelEvent;
    use webrtc::peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    };

    struct Gathered(tokio::sync::mpsc::UnboundedSender<()>);

    #[async_trait::async_trait]
    impl PeerConnectionEventHandler for Gathered {
        async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
            if state == RTCIceGatheringState::Complete {
                let _ = self.0.send(());
            }
        }
    }

    async fn side() -> (Arc<dyn PeerConnection>, tokio::sync::mpsc::UnboundedReceiver<()>) {
        let (sender, gathered) = tokio::sync::mpsc::unbounded_channel();
        let builder = PeerConnectionBuilder::new()
            .with_handler(Arc::new(Gathered(sender)))
            .with_udp_addrs(vec!["127.0.0.1:0".parse::<SocketAddr>().expect("an address")]);
        (Arc::new(Box::pin(builder.build()).await.expect("a connection")), gathered)
    }

    /// From nothing to an open data channel.
    pub(super) async fn baseline() -> Duration {
        let begin = Instant::now();
        let ((a, mut a_gathered), (b, mut b_gathered)) = (side().await, side().await);
        let channel = a.create_data_channel("x", None).await.expect("a channel");
        let offer = a.create_offer(None).await.expect("an offer");
        a.set_local_description(offer).await.expect("it fits");
        a_gathered.recv().await;
        b.set_remote_description(a.local_description().await.expect("one")).await.expect("it fits");
        let answer = b.create_answer(None).await.expect("an answer");
        b.set_local_description(answer).await.expect("it fits");
        b_gathered.recv().await;
        a.set_remote_description(b.local_description().await.expect("one")).await.expect("it fits");
        while !matches!(channel.poll().await, Some(DataChannelEvent::OnOpen)) {}
        let took = begin.elapsed();
        let _ = tokio::join!(a.close(), b.close());
        took
    }
}

#[tokio::main]
async fn main() {
    let hub = SignalingHub::default();
    let side = |number: u8| {
        let device = identity(number).device;
        let config = WebRtcConfig { listen: "127.0.0.1".into(), ..WebRtcConfig::default() };
        let signaling: Arc<dyn Signaling> = Arc::new(MemorySignaling::new(device, &hub));
        (WebRtcTransport::new(config, device).expect("a transport"), signaling, device)
    };
    let ((dialer, signals, _), (listener, theirs, device)) = (side(1), side(2));
    let mut accepting = listener.listen(Some(theirs)).await.expect("it listens");
    let _dialer_listens = dialer.listen(Some(signals.clone())).await.expect("it listens");
    let address = format!("webrtc://{device}").parse().expect("an address");

    let (mut times, mut bare) = (Vec::new(), Vec::new());
    let mut held: Vec<(Arc<dyn Link>, Arc<dyn Link>)> = Vec::new();
    let mut first = 0;
    for number in 0..HELD + 8 {
        // The first eight warm allocators and caches up.
        if number == 8 {
            first = resident_kib();
        }
        let begin = Instant::now();
        let (near, far) = tokio::join!(dialer.dial(&address, None, Some(signals.clone())), accepting.accept());
        if times.len() < DIALS {
            times.push(begin.elapsed());
            bare.push(baseline().await);
        }
        held.push((near.expect("a link"), far.expect("a link")));
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let memory = resident_kib().saturating_sub(first) / HELD as u64;
    let mut alive = 0;
    for (near, far) in &held {
        let over =
            tokio::time::timeout(Duration::from_millis(1), futures_util::future::select(near.closed(), far.closed()));
        alive += usize::from(over.await.is_err());
    }
    println!(
        "{{\"connect_p50_ms\":{:.1},\"connect_p95_ms\":{:.1},\"bare_crate_connect_p50_ms\":{:.1},\"idle_pair_kib\":{memory},\"held\":{},\"alive_after_10_s\":{alive}}}",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.95),
        percentile(&mut bare, 0.5),
        held.len(),
    );
}
