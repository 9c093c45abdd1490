//! Load with random pauses, both ways, on several links at once: nothing may stop for good.
#![allow(clippy::print_stderr)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use peerloom_core::{Channel, ChannelClass, Link};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use common::Pair;

/// Links in one process.
const LINKS: u64 = 4;
/// How long a frame that was sent may take, and how often that is looked at.
const STUCK: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// One direction of one link: frames sent and received.
#[derive(Default)]
struct Way {
    sent: AtomicU64,
    received: AtomicU64,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Mostly short, now and then longer than a link keeps quiet.
fn pause(rng: &mut StdRng) -> Duration {
    let longest = match rng.random_range(0..20) {
        0..10 => 20,
        10..19 => 500,
        _ => 9_000,
    };
    Duration::from_millis(rng.random_range(0..longest))
}

/// Bursts of frames of any size, until the time is over.
async fn send(mut channel: Channel, way: Arc<Way>, mut rng: StdRng, until: Instant) {
    while Instant::now() < until {
        for _ in 0..rng.random_range(1..200) {
            let mut frame = BytesMut::zeroed(1 << rng.random_range(3..18));
            let number = way.sent.fetch_add(1, Ordering::AcqRel);
            frame[..8].copy_from_slice(&number.to_be_bytes());
            channel.sender.send(frame.freeze()).await.expect("sent");
        }
        tokio::time::sleep(pause(&mut rng)).await;
    }
    channel.sender.close().await.expect("a clean end");
}

/// Reads, sometimes slowly, until the end.
async fn receive(link: Arc<dyn Link>, way: Arc<Way>, mut rng: StdRng) {
    let mut channel = link.accept().await.expect("a channel");
    while let Some(frame) = channel.receiver.next().await {
        let frame: Bytes = frame.expect("a frame");
        let number = way.received.fetch_add(1, Ordering::AcqRel);
        assert_eq!(frame[..8], number.to_be_bytes(), "in order");
        if rng.random_range(0..500) == 0 {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
        }
    }
}

/// Fails once something is on its way, and nothing arrives for too long.
async fn watch(ways: Vec<Arc<Way>>) -> ! {
    let mut last = vec![(0, Instant::now()); ways.len()];
    loop {
        tokio::time::sleep(LOOK).await;
        for (index, way) in ways.iter().enumerate() {
            let (received, sent) = (way.received.load(Ordering::Acquire), way.sent.load(Ordering::Acquire));
            if received != last[index].0 || received == sent {
                last[index] = (received, Instant::now());
            }
            let waits = last[index].1.elapsed();
            assert!(waits < STUCK, "link {}: {received} of {sent} frames, and none for {waits:?}", index / 2);
        }
    }
}

/// `PEERLOOM_PAUSES` says for how many seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn load_with_pauses_never_stops() {
    let seed = number("PEERLOOM_SEED").unwrap_or_else(rand::random);
    let time = Duration::from_secs(number("PEERLOOM_PAUSES").unwrap_or(8));
    eprintln!("PEERLOOM_SEED={seed}");
    let until = Instant::now() + time;
    let (mut pair, mut tasks) = (Pair::new().await, JoinSet::new());
    let (mut ways, mut links) = (Vec::new(), Vec::new());
    for link in 0..LINKS {
        let (near, far) = pair.link().await;
        links.push([near.clone(), far.clone()]);
        for (direction, from, to) in [(0, near.clone(), far.clone()), (1, far, near)] {
            let way = Arc::new(Way::default());
            let rng = |part| StdRng::seed_from_u64(seed ^ (link * 4 + direction * 2 + part));
            let channel = from.open(ChannelClass::Chat).await.expect("a channel");
            tasks.spawn(send(channel, way.clone(), rng(0), until));
            tasks.spawn(receive(to, way.clone(), rng(1)));
            ways.push(way);
        }
    }
    let finish = async {
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no failure");
        }
    };
    tokio::select! {
        () = finish => {}
        never = watch(ways.clone()) => match never {},
    }
    let frames: u64 = ways.iter().map(|way| way.received.load(Ordering::Acquire)).sum();
    assert!(ways.iter().all(|way| way.received.load(Ordering::Acquire) == way.sent.load(Ordering::Acquire)));
    eprintln!("{frames} frames in {:?}", time);
}
