//! A browser and aiortc, each in both roles.

use std::time::Instant;

use data_encoding::BASE64URL_NOPAD;
use peerloom_browser_tests::{Program, Role, Stage, Task, browser, exchange, python};
use peerloom_core::ErrorKind;
use peerloom_netlab::say;

/// A link to a guest in this role, frames both ways, and an end by one side that the other sees.
async fn meet(what: &str, program: impl FnOnce(&str) -> Option<Program>, role: Role, guest_closes: bool) {
    let mut stage = Stage::new().await;
    let mut guest = stage.guest(role, guest_closes).await;
    let Some(_running) = program(guest.url()) else { return };
    let link = match role {
        Role::Offer => guest.meanwhile("the guest's offer to lead to a link", stage.accept()).await,
        Role::Answer => {
            guest.expect("ready").await;
            guest.meanwhile("a link to the guest", stage.dial()).await
        }
    };
    let report = guest.expect("connected").await;
    let binding = BASE64URL_NOPAD.encode(&link.channel_binding().expect("a binding"));
    assert_eq!(report["binding"], binding, "both compute the same channel binding");

    let begin = Instant::now();
    let task = Task::new(role, String::new(), guest_closes);
    guest.meanwhile("all frames", exchange(&*link, &task)).await;
    guest.expect("exchanged").await;
    let exchanged = begin.elapsed();

    let begin = Instant::now();
    if !guest_closes {
        link.close("the test is over");
    }
    let reason = guest.meanwhile("the link to end", link.closed()).await;
    assert_eq!(reason.kind(), ErrorKind::Closed, "{reason}");
    guest.expect("closed").await;
    say(&format!(
        "{what}: {} frames of {} B each way in {:.1} s; closed in {:.1} s ({reason})",
        task.frames,
        task.size,
        exchanged.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    ));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_offers_and_closes() {
    meet("a page offers", browser, Role::Offer, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_answers_and_is_closed() {
    meet("a page answers", browser, Role::Answer, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aiortc_offers_and_is_closed() {
    meet("aiortc offers", python, Role::Offer, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aiortc_answers_and_closes() {
    meet("aiortc answers", python, Role::Answer, true).await;
}
