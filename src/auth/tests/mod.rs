//! What tokens are accepted, what they may do, and what is told of those refused.

mod docs;
mod jwks;
mod keys;
mod permissions;
pub(crate) mod sign;
mod tokens;
