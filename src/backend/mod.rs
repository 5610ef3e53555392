//! The platform's own services: where commands go, and what is polled for events.
//!
//! Invariant: nothing here runs on a shard's thread. A backend that is slow or down costs the requests that need it.

pub mod commands;
pub mod feeds;
