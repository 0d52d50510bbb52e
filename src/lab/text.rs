//! Text that can be pasted back into a shell.

use std::borrow::Cow;

/// Joins the words of a command line, quoting those that a shell would take apart.
pub fn shell_line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = words.into_iter().map(quote).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@%:=,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shell_would_change_is_quoted() {
        assert_eq!(shell_line(["lab", "run", "--kill", "h2@50%"]), "lab run --kill h2@50%");
        assert_eq!(shell_line(["a b", "", "it's"]), r"'a b' '' 'it'\''s'");
    }
}
