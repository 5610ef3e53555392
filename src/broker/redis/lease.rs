//! The lease of the duties: a key with its number, which its holder replaces.

use super::Redis;
use super::scripts::run;
use crate::broker::lease::{Fence, Register};
use crate::broker::requests::Doing;
use crate::event::Refusal;

impl Redis {
    async fn try_read(&self) -> Result<u64, Refusal> {
        let (mut connection, _) = self.shared.line().ok_or(Refusal::Unavailable)?;
        let mut command = redis::cmd("GET");
        command.arg(&self.shared.keys.lease);
        let number: Result<Option<u64>, _> = command.query_async(&mut connection).await;
        number.map(Option::unwrap_or_default).map_err(|_| Refusal::Unavailable)
    }

    async fn try_replace(&self, after: u64) -> Result<Option<u64>, Refusal> {
        let (mut connection, scripts) = self.shared.line().ok_or(Refusal::Unavailable)?;
        let keys = &self.shared.keys;
        let mut command = keys.call(&scripts.lease, &[&keys.lease, &keys.state]);
        command.arg(after);
        match run::<u64>(&mut connection, &command).await {
            Ok(number) => Ok((number > 0).then_some(number)),
            Err(error) => Err(error.refusal_of("the lease of the duties")),
        }
    }

    async fn try_remove(&self, number: u64) {
        if let Some((mut connection, scripts)) = self.shared.line() {
            let keys = &self.shared.keys;
            let mut command = keys.call(&scripts.take, &[&keys.lease]);
            command.arg(number);
            // If it fails, the others wait until it is over.
            let _ = run::<u8>(&mut connection, &command).await;
        }
    }
}

impl Register for Redis {
    fn read_lease(&self) -> Doing<'_, Result<u64, Refusal>> {
        Box::pin(self.try_read())
    }

    fn replace_lease(&self, after: u64) -> Doing<'_, Result<Option<u64>, Refusal>> {
        Box::pin(self.try_replace(after))
    }

    fn remove_lease(&self, number: u64) -> Doing<'_, ()> {
        Box::pin(self.try_remove(number))
    }

    fn fence(&self, number: u64) -> Fence {
        self.shared.fence(number)
    }
}
