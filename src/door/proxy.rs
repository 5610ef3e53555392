//! Whose word on the client's address is believed, and how it is read.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// `trusted_proxies`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    unix: bool,
}

/// Why an entry of `trusted_proxies` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is neither an IP address, a network such as 10.0.0.0/8, nor \"unix\"")]
pub struct ProxyError;

impl TrustedProxies {
    /// Checks the entries. On failure tells the index of the bad one.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, (usize, ProxyError)> {
        let mut proxies = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            match entry.as_ref() {
                "unix" => proxies.unix = true,
                text => proxies.networks.push(network(text).ok_or((index, ProxyError))?),
            }
        }
        Ok(proxies)
    }

    /// Whether the peer at this address is believed; `None` is the peer of a Unix socket.
    #[must_use]
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        let Some(peer) = peer else { return self.unix };
        // A v4 peer of a v6 socket is written ::ffff:a.b.c.d.
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }
}

fn network(text: &str) -> Option<IpNet> {
    let network = IpNet::from_str(text).ok();
    network.or_else(|| IpAddr::from_str(text).ok().map(IpNet::from))
}
