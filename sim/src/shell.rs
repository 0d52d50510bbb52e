//! Words as a POSIX shell reads them: what the program prints as a command can be pasted.

/// A word that a POSIX shell reads as this text.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+%@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        for (text, quoted) in [
            ("", "''"),
            ("cluster.hosts=2,4", "cluster.hosts=2,4"),
            ("service.time=exp 1ms", "'service.time=exp 1ms'"),
            ("it's", r"'it'\''s'"),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }
}
