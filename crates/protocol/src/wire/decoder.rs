//! Decodes the frames of a client into messages, in place.

use std::ops::Range;

use super::deflate::Inflater;
use super::encode::CONTROL_BYTES_MAX;
use super::header::{self, Assembled, Context, HEADER_BYTES_MAX, Header, Opcode};
use super::utf8::Utf8Stream;
use super::{Error, Message};

/// Decodes the frames of one client.
///
/// The caller owns the read buffer and the [`Inflater`]. After each read, call [`next`](Self::next) until it returns
/// `None`:
///
/// ```
/// # use tickgate_protocol::wire::{Decoder, Error, Inflater, Message};
/// # fn read(scratch: &mut [u8]) -> usize { scratch[..8].copy_from_slice(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']); 8 }
/// # fn main() -> Result<(), Error> {
/// let mut decoder = Decoder::new(64 * 1024);
/// let mut scratch = [0; 16 * 1024];
/// let mut inflater = Inflater::default();
/// let filled = read(&mut scratch);
/// let mut position = 0;
/// while let Some(message) = decoder.next(&mut scratch[..filled], &mut position, &mut inflater)? {
///     assert_eq!(message, Message::Text("hi"));
/// }
/// assert_eq!(position, filled);
/// # Ok(())
/// # }
/// ```
///
/// A message in a single frame that is complete in the buffer is unmasked there and not copied. The incomplete rest of a
/// read is copied into a box, which is freed once nothing is incomplete. An idle decoder has 16 bytes and owns no memory.
///
/// After a Close frame or an error nothing more is decoded. Further input is consumed and ignored.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    message_bytes_max: u32,
    deflate: bool,
    ended: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 16);

/// The state of an incomplete frame, of a fragmented message in progress, or of both. Both exist when a read ends inside a
/// control frame between two fragments.
#[derive(Debug, Default)]
struct Partial {
    /// The first `head_bytes` bytes of an incomplete header.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: usize,
    /// The frame whose payload is incomplete, and the number of payload bytes that have arrived.
    frame: Option<(Header, usize)>,
    /// `Text` or `Binary` while a data message is in progress.
    kind: Option<Opcode>,
    /// Whether the data message is compressed. Such a message is inflated and validated when it is complete.
    deflated: bool,
    /// The data message so far, unmasked. Each header was checked against the size limit, so it stays within it.
    message: Vec<u8>,
    utf8: Utf8Stream,
    control: Control,
}

#[derive(Debug)]
struct Control([u8; CONTROL_BYTES_MAX]);

impl Default for Control {
    fn default() -> Self {
        Self([0; CONTROL_BYTES_MAX])
    }
}

/// The location of the next message.
enum Found {
    Nothing,
    InPlace(Opcode, Range<usize>),
    InPlaceDeflated(Opcode, Range<usize>),
    Message(Opcode),
    MessageDeflated(Opcode),
    Control(Opcode, usize),
}

impl Decoder {
    /// Creates a decoder for one connection. `message_bytes_max` limits a message, summed over its fragments. A longer
    /// message fails at the header that exceeds the limit.
    #[must_use]
    pub const fn new(message_bytes_max: u32) -> Self {
        Self {
            partial: None,
            message_bytes_max,
            deflate: false,
            ended: false,
        }
    }

    /// Allows compressed messages, for a connection that negotiated permessage-deflate (RFC 7692). The size limit then
    /// applies to the inflated message.
    #[must_use]
    pub const fn with_deflate(mut self) -> Self {
        self.deflate = true;
        self
    }

