//! This node's user id.

use std::sync::Arc;

use peerloom::Result;
use serde_json::json;

use super::answers::text;
use crate::control::Request;
use crate::output::{say, say_json};
use crate::session::Session;

pub(super) async fn run(session: Arc<Session>, json: bool) -> Result<()> {
    let status = session.request(Request::Status).await?;
    if json {
        say_json(&json!({ "name": status["name"], "user": status["user"], "device": status["device"] }));
    } else {
        say(&text(&status, "user"));
    }
    Ok(())
}
