//! A browser and aiortc, each in both roles.

use std::time::Instant;

use data_encoding::BASE64URL_NOPAD;
use peerloom_browser_tests::{Program, Role, Stage, Task, browser, browser_that_hides, exchange, python};
use peerloom_core::ErrorKind;
use peerloom_netlab::say;
use serde_json::Value;

/// A link to a guest, frames both ways, and an end by one side that the other sees. Gives what the guest reports about
/// the connection.
async fn meet(what: &str, program: impl FnOnce(&str) -> Option<Program>, task: Task) -> Option<Value> {
    let mut stage = Stage::new().await;
    let mut guest = stage.guest(&task).await;
    let _running = program(guest.url())?;
    let link = match task.role {
        Role::Offer => guest.meanwhile("the guest's offer to lead to a link", stage.accept()).await,
        Role::Answer => {
            guest.expect("ready").await;
            guest.meanwhile("a link to the guest", stage.dial()).await
        }
    };
    let connected = guest.expect("connected").await;
    let binding = BASE64URL_NOPAD.encode(&link.channel_binding().expect("a binding"));
    assert_eq!(connected["binding"], binding, "both compute the same channel binding");

    let begin = Instant::now();
    guest.meanwhile("all frames", exchange(&*link, &task)).await;
    guest.expect("exchanged").await;
    let exchanged = begin.elapsed();

    let begin = Instant::now();
    if !task.closes {
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
    Some(connected)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_offers_and_closes() {
    let task = Task::new(Role::Offer, true);
    let Some(connected) = meet("a page offers", browser, task).await else { return };
    assert_ne!(connected["addresses"], 0, "the page could tell where it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_answers_and_is_closed() {
    let task = Task::new(Role::Answer, false);
    let Some(connected) = meet("a page answers", browser, task).await else { return };
    assert_ne!(connected["addresses"], 0, "the page could tell where it is");
}

/// What most pages are like: their candidates are names that only multicast DNS knows. They find the node; the node
/// can't find them.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_may_not_know_its_addresses_offers() {
    let Some(connected) =
        meet("a page without addresses offers", browser_that_hides, Task::new(Role::Offer, false)).await
    else {
        return;
    };
    assert_eq!(connected["addresses"], 0, "the page was told addresses");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_may_not_know_its_addresses_answers() {
    let Some(connected) =
        meet("a page without addresses answers", browser_that_hides, Task::new(Role::Answer, true)).await
    else {
        return;
    };
    assert_eq!(connected["addresses"], 0, "the page was told addresses");
}

#[tokio::test(flavor = "multi_thread")]
async fn aiortc_offers_and_is_closed() {
    meet("aiortc offers", python, Task::new(Role::Offer, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aiortc_answers_and_closes() {
    meet("aiortc answers", python, Task::new(Role::Answer, true)).await;
}
