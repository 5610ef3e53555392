//! Puts the rooms together: starts the shards, the door, the admin listener and the pulse, and drains them.
