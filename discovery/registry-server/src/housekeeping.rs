//! What is done from time to time: noting who is connected, and forgetting.

use std::sync::Arc;

use tracing::{info, warn};

use crate::now_ms;
use crate::state::{State, ms};

/// Rounds of noting who is connected between two of forgetting.
const ROUNDS: u32 = 5;

/// Runs until the registry stops.
pub(crate) async fn run(state: Arc<State>) {
    let mut ticks = tokio::time::interval(state.config.times.clean / ROUNDS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = 0;
    loop {
        tokio::select! {
            () = state.closing.cancelled() => return,
            _ = ticks.tick() => {}
        }
        round += 1;
        if let Err(error) = keep(&state, round % ROUNDS == 0).await {
            warn!(%error, "housekeeping failed; it is tried again");
        }
    }
}

async fn keep(state: &State, forget: bool) -> peerloom_core::Result<()> {
    let now = now_ms();
    state.store.touch(state.hub.all(), now).await?;
    if !forget {
        return Ok(());
    }
    state.address_policy.refresh();
    state.by_address.purge();
    state.by_device.purge();
    state.by_sender.purge();
    state.newcomers.purge();
    let gone = state.store.forget(now.saturating_sub(ms(state.config.times.stale)), now).await?;
    if gone > 0 {
        info!(gone, left = state.store.devices(), "devices that weren't seen lately are forgotten");
    }
    Ok(())
}
