//! Names of channels in the file: that of the tenant, a zero byte and that of the channel. A channel of the default tenant
//! has its plain name.
//!
//! Invariant: the file holds names of tenants, never their numbers, which may differ after a restart.

use std::borrow::Cow;

use super::Error;
use tickgate_protocol::channel::{Channel, TenantNames};

/// Between the names of the tenant and of the channel. Neither can contain it.
const SEPARATOR: char = '\0';

/// The name of a channel in the file.
#[derive(Debug)]
pub(super) struct StoredName {
    // `None`: the default tenant.
    tenant: Option<Box<str>>,
    // As one of the default tenant.
    channel: Channel,
}

impl StoredName {
    /// Reads a name.
    ///
    /// # Errors
    ///
    /// The name of the channel is not valid.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let (tenant, name) = match text.split_once(SEPARATOR) {
            Some((tenant, name)) => (Some(tenant.into()), name),
            None => (None, text),
        };
        match Channel::parse(name) {
            Ok(channel) => Ok(Self { tenant, channel }),
            Err(_) => Err(Error::damaged("a channel name is invalid")),
        }
    }

    /// The name as it is written.
    pub(super) fn text(&self) -> Cow<'_, str> {
        join(self.tenant.as_deref(), self.channel.as_str())
    }

    /// The channel, if its tenant exists.
    ///
    /// # Errors
    ///
    /// The name of a tenant that does not exist.
    pub(super) fn channel(&self, tenants: &TenantNames) -> Result<Channel, Box<str>> {
        let channel = self.channel.clone();
        match &self.tenant {
            None => Ok(channel),
            Some(name) => match tenants.find(name) {
                Some(tenant) => Ok(channel.in_tenant(tenant)),
                None => Err(name.clone()),
            },
        }
    }
}

/// The name of a channel as it is written.
pub(super) fn text<'a>(channel: &'a Channel, tenants: &TenantNames) -> Cow<'a, str> {
    join(tenants.of(channel.tenant()), channel.as_str())
}

fn join<'a>(tenant: Option<&str>, channel: &'a str) -> Cow<'a, str> {
    match tenant {
        None => Cow::Borrowed(channel),
        Some(tenant) => Cow::Owned(format!("{tenant}{SEPARATOR}{channel}")),
    }
}
