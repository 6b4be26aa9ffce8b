//! Who calls a hub, as commands are told it.
//!
//! Owns the arguments, and what a token's text may be. How it gets into calls is `client::Credentials`'.

use std::env::VarError;
use std::path::PathBuf;

use clap::Args;

use super::WrongUsage;
use crate::client::Credentials;

/// Where the token is if no file is named.
pub(super) const TOKEN_VARIABLE: &str = "STREAMER_TOKEN";

/// Who calls a hub, where it asks, and whom the caller trusts.
#[derive(Args, Debug, Clone, Default)]
pub struct CredentialArgs {
    /// A file with the token; without it the variable STREAMER_TOKEN, if there is one
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// For https: a file of certificates that the hub's may be signed by, instead of those that the system trusts
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl CredentialArgs {
    /// Reads them.
    ///
    /// # Errors
    /// A file that cannot be read, or a text that is no token.
    pub fn read(&self) -> Result<Credentials, WrongUsage> {
        Ok(Credentials { token: self.token()?, ca: self.ca.clone() })
    }

    fn token(&self) -> Result<Option<String>, WrongUsage> {
        let (place, text) = match &self.token_file {
            Some(file) => {
                let place = format!("--token-file {}", file.display());
                let text = std::fs::read_to_string(file).map_err(|error| WrongUsage(format!("{place}: {error}")))?;
                (place, text)
            }
            None => match std::env::var(TOKEN_VARIABLE) {
                Ok(text) if !text.trim().is_empty() => (TOKEN_VARIABLE.to_owned(), text),
                Err(VarError::NotUnicode(_)) => return Err(WrongUsage(format!("{TOKEN_VARIABLE} is no token"))),
                _ => return Ok(None),
            },
        };
        let token = text.trim();
        let is_one_word = !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic());
        if is_one_word { Ok(Some(token.to_owned())) } else { Err(WrongUsage(format!("{place}: this is no token"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_of_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            CredentialArgs { token_file: Some(file.path().to_owned()), ca: None }.read()
        };
        assert_eq!(read("s3cret\n").unwrap().token.as_deref(), Some("s3cret"));
        for text in ["", "two words", "a\nb", "ü"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("--token-file") && error.ends_with("no token"), "{error}");
        }
    }
}
