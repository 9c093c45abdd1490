//! Frames both ways, checked.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use peerloom_core::{Channel, ChannelClass, Link};

use crate::guest::{Role, Task};

/// The content of a frame: who sends it and its number decide.
fn frame(task: &Task, sender: usize, number: usize) -> Bytes {
    let length = if number == 0 { task.long } else { task.size };
    (0..length).map(|at| u8::try_from((sender + number * 31 + at * 7) % 251).expect("below 251")).collect()
}

/// Two channels, one after the other, with all of the task's frames both ways at the same time; each ends cleanly.
pub async fn exchange(link: &dyn Link, task: &Task) {
    for (class, first, end) in [(ChannelClass::Chat, 0, task.frames), (ChannelClass::Control, 1, 3)] {
        let channel = match task.role {
            Role::Offer => link.accept().await,
            Role::Answer => link.open(class).await,
        };
        let Channel { class: opened, mut sender, mut receiver } = channel.expect("a channel");
        assert_eq!(opened, class);
        let send = async {
            for number in first..end {
                sender.send(frame(task, task.host, number)).await.expect("room for a frame");
            }
            sender.close().await.expect("an end");
        };
        let receive = async {
            for number in first..end {
                let received = match receiver.next().await {
                    Some(Ok(received)) => received,
                    other => panic!("{other:?} instead of frame {number}; the link: {}", link.closed().await),
                };
                assert!(received == frame(task, task.guest, number), "frame {number} is not what was sent");
            }
            assert!(receiver.next().await.is_none(), "there are more frames than were sent");
        };
        tokio::join!(send, receive);
    }
}
