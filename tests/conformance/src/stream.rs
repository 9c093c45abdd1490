//! What every transport of plain byte streams must do, and the links that the stack makes of them.

use std::sync::Arc;
use std::time::Duration;

use peerloom_core::wire::Address;
use peerloom_core::{ByteStream, StreamListener, StreamTransport};
use peerloom_secured::Secured;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::identity::identity;
use crate::transport::{self, Side, within};

/// Runs the suite. `make` makes transports that can reach each other, each of them fresh.
pub async fn run(make: impl Fn() -> Arc<dyn StreamTransport>) {
    plain(&*make(), &*make()).await;
    transport::run(secured(make(), 1), secured(make(), 2), 128 * 1024).await;
    strangers_hold_nobody_up(make(), make()).await;
}

pub(crate) fn secured(streams: Arc<dyn StreamTransport>, number: u8) -> Side {
    let identity = identity(number);
    let transport = Secured::new(streams, &identity.secret).expect("a transport");
    Side { transport: Arc::new(transport), key: identity.key, signaling: None }
}

async fn plain(dialer: &dyn StreamTransport, listener: &dyn StreamTransport) {
    let accepting = listener.listen().await.expect("it listens");
    let address = accepting.addresses().first().cloned().expect("an address");
    assert_eq!(address.scheme(), listener.scheme());
    let nonsense: Address = format!("{}://nowhere-at-all", address.scheme()).parse().expect("an address");
    assert!(within("a refusal", dialer.dial(&nonsense)).await.is_err());

    let (mut near, mut far) = connect(dialer, &address, &*accepting).await;
    // The bytes come across in order, both ways, however they are cut.
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    let forth = copy(&mut near, &mut far, &bytes);
    assert!(within("the bytes", forth).await == bytes);
    let back = copy(&mut far, &mut near, &bytes);
    assert!(within("the bytes", back).await == bytes);

    // Whoever doesn't read holds up the writer.
    let block = vec![0; 1024 * 1024];
    let mut written = 0;
    let flood = async {
        loop {
            near.write_all(&block).await.expect("a write");
            written += 1;
        }
    };
    let stuck = tokio::time::timeout(Duration::from_secs(2), flood).await;
    assert!(stuck.is_err() && written < 64, "nobody reads, and {written} MiB were accepted");

    // An end is seen by the other side.
    let (near, mut far) = connect(dialer, &address, &*accepting).await;
    drop(near);
    assert_eq!(within("the end", far.read(&mut [0; 16])).await.unwrap_or(0), 0);
}

async fn connect(
    dialer: &dyn StreamTransport,
    address: &Address,
    accepting: &dyn StreamListener,
) -> (Box<dyn ByteStream>, Box<dyn ByteStream>) {
    let (near, far) = tokio::join!(within("a dial", dialer.dial(address)), within("an accept", accepting.accept()));
    let (far, from) = far.expect("a stream");
    assert!(!from.is_empty(), "people want to know where it comes from");
    (near.expect("a stream"), far)
}

async fn copy(from: &mut Box<dyn ByteStream>, to: &mut Box<dyn ByteStream>, bytes: &[u8]) -> Vec<u8> {
    let mut read = vec![0; bytes.len()];
    let write = async {
        from.write_all(bytes).await.expect("a write");
        from.flush().await.expect("a flush");
    };
    let (_, result) = tokio::join!(write, to.read_exact(&mut read));
    result.expect("as many bytes");
    read
}

/// More than there are places for handshakes.
const SILENT: usize = 100;

/// Those who say nothing, or nonsense, get no link and keep no one else from one.
async fn strangers_hold_nobody_up(dialer: Arc<dyn StreamTransport>, listener: Arc<dyn StreamTransport>) {
    let listener = secured(listener, 2);
    let mut accepting = listener.transport.listen(None).await.expect("it listens");
    let address = accepting.addresses().first().cloned().expect("an address");
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(within("a dial", dialer.dial(&address)).await.expect("a stream"));
    }
    let mut noisy = within("a dial", dialer.dial(&address)).await.expect("a stream");
    // 65,535 bytes are promised, and what comes is no key.
    let _ = noisy.write_all(&[&[0xff, 0xff][..], &[7; 512][..]].concat()).await;
    let _ = noisy.flush().await;

    let dialer = secured(dialer, 1);
    let near = within("a dial", dialer.transport.dial(&address, Some(&listener.key), None)).await.expect("a link");
    let far = within("an accept", accepting.accept()).await.expect("a link");
    assert_eq!(far.remote_key(), Some(dialer.key), "the first link is the honest one's");
    let _open = (silent, near);
    // Whatever it answered before, it lets the noisy one go.
    let mut rest = Vec::new();
    let _ = within("the end", noisy.read_to_end(&mut rest)).await;
    listener.transport.shutdown().await;
}
