//! The declaration of keys: [`section!`] makes a struct, its defaults and its [`Section`] from one list.
//!
//! Everything that handles keys is a [`Visitor`] of a section: reading, printing, validating and cataloguing.

use std::collections::BTreeMap;

use super::check::Check;
use super::value::Value;

/// A table of the configuration. Its `Default` holds the defaults of its keys.
pub(super) trait Section: Default {
    /// Passes every key to `visitor`, in the order of the declaration.
    fn visit<V: Visitor>(&mut self, visitor: &mut V);
    /// Checks the rules that concern more than one key. `check` stands at this section.
    fn check_rules(&self, check: &mut Check<'_>);
}

/// What is declared about a key with values of type `T`.
pub(super) struct Key<T> {
    /// The name in the file.
    pub(super) name: &'static str,
    /// What the key means, in Markdown.
    pub(super) documentation: &'static str,
    /// The message if a required key is missing. `None`: the key is optional.
    pub(super) missing: Option<&'static str>,
    /// Checks a value that was read, or the default. The error is a message without the key's name.
    pub(super) check: fn(&T) -> Result<(), String>,
}

/// An operation on all keys of a section.
pub(super) trait Visitor: Sized {
    /// Visits a plain value.
    fn value<T: Value>(&mut self, key: &Key<T>, value: &mut T);
    /// Visits a table, `[key]`.
    fn table<S: Section>(&mut self, key: &Key<S>, section: &mut S);
    /// Visits an array of tables, `[[key]]`. An array that is given replaces the default.
    fn tables<S: Section>(&mut self, key: &Key<Vec<S>>, sections: &mut Vec<S>);
    /// Visits tables whose names are free, `[key.<name>]`. A table that is given changes only the keys in it.
    fn named<S: Section>(&mut self, key: &Key<BTreeMap<String, S>>, sections: &mut BTreeMap<String, S>);
    /// Visits a key that is known to be a mistake. `why` says what to do instead.
    fn refused(&mut self, name: &'static str, why: &str) {
        let _ = (name, why);
    }
}

/// Declares a section of the configuration.
///
/// ```text
/// section! {
///     /// What the section is for.
///     struct Heartbeat {
///         /// What the key means, in Markdown: the text of its row in docs/configuration.md.
///         value timeout: Duration = Duration::from_secs(60), check not_zero;
///         rule timeout_exceeds_interval;
///     }
/// }
/// ```
///
/// An entry is `<kind> <field> [as "<key>"]: <type> = <default> [, required "<message>"] [, check <function>];`. The kind
/// is the method of [`Visitor`] that the key is passed to. The key is named like the field unless `as` names it.
/// A `required` key is an `Option`; without a value it is refused with the message. After the entries come
/// `refused "<key>" "<why>";` for keys that are known to be mistakes, and `rule <function>;` for functions that are called
/// with the section and a [`Check`]. TOML wants the values of a table before the tables in it.
macro_rules! section {
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (@missing) => { None };
    (@missing $message:literal) => { Some($message) };
    (@check) => { |_| Ok(()) };
    (@check $check:expr) => { $check };
    (
        $(#[doc = $about:literal])+
        struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $kind:ident $field:ident $(as $key:literal)? : $type:ty = $default:expr
                $(, required $message:literal)? $(, check $check:expr)? ;
            )+
            $( refused $refused:literal $why:expr ; )*
            $( rule $rule:expr ; )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug)]
        pub(in crate::config) struct $name {
            $( $(#[doc = $doc])+ pub(in crate::config) $field: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $crate::config::declare::Section for $name {
            fn visit<V: $crate::config::declare::Visitor>(&mut self, visitor: &mut V) {
                $(
                    let key = $crate::config::declare::Key::<$type> {
                        name: $crate::config::declare::section!(@key $field $($key)?),
                        documentation: concat!($($doc),+),
                        missing: $crate::config::declare::section!(@missing $($message)?),
                        check: $crate::config::declare::section!(@check $($check)?),
                    };
                    visitor.$kind(&key, &mut self.$field);
                )+
                $( visitor.refused($refused, $why); )*
            }

            fn check_rules(&self, check: &mut $crate::config::check::Check<'_>) {
                let _ = check;
                $( $rule(self, check); )*
            }
        }
    };
}
pub(super) use section;
