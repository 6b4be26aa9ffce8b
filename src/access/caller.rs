//! A caller, and what he may do.
//!
//! Owns the rules by name. Knows nothing of routes.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wildmatch::WildMatch;

use crate::error::{Code, Problem};
use crate::subscription::{GatewayId, Spec};

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// The hub asks nobody who he is: it listens on loopback only.
    Trusted,
    /// Somebody without a token, where that is enough.
    Nobody,
    /// Somebody with a good token.
    Known(Arc<Grant>),
}

/// What a token allows.
#[derive(Debug)]
pub struct Grant {
    /// Its name in the file.
    pub name: String,
    /// For what.
    pub role: Role,
    /// Set once it is no longer good: what it has open ends.
    pub revoked: CancellationToken,
}

/// What a caller is.
#[derive(Clone, PartialEq, Debug)]
pub enum Role {
    /// Everything but what nodes ask of one another.
    Operator,
    /// Another hub of the cluster.
    Node,
    /// Gateways and groups of these names, with subscriptions in these tenants.
    Gateway {
        /// Patterns of gateways' names.
        gateways: Vec<WildMatch>,
        /// Patterns of groups' names.
        groups: Vec<WildMatch>,
        /// Patterns of tenants.
        tenants: Vec<WildMatch>,
    },
}

fn forbidden(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Forbidden, detail)
}

fn any(patterns: &[WildMatch], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

impl Caller {
    /// What the log calls him.
    pub fn name(&self) -> &str {
        match self {
            Self::Trusted => "local",
            Self::Nobody => "nobody",
            Self::Known(grant) => &grant.name,
        }
    }

    /// Whether he may see and do what is the operator's.
    pub fn is_operator(&self) -> bool {
        match self {
            Self::Trusted => true,
            Self::Nobody => false,
            Self::Known(grant) => grant.role == Role::Operator,
        }
    }

    /// What is the operator's.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub fn operator(&self) -> Result<(), Problem> {
        if self.is_operator() { Ok(()) } else { Err(forbidden("this needs a token of the role `operator`")) }
    }

    /// What nodes ask of one another.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub fn node(&self) -> Result<(), Problem> {
        match self {
            Self::Trusted => Ok(()),
            Self::Known(grant) if grant.role == Role::Node => Ok(()),
            _ => Err(forbidden("this needs a token of the role `node`")),
        }
    }

    /// What is a client's, whoever's it may be.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub fn client(&self) -> Result<(), Problem> {
        match self {
            Self::Trusted => Ok(()),
            Self::Known(grant) if grant.role != Role::Node => Ok(()),
            _ => Err(forbidden("this needs a token of the role `gateway` or `operator`")),
        }
    }

    /// What belongs to a gateway, a group or a member.
    ///
    /// # Errors
    /// `FORBIDDEN`, at `gatewayId` or `group`.
    pub fn serves(&self, owner: &GatewayId) -> Result<(), Problem> {
        match owner.in_group() {
            Some((group, _)) => self.serves_group(group),
            None => self.serves_gateway(owner.as_str()),
        }
    }

    /// What belongs to a gateway of this name.
    ///
    /// # Errors
    /// `FORBIDDEN`, at `gatewayId`.
    pub fn serves_gateway(&self, name: &str) -> Result<(), Problem> {
        self.client()?;
        match self.patterns() {
            Some((gateways, ..)) if !any(gateways, name) => {
                Err(forbidden("this token is not for this gateway").at("gatewayId"))
            }
            _ => Ok(()),
        }
    }

    /// What belongs to a group of this name.
    ///
    /// # Errors
    /// `FORBIDDEN`, at `group`.
    pub fn serves_group(&self, name: &str) -> Result<(), Problem> {
        self.client()?;
        match self.patterns() {
            Some((_, groups, _)) if !any(groups, name) => {
                Err(forbidden("this token is not for this group").at("group"))
            }
            _ => Ok(()),
        }
    }

    /// A subscription: whose it is, and in which tenant.
    ///
    /// # Errors
    /// `FORBIDDEN`, at the field that it may not have.
    pub fn subscribes(&self, spec: &Spec) -> Result<(), Problem> {
        self.serves(&spec.gateway_id)?;
        match self.patterns() {
            Some((.., tenants)) if !any(tenants, &spec.tenant) => {
                Err(forbidden("this token is not for this tenant").at("tenant"))
            }
            _ => Ok(()),
        }
    }

    /// What is told to whoever has a good token.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub fn known(&self) -> Result<(), Problem> {
        match self {
            Self::Trusted | Self::Known(_) => Ok(()),
            Self::Nobody => Err(forbidden("this needs a token")),
        }
    }

    /// Whether his token has been taken back, or is over, since he came in.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`.
    pub fn still(&self) -> Result<(), Problem> {
        match self {
            Self::Known(grant) if grant.revoked.is_cancelled() => {
                Err(Problem::new(Code::Unauthenticated, "the token has been taken back or is over"))
            }
            _ => Ok(()),
        }
    }

    /// Ends when what he has open must.
    pub async fn revoked(self) {
        match self {
            Self::Known(grant) => grant.revoked.cancelled().await,
            Self::Trusted | Self::Nobody => std::future::pending().await,
        }
    }

    fn patterns(&self) -> Option<(&[WildMatch], &[WildMatch], &[WildMatch])> {
        match self {
            Self::Known(grant) => match &grant.role {
                Role::Gateway { gateways, groups, tenants } => Some((gateways, groups, tenants)),
                Role::Operator | Role::Node => None,
            },
            Self::Trusted | Self::Nobody => None,
        }
    }
}
