//! What tokens are accepted, what they may do, and what is told of those refused.

mod permissions;
mod tokens;
