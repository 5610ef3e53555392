//! Verifies tokens off the shard threads, with a cache of verified ones.
