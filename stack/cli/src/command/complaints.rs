//! What a command line that can't be read is answered with.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Arguments;

/// The parser's complaint, short, and with advice that fits.
pub(super) fn improved(error: clap::Error) -> clap::Error {
    with_tip_for_texts(with_guess(without_hidden(shortened(error))))
}

/// Says how `send` takes a text that isn't one word, or is an option.
fn with_tip_for_texts(mut error: clap::Error) -> clap::Error {
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => "put a text of several words in quotes, and one that is an option after `--`",
        ErrorKind::MissingRequiredArgument => "put a text that is an option after `--`",
        _ => return error,
    };
    if error.get(ContextKind::Usage).is_some_and(|usage| usage.to_string().contains(" send ")) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Characters of a wrong argument that are repeated.
const SHOWN: usize = 60;

/// What people may call a command that has another name here, or that there is none for, and what they do instead.
const OTHER_WORDS: [(&[&str], &str); 15] = [
    (&["rename", "alias", "nick"], "see `peerloom contacts --rename OLD=NEW`"),
    (&["list", "ls", "friends"], "see `peerloom contacts`"),
    (&["history", "messages", "read", "receive"], "see `peerloom inbox`"),
    (&["message", "msg", "write", "say"], "see `peerloom send CONTACT TEXT`"),
    (&["start", "serve", "up", "daemon", "listen"], "see `peerloom run`"),
    (&["status", "ping"], "see `peerloom peers`"),
    (&["join", "accept"], "see `peerloom add LINK`"),
    (&["link", "share"], "see `peerloom invite`"),
    (&["whoami", "me"], "see `peerloom id`"),
    (&["retry", "resend"], "see `peerloom queue retry`"),
    (&["stop", "quit", "exit", "down", "kill", "shutdown"], "Ctrl-C, or the signal TERM, ends `peerloom run`"),
    (&["log", "logs"], "`peerloom run` writes its log to standard error, and more of it with -v"),
    (
        &["backup", "export", "import", "restore", "move", "copy"],
        "end the node, and move its folder as a whole; docs/guides/troubleshooting.md says what a copy can't do",
    ),
    (&["recovery", "phrase", "words", "seed"], "see `peerloom device recovery`"),
    (&["remove", "delete", "block", "rm", "unfriend"], "this version removes and blocks no contacts"),
];

/// Cuts what was written, which may be long.
fn shortened(mut error: clap::Error) -> clap::Error {
    for written in [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(text)) = error.get(written)
            && let Some((end, _)) = text.char_indices().nth(SHOWN)
        {
            let text = format!("{}…", text.get(..end).unwrap_or_default());
            error.insert(written, ContextValue::String(text));
        }
    }
    error
}

/// Takes commands that only other commands use out of an error.
fn without_hidden(mut error: clap::Error) -> clap::Error {
    let command = Arguments::command();
    let is_hidden = |name: &String| command.find_subcommand(name).is_some_and(clap::Command::is_hide_set);
    for listing in [ContextKind::ValidSubcommand, ContextKind::SuggestedSubcommand] {
        match error.remove(listing) {
            Some(ContextValue::Strings(mut names)) => {
                names.retain(|name| !is_hidden(name));
                if !names.is_empty() {
                    error.insert(listing, ContextValue::Strings(names));
                }
            }
            Some(other) => drop(error.insert(listing, other)),
            None => {}
        }
    }
    error
}

/// Drops suggestions that have little to do with what was written, and names the command that is called otherwise.
fn with_guess(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(written)) = error.get(ContextKind::InvalidSubcommand) {
        let written = written.to_lowercase();
        let meant = OTHER_WORDS.iter().find(|(words, _)| words.contains(&written.as_str()));
        if let Some((_, tip)) = meant {
            error.remove(ContextKind::SuggestedSubcommand);
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*tip).into()]));
        }
    }
    for (written, suggested) in [
        (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        (ContextKind::InvalidValue, ContextKind::SuggestedValue),
    ] {
        let Some(ContextValue::String(wanted)) = error.get(written).cloned() else { continue };
        let guesses = match error.remove(suggested) {
            Some(ContextValue::String(guess)) => vec![guess],
            Some(ContextValue::Strings(guesses)) => guesses,
            _ => continue,
        };
        if let Some(near) = peerloom::config::nearest(&wanted, guesses.iter().map(String::as_str)) {
            error.insert(suggested, ContextValue::Strings(vec![near.to_owned()]));
        }
    }
    error
}
