//! Masked frames as clients send them, valid or not.

/// First bytes of frames (FIN and opcode).
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
/// First bytes of a message's first fragment: the opcode without FIN.
pub const TEXT_BEGIN: u8 = 0x01;
pub const BINARY_BEGIN: u8 = 0x02;
/// First bytes of a middle and of a last fragment.
pub const CONTINUE: u8 = 0x00;
pub const END: u8 = 0x80;

/// The encoding of a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Shortest,
    Bits16,
    Bits64,
}

/// A masked frame with the shortest length encoding.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, Length::Shortest, payload.len() as u64);
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
    bytes
}

/// The header of a masked frame, without the masking key.
pub fn header(first: u8, encoding: Length, length: u64) -> Vec<u8> {
    let encoding = match encoding {
        Length::Shortest if length > 0xffff => Length::Bits64,
        Length::Shortest if length > 125 => Length::Bits16,
        given => given,
    };
    let mut bytes = vec![first];
    match encoding {
        Length::Shortest => bytes.push(0x80 | length as u8),
        Length::Bits16 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        Length::Bits64 => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}
