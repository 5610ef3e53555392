//! Brokers: what stands between the gateways and the backends.
