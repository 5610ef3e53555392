//! The client's side of the wire: encodes masked frames and decodes the server's frames.

use serde_json::Value;

/// First bytes of frames: FIN and opcode.
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PONG: u8 = 0x8a;

/// A masked frame with the shortest length encoding.
pub(crate) fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length) if length <= 125 => bytes.push(0x80 | length as u8),
        Ok(length) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

/// A frame of the server.
#[derive(Clone, Debug)]
pub(crate) enum Received {
    Text(Value),
    Ping,
    Pong,
    Close(Option<u16>),
}

/// Decodes the server's bytes.
#[derive(Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a frame has begun and is not complete.
    pub(crate) fn is_mid_frame(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next complete frame.
    pub(crate) fn next(&mut self) -> Result<Option<Received>, String> {
        let &[first, second, ..] = &self.bytes[..] else {
            return Ok(None);
        };
        if second & 0x80 != 0 {
            return Err("the server masked a frame".into());
        }
        let (header, length) = match second {
            126 => match self.bytes.get(2..4) {
                Some(&[high, low]) => (4, usize::from(u16::from_be_bytes([high, low]))),
                _ => return Ok(None),
            },
            127 => return Err("a frame above 64 KiB".into()),
            short => (2, usize::from(short)),
        };
        if self.bytes.len() < header + length {
            return Ok(None);
        }
        let frame: Vec<u8> = self.bytes.drain(..header + length).collect();
        let payload = &frame[header..];
        Ok(Some(match first {
            TEXT => Received::Text(serde_json::from_slice(payload).map_err(|error| format!("not JSON: {error}"))?),
            0x89 => Received::Ping,
            PONG => Received::Pong,
            CLOSE => Received::Close(payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]))),
            other => return Err(format!("a frame that begins with {other:#x}")),
        }))
    }
}
