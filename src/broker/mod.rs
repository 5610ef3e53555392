//! Brokers: what stands between the gateways and the backends.

pub mod embedded;

pub use embedded::Embedded;
