//! Demangled names as a reader wants them.
//!
//! You give [`readable`] a name as a demangler wrote it; you get the same function's name, shorter:
//!
//! - hashes, disambiguators and the compiler's suffixes are gone;
//! - closures at the end are gone, because the body of an `async fn` is one, and `#[instrument]` puts
//!   it into another: `checkout::price::{{closure}}::{{closure}}` is `checkout::price`. A closure
//!   that is passed to a function shows as the function that wrote it;
//! - the type that a method belongs to keeps its path, a trait and generic arguments keep their
//!   last words: `<tracing::instrument::Instrumented<T> as Future>::poll`.
//!
//! What does not read as a Rust path comes back as it is.

/// The name of the same function, shorter.
pub(super) fn readable(demangled: &str) -> String {
    let name = without_suffix(demangled);
    shorten(name).filter(|short| !short.is_empty()).unwrap_or_else(|| name.to_owned())
}

/// Cuts what compilers append: `.llvm.123`, `.cold`, `.part.0`, `::h0123456789abcdef`.
fn without_suffix(name: &str) -> &str {
    let mut name = name;
    for mark in [".llvm.", ".cold", ".part.", ".constprop.", ".isra."] {
        // A C name may begin with a dot; nothing would be left of it.
        if let Some(at) = name.find(mark).filter(|&at| at > 0) {
            name = &name[..at];
        }
    }
    match name.rsplit_once("::h") {
        Some((rest, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => rest,
        _ => name,
    }
}

fn shorten(name: &str) -> Option<String> {
    let mut segments = split(name)?;
    while segments.len() > 1 && segments.last().is_some_and(|last| is_closure(last)) {
        segments.pop();
    }
    let mut out = String::new();
    for segment in segments {
        if let Some(inner) = segment.strip_prefix("<impl ").and_then(|s| s.strip_suffix('>')) {
            // Where an impl is written does not matter, what it is for does.
            out.clear();
            match split_once_outside(inner, " for ") {
                Some((of_trait, of)) => out += &format!("<{} as {}>", full(of)?, brief(of_trait, 1)?),
                None => out += &self_type(inner)?,
            }
        } else if let Some(inner) = segment.strip_prefix('<').and_then(|s| s.strip_suffix('>')) {
            match split_once_outside(inner, " as ") {
                // Generic arguments, which version 0 of the mangling writes as `name::<T>`.
                _ if !out.is_empty() => out += &format!("<{}>", brief(inner, 1)?),
                Some((of, of_trait)) => out += &format!("<{} as {}>", full(of)?, brief(of_trait, 1)?),
                None => out += &self_type(inner)?,
            }
        } else {
            if !out.is_empty() {
                out += "::";
            }
            out += &full(segment)?;
        }
    }
    // The shims by which a closure is called through a pointer are that closure.
    let end = out.find("{{vtable.shim}}").or_else(|| out.find("::{shim:")).unwrap_or(out.len());
    out.truncate(end);
    Some(out)
}

/// A path segment for what has no name of its own.
fn is_closure(segment: &str) -> bool {
    segment.starts_with("{{closure") || segment.starts_with("{closure") || segment.starts_with("{async_")
}

/// The type before a method: bare if it is a path, else in brackets (`<[T]>`).
fn self_type(text: &str) -> Option<String> {
    let text = full(text)?;
    let bare = text.starts_with(|c: char| c.is_alphabetic() || c == '_') && !text.contains(' ');
    Some(if bare { text } else { format!("<{text}>") })
}

/// A type with its path, its generic arguments brief.
fn full(text: &str) -> Option<String> {
    match text.find('<') {
        // Everything up to the arguments stays; what comes after them is brief as well.
        Some(at) if at > 0 && !text[..at].contains([' ', '(', '[', '&', '*']) => {
            Some(format!("{}{}", text[..at].trim_end_matches(':'), brief(&text[at..], 0)?))
        }
        None if !text.contains([' ', '(', '[', '&', '*']) => {
            // A closure as a type is the function that wrote it.
            let end = text.find("::{").unwrap_or(text.len());
            Some(text[..end].to_owned())
        }
        _ => brief(text, 0),
    }
}

/// Generic arguments nested deeper than this are left out.
const MAX_NESTING: usize = 2;

/// Types with the last word of each path; `nesting` is how many brackets are around them.
fn brief(text: &str, nesting: usize) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(closure) = rest.strip_prefix("::").filter(|rest| rest.starts_with('{')) {
            rest = &closure[closing(closure)? + 1..];
        } else if first == '<' {
            let end = closing(rest)?;
            let inner = &rest[1..end];
            if split_once_outside(inner, " as ").is_some() || nesting < MAX_NESTING {
                out += &format!("<{}>", brief(inner, nesting + 1)?);
            }
            rest = &rest[end + 1..];
        } else if first.is_alphanumeric() || matches!(first, '_' | '{') {
            let end = path_end(rest)?;
            out += last_word(&rest[..end])?;
            rest = &rest[end..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(out)
}

/// Where the path that `text` begins with ends: before its generic arguments, or what follows.
fn path_end(text: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        if next == '{' {
            at += closing(&text[at..])? + 1;
        } else if next.is_alphanumeric() || next == '_' {
            at += next.len_utf8();
        } else if text[at..].starts_with("::") {
            at += 2;
        } else {
            break;
        }
    }
    Some(at)
}

/// The last word of a path that is not a closure.
fn last_word(path: &str) -> Option<&str> {
    let words = split(path.trim_end_matches("::"))?;
    words.iter().rev().find(|word| !word.starts_with('{')).or(words.last()).copied()
}

/// Splits at each `::` that is in no brackets.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(['<', '(', '[', '{']) {
            at += closing(rest)? + 1;
        } else if rest.starts_with("::") {
            parts.push(&text[start..at]);
            at += 2;
            start = at;
        } else {
            at += rest.chars().next()?.len_utf8();
        }
    }
    parts.push(&text[start..]);
    Some(parts)
}

/// Splits at the first `separator` that is in no brackets.
fn split_once_outside<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if let Some(after) = rest.strip_prefix(separator) {
            return Some((&text[..at], after));
        }
        at += match rest.starts_with(['<', '(', '[', '{']) {
            true => closing(rest)? + 1,
            false => rest.chars().next()?.len_utf8(),
        };
    }
    None
}

/// Where the bracket that `text` begins with is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' | '(' | '[' | '{' => depth += 1,
            // An arrow closes nothing.
            '>' if matches!(before, '-' | '=') => {}
            '>' | ')' | ']' | '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        before = c;
    }
    None
}

#[cfg(test)]
#[path = "name/tests.rs"]
mod tests;