    /// Decodes the next message in `input[*position..]` and advances `position`.
    ///
    /// `input` holds the bytes of one read. Pass the same slice until this returns `None`. A compressed message is inflated
    /// into `inflater`, which any number of decoders can share.
    ///
    /// `*position <= input.len()` holds before and after the call. After `None` or an error `*position == input.len()`, and
    /// the buffer can be reused, because an incomplete rest was copied. Bytes before `*position` were unmasked in place.
    ///
    /// # Errors
    ///
    /// The first rule that the client broke, as soon as the byte that breaks it has arrived. A text message can fail in the
    /// middle of a frame. After an error the decoder has ended.
    pub fn next<'a>(
        &'a mut self,
        input: &'a mut [u8],
        position: &mut usize,
        inflater: &'a mut Inflater,
    ) -> Result<Option<Message<'a>>, Error> {
        debug_assert!(*position <= input.len());
        self.drop_finished();
        let input_bytes = input.len();
        let found = self.find(input, position);
        let bytes_max = self.message_bytes_max as usize;
        // The message is borrowed only here. A borrow inside `find` would forbid its loop over fragments.
        let message = match found {
            Ok(Found::Nothing) => return Ok(None),
            Ok(Found::InPlace(opcode, range)) => present(opcode, &input[range]),
            Ok(Found::InPlaceDeflated(opcode, range)) => inflater
                .inflate(&input[range], bytes_max)
                .and_then(|message| present(opcode, message)),
            Ok(Found::MessageDeflated(opcode)) => inflater
                .inflate(self.assembled(), bytes_max)
                .and_then(|message| present(opcode, message)),
            Ok(Found::Message(opcode)) => return present(opcode, self.assembled()).map(Some),
            Ok(Found::Control(opcode, bytes)) => {
                let payload = self
                    .partial
                    .as_deref()
                    .map_or(&[][..], |partial| &partial.control.0[..bytes]);
                self.ended = opcode == Opcode::Close;
                return present(opcode, payload).map(Some);
            }
            Err(error) => Err(error),
        };
        match message {
            Ok(message) => {
                self.ended = matches!(message, Message::Close(_));
                Ok(Some(message))
            }
            Err(error) => {
                self.partial = None;
                self.ended = true;
                *position = input_bytes;
                Err(error)
            }
        }
    }

    /// The memory held for an incomplete frame or message, in bytes. After [`next`](Self::next) has returned `None`, it is 0
    /// unless something is incomplete.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.partial
            .as_deref()
            .map_or(0, |partial| size_of::<Partial>() + partial.message.capacity())
    }

    /// Whether a frame or a fragmented message is incomplete.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.partial.as_deref().is_some_and(|partial| !partial.is_finished())
    }

    /// Whether a Close frame or an error ended the decoding.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Frees the memory that the last returned message borrowed.
    fn drop_finished(&mut self) {
        if self.ended || self.partial.as_deref().is_some_and(Partial::is_finished) {
            self.partial = None;
        }
    }

    fn find(&mut self, input: &mut [u8], position: &mut usize) -> Result<Found, Error> {
        if self.ended {
            *position = input.len();
        }
        while *position < input.len() {
            let Some((header, done)) = self.current_frame(input, position)? else {
                break;
            };
            let available = input.len() - *position;
            let taken = available.min(header.payload_bytes - done);
            let range = *position..*position + taken;
            *position = range.end;
            fastwebsockets::unmask(&mut input[range.clone()], rotated(header.mask, done));
            if taken == header.payload_bytes && header.stands_alone() {
                return Ok(if header.deflated {
                    Found::InPlaceDeflated(header.opcode, range)
                } else {
                    Found::InPlace(header.opcode, range)
                });
            }
            if let Some(found) = self.partial().take(header, done, &input[range])? {
                return Ok(found);
            }
        }
        Ok(Found::Nothing)
    }

    /// The frame to which `input[*position..]` belongs, and the number of its payload bytes that came before. Reads the
    /// header of a new frame. `None` if that header is incomplete; the rest of the input was copied then.
    fn current_frame(&mut self, input: &[u8], position: &mut usize) -> Result<Option<(Header, usize)>, Error> {
        let Some(partial) = self.partial.as_deref_mut() else {
            let context = Context {
                deflate: self.deflate,
                assembled: None,
                message_bytes_max: self.message_bytes_max as usize,
            };
            let parsed = header::parse(&input[*position..], context)?;
            return Ok(self.begin_frame(input, position, parsed));
        };
        if let Some(frame) = partial.frame.take() {
            return Ok(Some(frame));
        }
        let context = Context {
            deflate: self.deflate,
            assembled: partial.kind.map(|_| Assembled {
                bytes: partial.message.len(),
                deflated: partial.deflated,
            }),
            message_bytes_max: self.message_bytes_max as usize,
        };
        if partial.head_bytes == 0 {
            let parsed = header::parse(&input[*position..], context)?;
            return Ok(self.begin_frame(input, position, parsed));
        }
        partial.continue_head(input, position, context)
    }

    fn begin_frame(
        &mut self,
        input: &[u8],
        position: &mut usize,
        parsed: Option<(Header, usize)>,
    ) -> Option<(Header, usize)> {
        if let Some((header, header_bytes)) = parsed {
            *position += header_bytes;
            return Some((header, 0));
        }
        let rest = &input[*position..];
        *position = input.len();
        let partial = self.partial();
        partial.head[..rest.len()].copy_from_slice(rest);
        partial.head_bytes = rest.len();
        None
    }

    /// The payload of the data message that was assembled last, still compressed if it was.
    fn assembled(&self) -> &[u8] {
        self.partial.as_deref().map_or(&[][..], |partial| &partial.message)
    }

    fn partial(&mut self) -> &mut Partial {
        self.partial.get_or_insert_default()
    }
}

