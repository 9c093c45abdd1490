//! The Rust in the documents, compiled and run as documentation tests.

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/embed.md")]
struct Embed;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/write-a-store.md")]
struct WriteAStore;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/write-a-transport.md")]
struct WriteATransport;
