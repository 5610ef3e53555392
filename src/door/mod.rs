//! The door: accepts, speaks HTTP/1 until the upgrade, then hands the bare socket to a shard.
