//! One thread, one owner of everything in it: sockets, sessions, subscription table, outboxes, timers.
