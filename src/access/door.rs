//! The door: who stands before it.
//!
//! Owns how a header becomes a caller.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use super::caller::Caller;
use super::follow::{Contents, Follow};
use super::tokens::Tokens;
use crate::clock::Clock;
use crate::error::{Code, Problem};
use crate::tasks::Tasks;

/// Who may come in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door {
    /// `None`: nobody is asked.
    tokens: Option<Arc<RwLock<Tokens>>>,
    clock: Clock,
}

impl Door {
    /// One that asks nobody.
    pub fn open(clock: Clock) -> Self {
        Self { tokens: None, clock }
    }

    /// One that asks for a token of this file, which is followed until shutdown.
    ///
    /// # Errors
    /// A file that cannot be read or that says something impossible.
    pub fn with_tokens(file: PathBuf, clock: Clock, tasks: &Tasks) -> Result<Self, String> {
        let name = file.display().to_string();
        let follow = Follow { what: "tokens", files: vec![file] };
        let contents = follow.read()?;
        let first = parse(&contents).map_err(|error| format!("{name}: {error}"))?;
        tracing::info!(tokens = first.len(), "callers are asked for a token");
        let tokens = Arc::new(RwLock::new(first));
        let (taking, ticking, now) = (Arc::clone(&tokens), Arc::clone(&tokens), clock.clone());
        follow.start(
            contents,
            tasks,
            move |contents| {
                let new = parse(contents)?;
                taking.write().unwrap_or_else(PoisonError::into_inner).replace(new);
                Ok(())
            },
            move || ticking.read().unwrap_or_else(PoisonError::into_inner).expire(now.wall()),
        );
        Ok(Self { tokens: Some(tokens), clock })
    }

    /// Whether callers are asked who they are.
    pub fn asks(&self) -> bool {
        self.tokens.is_some()
    }

    /// Who sent this `Authorization` header.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: there is none, or not one that is good.
    pub fn caller(&self, authorization: Option<&[u8]>) -> Result<Caller, Problem> {
        let Some(tokens) = &self.tokens else { return Ok(Caller::Trusted) };
        let refused = |detail: &str| Problem::new(Code::Unauthenticated, detail);
        let header = authorization.ok_or_else(|| refused("a token is needed: `Authorization: Bearer <token>`"))?;
        let token = bearer(header).ok_or_else(|| refused("`Authorization` is `Bearer <token>`"))?;
        let found = tokens.read().unwrap_or_else(PoisonError::into_inner).find(token, self.clock.wall());
        found.map(Caller::Known).ok_or_else(|| refused("the token is unknown, has been taken back or is over"))
    }
}

fn bearer(header: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn parse(contents: &Contents) -> Result<Tokens, String> {
    let [content] = &contents[..] else { return Err("one file is read".into()) };
    Tokens::from_str(std::str::from_utf8(content).map_err(|_| "is no text")?)
}