impl Partial {
    fn is_finished(&self) -> bool {
        self.head_bytes == 0 && self.frame.is_none() && self.kind.is_none()
    }

    /// Continues the incomplete header of earlier reads.
    fn continue_head(
        &mut self,
        input: &[u8],
        position: &mut usize,
        context: Context,
    ) -> Result<Option<(Header, usize)>, Error> {
        let had = self.head_bytes;
        let rest = &input[*position..];
        let copied = rest.len().min(HEADER_BYTES_MAX - had);
        self.head[had..had + copied].copy_from_slice(&rest[..copied]);
        let Some((header, header_bytes)) = header::parse(&self.head[..had + copied], context)? else {
            self.head_bytes = had + copied;
            *position += copied;
            return Ok(None);
        };
        self.head_bytes = 0;
        *position += header_bytes - had;
        Ok(Some((header, 0)))
    }

    /// Adds the next unmasked `chunk` of a frame's payload, of which `done` bytes came before. `None` if the frame is
    /// complete and the message is not.
    fn take(&mut self, header: Header, done: usize, chunk: &[u8]) -> Result<Option<Found>, Error> {
        let end = done + chunk.len();
        let is_whole = end == header.payload_bytes;
        if chunk.is_empty() && !is_whole {
            self.frame = Some((header, done));
            return Ok(Some(Found::Nothing));
        }
        if header.opcode.is_control() {
            self.control.0[done..end].copy_from_slice(chunk);
        } else {
            self.take_data(header, done, chunk)?;
        }
        if !is_whole {
            self.frame = Some((header, end));
            return Ok(Some(Found::Nothing));
        }
        // Checked before the payload is borrowed for the caller, so that an error can still free the memory.
        if header.opcode.is_control() {
            present(header.opcode, &self.control.0[..end])?;
            return Ok(Some(Found::Control(header.opcode, end)));
        }
        if !header.fin {
            return Ok(None);
        }
        if !self.utf8.is_complete() {
            return Err(Error::InvalidUtf8);
        }
        let found = if self.deflated {
            Found::MessageDeflated
        } else {
            Found::Message
        };
        Ok(self.kind.take().map(found))
    }

    fn take_data(&mut self, header: Header, done: usize, chunk: &[u8]) -> Result<(), Error> {
        if done == 0 && header.opcode != Opcode::Continuation {
            self.kind = Some(header.opcode);
            self.deflated = header.deflated;
            self.message.clear();
            self.utf8 = Utf8Stream::default();
        }
        if self.kind == Some(Opcode::Text) && !self.deflated {
            self.utf8.push(chunk)?;
        }
        // The vector doubles as bytes arrive. So a false length costs at most twice the bytes that were sent, and a message
        // in one-byte fragments is not copied for each fragment.
        self.message.extend_from_slice(chunk);
        Ok(())
    }
}

/// The masking key, rotated to apply from payload byte `done` on (RFC 6455, section 5.3).
fn rotated(mut mask: [u8; 4], done: usize) -> [u8; 4] {
    mask.rotate_left(done % 4);
    mask
}

/// Turns a complete payload into a message, with the checks that need the whole payload.
fn present(opcode: Opcode, payload: &[u8]) -> Result<Message<'_>, Error> {
    match opcode {
        Opcode::Text => Ok(Message::Text(text(payload)?)),
        Opcode::Ping => Ok(Message::Ping(payload)),
        Opcode::Pong => Ok(Message::Pong(payload)),
        Opcode::Close => close(payload).map(Message::Close),
        // An assembled message has the opcode of its first frame, so `Continuation` does not occur.
        Opcode::Binary | Opcode::Continuation => Ok(Message::Binary(payload)),
    }
}

fn text(payload: &[u8]) -> Result<&str, Error> {
    simdutf8::basic::from_utf8(payload).map_err(|_| Error::InvalidUtf8)
}

/// Reads the payload of a Close frame: nothing, or a code and a reason (RFC 6455, section 5.5.1).
fn close(payload: &[u8]) -> Result<Option<(u16, &str)>, Error> {
    match payload {
        [] => Ok(None),
        [_] => Err(Error::Protocol("close frame with half a code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_be_sent(code) {
                return Err(Error::Protocol("close code that must not be sent"));
            }
            Ok(Some((code, text(reason)?)))
        }
    }
}

/// Whether a Close frame may have this code (RFC 6455, section 7.4, and IANA's registry of close codes).
///
/// The codes 1005, 1006 and 1015 must not appear in a frame. 1004 and 1016 to 2999 are reserved. 3000 to 4999 are for
/// libraries and applications.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
