//! Settings that are valid but probably not intended.

use std::path::Path;

use rustix::fs::{Access, access};
use tickgate_protocol::channel::Pattern;

use super::sections::{DialectName, Endpoint, Space};
use super::source::Environment;
use super::{Config, Sections};
use crate::auth::Mode;
use crate::backend::commands::BackendUrl;
use crate::backend::feeds::UrlTemplate;
use crate::ingress::ListenAddress;

impl Config {
    /// Settings that are valid but probably not intended. `serve` and `check` report them.
    #[must_use]
    pub fn warnings(&self, environment: &Environment) -> Vec<String> {
        let sections = &self.sections;
        let mut warnings = self.key_warnings();
        warnings.extend(open_to_everyone(sections));
        warnings.extend(folders(sections));
        for space in sections.spaces() {
            let prefix = space.prefix();
            let commands = space.commands.iter().map(|command| command.pattern.as_ref());
            warnings.extend(never_reached(&format!("{prefix}command"), commands));
            let channels = space.channels.iter().map(|channel| channel.pattern.as_ref());
            warnings.extend(never_reached(&format!("{prefix}channel"), channels));
            warnings.extend(hidden_queries(&space));
        }
        warnings.extend(environment.names().filter_map(almost_a_key));
        warnings
    }
}

impl Config {
    /// The endpoints that accept connections without a token, and what these may do: one line for each endpoint.
    #[must_use]
    pub fn open_to_anybody(&self) -> Vec<String> {
        let spaces = self.sections.spaces().into_iter();
        spaces.flat_map(|space| Self::open_endpoints(&space)).collect()
    }

    fn open_endpoints(space: &Space<'_>) -> Vec<String> {
        let auth = space.auth;
        let is_echo = |endpoint: &Endpoint| endpoint.dialect == Some(DialectName::Echo);
        // An echo endpoint has no message for a token, so it needs none.
        let is_open =
            |endpoint: &&Endpoint| is_echo(endpoint) || auth.endpoint_mode(endpoint.anonymous) != Mode::Required;
        let may = auth.settings(space.tenant).policy.anonymous;
        let of_tenant = match space.name {
            Some(name) => format!(" of tenant {name}"),
            None => String::new(),
        };
        let list = |patterns: &[Pattern]| {
            let texts: Vec<_> = patterns.iter().map(Pattern::as_str).collect();
            if texts.is_empty() {
                "nothing".to_owned()
            } else {
                texts.join(", ")
            }
        };
        let (read, send, publish) = (list(&may.channels), list(&may.commands), list(&may.publish));
        let describe = |endpoint: &Endpoint| {
            let path = endpoint.path.as_deref().unwrap_or_default();
            if is_echo(endpoint) {
                return format!("{path}{of_tenant} is open to anybody: it returns what a client sends");
            }
            format!(
                "{path}{of_tenant} is open to anybody: without a token a client may subscribe to {read}; send as commands {send}; \
                 publish to {publish}"
            )
        };
        space.endpoints.iter().filter(is_open).map(describe).collect()
    }
}

/// Without tokens, every machine that reaches a public listener has the permissions of `[auth.anonymous]`.
fn open_to_everyone(sections: &Sections) -> Option<String> {
    let spaces = sections.spaces();
    let open = spaces.iter().find(|space| space.auth.mode == Mode::Off)?;
    let public = sections.server.listen.iter().find(|address| !address.is_local())?;
    let prefix = open.prefix();
    Some(format!(
        "{prefix}auth.mode is \"off\", and other machines can reach {public}: all of them have the permissions of \
         [{prefix}auth.anonymous]"
    ))
}

/// Folders in which the gateway cannot make its files.
fn folders(sections: &Sections) -> Vec<String> {
    let mut warnings = Vec::new();
    let server = &sections.server;
    for address in server.listen.iter().chain([&server.admin_listen]) {
        if let ListenAddress::Unix(path) = address
            && let Some(folder) = path.parent().filter(|folder| !folder.is_dir())
        {
            let folder = folder.display();
            warnings.push(format!(
                "the folder {folder} of {address} does not exist: without it (or a socket from systemd) the gateway cannot start"
            ));
        }
    }
    let snapshot = sections.state.snapshot.as_deref();
    if let Some(folder) = snapshot.and_then(Path::parent)
        && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err()
    {
        let folder = folder.display();
        warnings.push(format!(
            "state.snapshot: this user may not write to {folder}: a gateway that runs as this user cannot start"
        ));
    }
    warnings
}

/// Entries of an array of tables that an earlier, wider pattern hides.
fn never_reached<'a>(key: &str, patterns: impl Iterator<Item = Option<&'a Pattern>>) -> Vec<String> {
    let patterns: Vec<_> = patterns.collect();
    let mut warnings = Vec::new();
    for (index, pattern) in patterns.iter().enumerate() {
        let Some(pattern) = pattern else { continue };
        let hides = |earlier: &Option<&Pattern>| earlier.is_some_and(|earlier| earlier.covers(pattern));
        if let Some(earlier) = patterns[..index].iter().position(hides)
            && let Some(wide) = patterns[earlier]
        {
            warnings.push(format!(
                "{key}[{index}] (match = \"{pattern}\") is never used: {key}[{earlier}] (match = \"{wide}\") stands before it \
                 and matches all of it, and the first match decides; move the wider one to the end"
            ));
        }
    }
    warnings
}

/// URLs that were copied from the output of `check`, which does not show queries.
fn hidden_queries(space: &Space<'_>) -> Vec<String> {
    let prefix = space.prefix();
    let commands = space.commands.iter().map(|command| {
        let url = command.http.as_ref();
        ("command", url.is_some_and(BackendUrl::has_hidden_query))
    });
    let feeds = space.feeds.iter().map(|feed| {
        let url = feed.http.as_ref();
        ("feed", url.is_some_and(UrlTemplate::has_hidden_query))
    });
    let hidden = commands
        .enumerate()
        .chain(feeds.enumerate())
        .filter(|(_, (_, is_hidden))| *is_hidden);
    let warning = |(index, (key, _))| {
        format!(
            "{prefix}{key}[{index}].http has the query `hidden`, by which `check` hides a query: write the query itself"
        )
    };
    hidden.map(warning).collect()
}

/// The warning about a variable that names a key but for the two underscores behind the section.
fn almost_a_key(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix("TICKGATE_").filter(|rest| !rest.contains("__"))?;
    let catalogue = Config::catalogue();
    let mut keys = catalogue.iter().flat_map(|section| &section.keys);
    let key = keys.find(|key| key.name.replace('.', "_").eq_ignore_ascii_case(rest))?;
    let meant = key.name.replace('.', "__").to_ascii_uppercase();
    Some(format!(
        "the variable {variable} has no effect: two underscores stand behind the section (TICKGATE_{meant})"
    ))
}
