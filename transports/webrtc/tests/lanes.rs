//! Channels over data channels: many at once, and many one after the other.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use peerloom_core::{Channel, ChannelClass, Link};

use common::Pair;

/// Sends back whatever comes, on every channel, until the link ends.
fn echo(link: Arc<dyn Link>) {
    tokio::spawn(async move {
        while let Ok(mut channel) = link.accept().await {
            tokio::spawn(async move {
                while let Some(Ok(frame)) = channel.receiver.next().await {
                    if channel.sender.send(frame).await.is_err() {
                        return;
                    }
                }
                let _ = channel.sender.close().await;
            });
        }
    });
}

async fn round_trip(link: &dyn Link, number: u8) {
    let mut channel = link.open(ChannelClass::Bulk).await.expect("a channel");
    let frame = Bytes::from(vec![number; 100_000]);
    channel.sender.send(frame.clone()).await.expect("sent");
    assert_eq!(channel.receiver.next().await.expect("a frame").expect("a frame"), frame);
    channel.sender.close().await.expect("a clean end");
    assert!(channel.receiver.next().await.is_none(), "a clean end");
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("in time")
}

/// Data channels that open at once confuse the crate now and then; the link must live on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn channels_opened_at_once_all_carry() {
    let mut pair = Pair::new().await;
    for _ in 0..4 {
        let (near, far) = within(pair.link()).await;
        echo(far);
        // The first two make way for more than two that wait.
        within(round_trip(&*near, 0)).await;
        within(round_trip(&*near, 0)).await;
        let trips = (1..=14u8).map(|number| round_trip(&*near, number));
        within(futures_util::future::join_all(trips)).await;
    }
}

/// A link has 32 data channels of each side, and any number of channels one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn data_channels_are_used_again() {
    let mut pair = Pair::new().await;
    let (near, far) = within(pair.link()).await;
    echo(far);
    for number in 0..100u8 {
        within(round_trip(&*near, number)).await;
    }
}

/// A reader that goes away ends its channel and no other, wherever the writer is.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_nobody_reads_ends_alone() {
    let mut pair = Pair::new().await;
    let (near, far) = within(pair.link()).await;
    for round in 0..8 {
        let mut writing = near.open(ChannelClass::Bulk).await.expect("a channel");
        writing.sender.send(Bytes::from_static(b"first")).await.expect("sent");
        let mut reading = within(far.accept()).await.expect("a channel");
        assert!(reading.receiver.next().await.is_some());
        let frame = Bytes::from(vec![7; 700_000]);
        let write = async {
            // More than the window: it ends, sooner or later.
            while writing.sender.send(frame.clone()).await.is_ok() {}
        };
        let stop = async {
            for _ in 0..round {
                let _ = reading.receiver.next().await;
            }
            drop(reading);
        };
        within(async { tokio::join!(write, stop) }).await;
        drop(writing);
        // The link is as good as before.
        let (mut here, accepted) = (near.open(ChannelClass::Chat).await.expect("a channel"), far.accept());
        here.sender.send(Bytes::from_static(b"still here")).await.expect("sent");
        let mut there = within(accepted).await.expect("a channel");
        assert_eq!(there.receiver.next().await.expect("a frame").expect("a frame").as_ref(), b"still here");
    }
}

/// Whatever the writer is at when a lane is used again, the channel's opening is said before its credit:
/// more than the window it begins with comes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lane_that_is_used_again_has_its_whole_window() {
    let mut pair = Pair::new().await;
    let (near, far) = within(pair.link()).await;
    echo(far);
    for number in 0..300 {
        let Channel { mut sender, mut receiver, .. } = near.open(ChannelClass::Chat).await.expect("a channel");
        let send = async {
            for _ in 0..12 {
                sender.send(Bytes::from(vec![7; 60_000])).await.expect("sent");
            }
            sender.close().await.expect("a clean end");
        };
        let receive = async {
            let mut count = 0;
            while receiver.next().await.transpose().expect("a frame").is_some() {
                count += 1;
            }
            count
        };
        let both = async { tokio::join!(send, receive).1 };
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), both).await, Ok(12), "channel {number}");
    }
}
