//! The three lines an integrator writes, and the events that follow.
//!
//! `cargo run -p peerloom-example-minimal -- FOLDER/peerloom.toml 'peerloom://invite/…'`
#![allow(clippy::print_stdout)]

use peerloom::{Event, MessageState, Node};

#[tokio::main]
async fn main() -> peerloom::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().unwrap_or_else(|| "peerloom.toml".into());
    let invite = arguments.next().unwrap_or_default();

    let node = Node::from_file(file).await?;
    let bob = node.add_contact(invite).await?;
    let mut events = node.events().await?;
    node.conversation(bob).send("hello").await?; // durable once this returns

    while let Some(event) = events.next().await {
        match event {
            Event::Message(message) => {
                println!("message: {}", message.text().unwrap_or("(not text)"))
            }
            Event::Receipt { state: MessageState::Delivered, messages, .. } => {
                println!("delivered: {}", messages.len());
                break;
            }
            Event::Receipt { state, .. } => println!("receipt: {state:?}"),
            Event::PeerUp { user, .. } => println!("peer up: {}", user.short()),
            Event::PeerDown { user, reason, .. } => {
                println!("peer down: {} ({reason})", user.short())
            }
            Event::Online => println!("online"),
            Event::Offline => println!("offline"),
            Event::Stalled { .. } => {
                println!("stalled: the message waits until the contact appears")
            }
            _ => {}
        }
    }
    node.shutdown().await;
    Ok(())
}
