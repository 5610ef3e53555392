//! A `subscribe` in several messages, because its `recover` is too long for one.
//!
//! Invariant: nothing is subscribed before the last message. What the others bring is bounded in number and in time, and
//! forgotten as soon as one of them is refused.

use super::activity::Subscribe;
use super::{Context, Outputs, Session};
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::message::{ErrorCode, RECOVER_CHANNELS_MAX, Reached, Recover, RequestRef, Resume};

/// How long the client may take from the first message to the last, in milliseconds.
const PATIENCE_MS: u64 = 30_000;

/// The bytes of the names of all channels.
const NAMES_BYTES_MAX: usize = 512 * 1024;

/// What was noted of a `subscribe`.
#[derive(Debug)]
pub(super) struct Parts {
    patterns: Vec<Pattern>,
    keys: Vec<(Channel, Reached)>,
    names_bytes: usize,
    due_ms: u64,
}

/// What a `subscribe` asks for: what its client has, and the patterns that are not held yet.
pub(super) type Checked = (Option<Resume>, Vec<Pattern>);

impl Parts {
    /// When the last message must be there, in monotonic milliseconds.
    pub(super) const fn due_ms(&self) -> u64 {
        self.due_ms
    }

    fn add(&mut self, resume: Option<Resume>, patterns: &[Pattern]) -> Result<(), (ErrorCode, String)> {
        let invalid = |message: String| Err((ErrorCode::InvalidMessage, message));
        let Some(Resume::Keys(Recover(keys))) = resume else {
            return invalid("`recover` is missing: the `subscribe` before had `more`; begin anew with it".to_owned());
        };
        self.names_bytes += keys.iter().map(|(channel, _)| channel.as_str().len()).sum::<usize>();
        if self.keys.len() + keys.len() > RECOVER_CHANNELS_MAX || self.names_bytes > NAMES_BYTES_MAX {
            return invalid(format!(
                "`recover` of all messages holds more than {RECOVER_CHANNELS_MAX} channels, or more than {} KiB of their names",
                NAMES_BYTES_MAX / 1024
            ));
        }
        self.keys.extend(keys);
        for pattern in patterns {
            if !self.patterns.contains(pattern) {
                self.patterns.push(pattern.clone());
            }
        }
        Ok(())
    }
}

impl Session {
    /// Takes out what was noted.
    pub(super) fn take_parts(&mut self) -> Option<Parts> {
        self.activity.as_mut()?.parts.take()
    }

    /// Joins a message with those before it. Returns `None` if more are to come.
    ///
    /// # Errors
    ///
    /// All messages together ask for something that is refused.
    pub(super) fn join_parts(
        &mut self,
        (parts, more): (Option<Parts>, bool),
        (resume, new): Checked,
        client_request: &mut Subscribe,
        context: &Context<'_>,
    ) -> Result<Option<Checked>, (ErrorCode, String)> {
        if parts.is_none() && !more {
            return Ok(Some((resume, new)));
        }
        let mut parts = parts.unwrap_or_else(|| Parts {
            patterns: Vec::new(),
            keys: Vec::new(),
            names_bytes: 0,
            due_ms: context.now.mono_ms + PATIENCE_MS,
        });
        parts.add(resume, &client_request.patterns)?;
        if more {
            self.activity().parts = Some(parts);
            return Ok(None);
        }
        client_request.patterns = parts.patterns;
        let new = self.new_patterns(&client_request.patterns, context)?;
        Ok(Some((Some(Resume::Keys(Recover(parts.keys))), new)))
    }

    /// Forgets what was noted if the last message did not come in time, and tells the client.
    pub(super) fn expire_parts(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let activity = self.activity.as_mut();
        let is_due = |parts: &mut Parts| parts.due_ms <= context.now.mono_ms;
        if activity.is_some_and(|activity| activity.parts.take_if(is_due).is_some()) {
            let message = "the last message of a `subscribe` with `more` did not come within 30 s; begin anew with it";
            out.error(&RequestRef::default(), ErrorCode::InvalidMessage, message, context);
        }
    }
}
