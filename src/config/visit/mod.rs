//! The visitors: what the gateway does with every declared key.

mod catalogue;
mod describe;
mod print;
mod read;
mod validate;

pub(super) use catalogue::catalogue;
pub use catalogue::{KeyDocumentation, SectionDocumentation};
pub use describe::EffectiveKey;
pub(super) use describe::describe;
pub(super) use print::print;
pub(super) use read::read;
pub(super) use validate::validate;
