//! The platform's own services: backends that carry out commands, and sources that are polled for events.
//!
//! Invariant: nothing here runs on a shard's thread. A slow or failing backend delays only the requests that need it.

pub mod commands;
pub mod feeds;
pub mod ingest;
pub mod jwks;
mod lines;
mod report;
pub mod spans;
