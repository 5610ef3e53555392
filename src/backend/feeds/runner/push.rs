//! Polls that operators ask for.

use tokio::sync::oneshot;

use super::Runner;
use crate::backend::feeds::{Push, PushRefused};

impl Runner {
    /// Makes the channels that an operator named due now.
    pub(super) fn push(&mut self, push: Push) {
        let now_ms = self.now_ms();
        let (mut known, mut refused, mut polls) = (false, false, Vec::new());
        for index in 0..self.feeds.len() {
            let template = &self.feeds[index].poller.settings.channel;
            if !template.can_match(&push.channels) {
                continue;
            }
            known = true;
            let channels = match (template.fixed(), push.channels.is_exact()) {
                (Some(channel), _) => vec![channel.clone()],
                (None, true) => push.channels.to_channel().into_iter().collect(),
                (None, false) => {
                    let live = self.feeds[index].channels.iter();
                    let live = live.filter(|(_, key)| self.instances[**key].is_wanted(now_ms));
                    live.map(|(channel, _)| channel.clone()).collect()
                }
            };
            for channel in channels {
                let Some(key) = self.instance(index, &channel) else {
                    refused = true;
                    continue;
                };
                let (sender, result) = oneshot::channel();
                polls.push((channel.as_str().into(), result));
                self.instances[key].pushes.push(sender);
                self.reschedule(key, |schedule, _| schedule.push_requested(now_ms));
            }
        }
        // The receiver is gone when the operator's request was dropped meanwhile.
        let _ = push.reply.send(match (known, refused && polls.is_empty()) {
            (false, _) => Err(PushRefused::Unknown),
            (true, true) => Err(PushRefused::Value),
            (true, false) => Ok(polls),
        });
    }
}
