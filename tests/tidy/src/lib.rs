//! Checks the rules of `ARCHITECTURE.md`; see `tests/`.
