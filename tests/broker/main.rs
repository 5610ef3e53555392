//! The conformance suite of brokers: what every broker promises, checked at the hubs of several gateways. The embedded
//! broker is one gateway, NATS and Redis are three over a real server.

#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/sources.rs"]
mod http_source;
#[path = "../support/nats_server.rs"]
mod nats_server;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/redis_cluster.rs"]
mod redis_cluster;
#[path = "../support/redis_server.rs"]
mod redis_server;

mod claims;
mod crowd;
mod faults;
mod feeds;
mod gateways;
mod ingest;
mod losses;
mod node;
mod notices;
mod planted;
mod read_back;
mod redis_access;
mod redis_clients;
mod redis_cluster_faults;
mod redis_faults;
mod requests;
mod sessions;
mod storm;
mod suite;
mod tenants;
mod world;
