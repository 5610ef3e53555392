//! The notices that gateways write into the log of NATS.

use tokio::runtime::Runtime;

use crate::nats_server::Nats;
use crate::node::until;

/// The notices that gateways write into the log.
pub(crate) struct Notices {
    runtime: Runtime,
    log: async_nats::jetstream::stream::Stream,
}

impl Notices {
    pub(crate) fn of(server: &Nats) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let log = runtime.block_on(async {
            let client = async_nats::connect(server.url()).await.expect("connected");
            let context = async_nats::jetstream::new(client);
            context.get_stream("suite_one_LOG").await.expect("a log")
        });
        Self { runtime, log }
    }

    fn newest(&self) -> u64 {
        let newest = self.log.get_last_raw_message_by_subject("suite.one.terms");
        self.runtime.block_on(newest).map_or(0, |message| message.sequence)
    }

    /// Waits for the next one. A log that has lost all of them begins a new epoch.
    pub(crate) fn wait(&self) {
        let before = self.newest();
        until("a notice", || self.newest() > before);
    }
}
