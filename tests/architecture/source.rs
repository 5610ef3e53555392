//! What a source file uses, read with `syn`: the paths in its code and its words, without comments, literals and code
//! that is compiled for tests only.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, Stmt, TraitItem, UseTree};

/// One file, without its tests.
#[derive(Default)]
pub(crate) struct Source {
    /// Every path that begins with `crate`, `self` or `super`, and every path of a `use`.
    pub(crate) paths: Vec<Vec<String>>,
    /// The code as words: one space between tokens, none around `::` and after `.` or `#`; literals are left out.
    pub(crate) words: String,
    /// Modules in files of their own that are declared for tests only.
    pub(crate) test_modules: Vec<String>,
}

impl Source {
    /// # Panics
    /// When the text is not Rust.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let mut file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut source = Self::default();
        source.drop_tests(&mut file.items);
        source.visit_file(&file);
        push_words(file.to_token_stream(), &mut source.words);
        for path in &source.paths {
            source.words.push(' ');
            source.words.push_str(&path.join("::"));
        }
        source
    }

    fn drop_tests(&mut self, items: &mut Vec<Item>) {
        items.retain(|item| {
            let is_test = attributes(item).iter().any(is_for_tests);
            if let Item::Mod(module) = item
                && is_test
                && module.content.is_none()
            {
                self.test_modules.push(module.ident.unraw().to_string());
            }
            !is_test
        });
        for item in items {
            match item {
                Item::Mod(module) => {
                    if let Some((_, items)) = &mut module.content {
                        self.drop_tests(items);
                    }
                }
                Item::Impl(item) => item.items.retain(|item| !is_test_member(item)),
                Item::Trait(item) => item.items.retain(|item| match item {
                    TraitItem::Fn(item) => !item.attrs.iter().any(is_for_tests),
                    _ => true,
                }),
                Item::Fn(item) => item.block.stmts.retain(|statement| match statement {
                    Stmt::Local(local) => !local.attrs.iter().any(is_for_tests),
                    Stmt::Item(item) => !attributes(item).iter().any(is_for_tests),
                    _ => true,
                }),
                _ => {}
            }
        }
    }

    fn add_use(&mut self, tree: &UseTree, prefix: &[String]) {
        let below = |ident: &syn::Ident| [prefix, &[ident.unraw().to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_use(&path.tree, &below(&path.ident)),
            UseTree::Name(name) => self.paths.push(below(&name.ident)),
            UseTree::Rename(name) => self.paths.push(below(&name.ident)),
            UseTree::Glob(_) => self.paths.push(prefix.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(tree, prefix)),
        }
    }
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, &[]);
    }

    // In a module within the file `super` means the file's own module.
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let before = self.paths.len();
        visit::visit_item_mod(self, item);
        for path in &mut self.paths[before..] {
            if path[0] == "super" {
                path[0] = "self".to_owned();
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.unraw().to_string())
            .collect();
        if is_relative(&names) {
            self.paths.push(names);
        }
        visit::visit_path(self, path);
    }

    // A visibility such as `pub(in crate::shard)` imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    // What a macro is called with is no syntax tree: the paths in it are found among its tokens.
    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.add_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}

impl Source {
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_path(&mut path);
                    }
                    path.push(ident.unraw().to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.end_path(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<String>) {
        let names = std::mem::take(path);
        if names.len() > 1 && is_relative(&names) {
            self.paths.push(names);
        }
    }
}

fn is_relative(names: &[String]) -> bool {
    names
        .first()
        .is_some_and(|first| matches!(first.as_str(), "crate" | "self" | "super"))
}

fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<TokenStream>().is_ok_and(|condition| {
            let words = condition.to_string();
            words == "test" || words.starts_with("all (test") || words.starts_with("all(test")
        })
}

fn is_test_member(item: &ImplItem) -> bool {
    match item {
        ImplItem::Fn(item) => item.attrs.iter().any(is_for_tests),
        ImplItem::Const(item) => item.attrs.iter().any(is_for_tests),
        _ => false,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn push_words(tokens: TokenStream, words: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                words.push(' ');
                push_words(group.stream(), words);
                words.push(' ');
            }
            TokenTree::Ident(ident) => {
                if !words.ends_with([':', '.', '#', ' ']) {
                    words.push(' ');
                }
                words.push_str(&ident.unraw().to_string());
            }
            TokenTree::Punct(punct) => words.push(punct.as_char()),
            TokenTree::Literal(_) => words.push(' '),
        }
    }
}

/// Whether `word` stands in `text` by itself.
pub(crate) fn contains_word(text: &str, word: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.match_indices(word).any(|(at, _)| {
        let before = text.as_bytes()[..at].last().copied().unwrap_or(b' ');
        let after = text.as_bytes().get(at + word.len()).copied().unwrap_or(b' ');
        let open = |edge: u8, neighbour: u8| !(is_word(edge) && is_word(neighbour));
        open(word.as_bytes()[0], before) && open(word.as_bytes()[word.len() - 1], after)
    })
}
