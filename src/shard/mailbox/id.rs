//! The id of a connection, and its public name.

/// Identifies one connection while it lives. The id of a connection that has ended matches no other connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The number of the shard.
    pub shard: u16,
    /// The index of the connection's slot in the shard.
    pub slot: u32,
    /// How often the slot was reused.
    pub generation: u32,
}

impl ConnectionId {
    /// The bits of a connection's number within its shard, in the public form.
    pub const SLOT_BITS: u32 = 26;

    /// 64 bits that identify this connection and look random: 6 bits of the shard, 26 of the slot and 32 of the
    /// generation, scrambled. A hub has at most 64 shards. Larger numbers of shards or slots would not be unique.
    #[must_use]
    pub fn public_bits(self) -> u64 {
        let shard_and_slot = u64::from(self.shard) << Self::SLOT_BITS | u64::from(self.slot);
        scramble(shard_and_slot << 32 | u64::from(self.generation))
    }

    /// The name that clients and the admin API see: `client_` and the [`public_bits`](Self::public_bits) as 16
    /// hexadecimal digits. The name contains the location of the connection, so no map of names is needed.
    #[must_use]
    pub fn client_id(self) -> String {
        format!("client_{:016x}", self.public_bits())
    }

    /// The inverse of [`client_id`](Self::client_id); `None` if the text is not such a name.
    ///
    /// The shard and the connection may not exist. The caller checks the shard, and the shard checks the connection.
    #[must_use]
    pub fn from_client_id(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("client_")?;
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 16 || !digits.bytes().all(is_digit) {
            return None;
        }
        Self::from_public_bits(u64::from_str_radix(digits, 16).ok()?)
    }

    /// The inverse of [`public_bits`](Self::public_bits). The shard and the connection may not exist.
    #[must_use]
    pub fn from_public_bits(bits: u64) -> Option<Self> {
        let bits = unscramble(bits);
        let shard_and_slot = bits >> 32;
        Some(Self {
            shard: u16::try_from(shard_and_slot >> Self::SLOT_BITS).ok()?,
            slot: u32::try_from(shard_and_slot & ((1 << Self::SLOT_BITS) - 1)).ok()?,
            generation: u32::try_from(bits & u64::from(u32::MAX)).ok()?,
        })
    }
}

/// The finalizer of splitmix64, a bijection of 64 bits. It hides nothing: it only makes similar numbers look different.
pub(in crate::shard) const fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The inverse of [`scramble`].
const fn unscramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 31) ^ (bits >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    bits = (bits ^ (bits >> 27) ^ (bits >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    bits ^ (bits >> 30) ^ (bits >> 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_names_its_connection() {
        for (shard, slot, generation) in [(0, 0, 1), (63, (1 << 26) - 1, u32::MAX), (7, 123_456, 0xdead_beef)] {
            let id = ConnectionId {
                shard,
                slot,
                generation,
            };
            assert_eq!(ConnectionId::from_client_id(&id.client_id()), Some(id));
        }
        for text in [
            "",
            "client_",
            "client_12",
            "client_+123456789abcde0",
            "client_0123456789ABCDEF",
            "0123456789abcdef",
        ] {
            assert_eq!(ConnectionId::from_client_id(text), None, "{text}");
        }
    }
}
