//! Client frames to messages, in place.

use std::ops::Range;

use super::deflate::Inflater;
use super::header::{self, Assembled, CONTROL_BYTES_MAX, Context, HEADER_BYTES_MAX, Header, Opcode};
use super::utf8::Utf8Stream;
use super::{Error, Message};

/// Decodes what one client sends.
///
/// It owns no read buffer and inflates nothing itself. Hand it each read's bytes and call [`next`](Self::next) until it returns `None`:
///
/// ```
/// # use tickgate::wire::{Decoder, Error, Inflater, Message};
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
/// A frame that lies whole in the buffer and is a whole message is unmasked where it lies. Only what is incomplete
/// at the end of a read is copied, into a box that exists as long as something is incomplete: an idle decoder is 16
/// bytes and owns nothing.
///
/// After a Close frame or an error nothing more is decoded: further input is consumed and ignored.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    message_bytes_max: u32,
    deflate: bool,
    ended: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 16);

/// What is kept of an incomplete frame, of a fragmented message in progress, or of both (a control frame may be cut
/// by the end of a read while a fragmented message is in progress).
#[derive(Debug, Default)]
struct Partial {
    /// A header of which not all bytes have arrived.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: usize,
    /// The frame whose payload is incomplete, and how much of that payload is here already.
    frame: Option<(Header, usize)>,
    /// `Text` or `Binary` while a data message is in progress.
    kind: Option<Opcode>,
    /// Whether that is compressed. Then it is inflated, and text validated, when it is complete.
    deflated: bool,
    /// The data message so far, unmasked. Never longer than the limit: each header was checked against it.
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

/// Where the next message lies.
enum Found {
    Nothing,
    InPlace(Opcode, Range<usize>),
    InPlaceDeflated(Opcode, Range<usize>),
    Message(Opcode),
    MessageDeflated(Opcode),
    Control(Opcode, usize),
}

impl Decoder {
    /// A decoder for one connection. `message_bytes_max` bounds a whole message over all its fragments; a longer one
    /// is refused from the header that goes over it.
    #[must_use]
    pub const fn new(message_bytes_max: u32) -> Self {
        Self {
            partial: None,
            message_bytes_max,
            deflate: false,
            ended: false,
        }
    }

    /// The same for a connection that negotiated permessage-deflate (RFC 7692): data messages may be compressed. The
    /// limit is that of the inflated message then, as it grows.
    #[must_use]
    pub const fn with_deflate(mut self) -> Self {
        self.deflate = true;
        self
    }

    /// The next message in `input[*position..]`; `position` moves behind what was used. `input` is what one read
    /// brought, the same slice until `None` is returned.
    ///
    /// Before and after: `0 <= *position <= input.len()`. On `None` and on an error `*position == input.len()`: the
    /// buffer may be reused, what is incomplete was copied. Bytes before `*position` have been unmasked in place.
    /// A compressed message is borrowed from `inflater`, of which any will do.
    ///
    /// # Errors
    ///
    /// The first rule of RFC 6455 that the client broke, as soon as the byte that breaks it is here (a text message
    /// fails inside a frame, not at its end). The decoder has ended then.
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
        // Only from here on is anything borrowed for the caller, so that the search could loop over fragments.
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

    /// Memory held for an incomplete frame or message, in bytes. 0 when there is none (after [`next`](Self::next)
    /// has returned `None`).
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.partial
            .as_deref()
            .map_or(0, |partial| size_of::<Partial>() + partial.message.capacity())
    }

    /// Whether a frame or a fragmented message has begun and not ended: the peer owes the rest.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.partial.as_deref().is_some_and(|partial| !partial.is_finished())
    }

    /// Whether a Close frame or an error has ended the decoding.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Frees what the message returned last was borrowed from.
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

    /// The frame that `input[*position..]` is in, and how many bytes of its payload came before. Reads its header
    /// when it is a new one; `None` when the header is incomplete (then all input was kept).
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

    /// The data message that was assembled last, as it arrived.
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

    /// Completes the header that earlier reads began.
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

    /// Takes the next `chunk` (unmasked) of a frame's payload, of which `done` bytes are here already. `None`: the
    /// frame is complete, but not the message.
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
        // What is wrong with the whole is found here already, where the memory can still be freed.
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
        // Grows by doubling as bytes arrive: a lying header costs at most twice what was sent, and a message in
        // one-byte fragments is not copied for each of them.
        self.message.extend_from_slice(chunk);
        Ok(())
    }
}

/// The mask as it applies from the payload's byte `done` on.
fn rotated(mut mask: [u8; 4], done: usize) -> [u8; 4] {
    mask.rotate_left(done % 4);
    mask
}

/// Checks what can only be checked of a whole payload.
fn present(opcode: Opcode, payload: &[u8]) -> Result<Message<'_>, Error> {
    match opcode {
        Opcode::Text => Ok(Message::Text(text(payload)?)),
        Opcode::Ping => Ok(Message::Ping(payload)),
        Opcode::Pong => Ok(Message::Pong(payload)),
        Opcode::Close => close(payload).map(Message::Close),
        // A continuation is always part of a message, which is presented under the opcode it began with.
        Opcode::Binary | Opcode::Continuation => Ok(Message::Binary(payload)),
    }
}

fn text(payload: &[u8]) -> Result<&str, Error> {
    simdutf8::basic::from_utf8(payload).map_err(|_| Error::InvalidUtf8)
}

/// Section 5.5.1: nothing, or a code and a reason.
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

/// Section 7.4 and IANA's registry of close codes: 1005, 1006 and 1015 never appear in a frame, 1004 and 1016 to
/// 2999 are reserved, 3000 to 4999 belong to libraries and applications.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
