//! Who a client is, and whom it trusts.
//!
//! Owns how a token and certificates get into calls of both kinds.

use std::fmt;
use std::path::PathBuf;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::access;

/// What a hub beyond loopback asks for. By default nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The token by which the hub knows the caller.
    pub token: Option<String>,
    /// For `https://` addresses: a file of certificates that the hub's may be signed by, instead of those that the system
    /// trusts.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Credentials").field("token", &token).field("ca", &self.ca).finish()
    }
}

impl Credentials {
    /// For calls by HTTP.
    ///
    /// # Errors
    /// A token or a file that cannot be one.
    pub fn http(&self) -> Result<reqwest::ClientBuilder, String> {
        // Loopback and private networks: proxies of the environment are not meant for hubs.
        let mut builder = reqwest::Client::builder().no_proxy();
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| "the token is none")?;
            value.set_sensitive(true);
            builder = builder.default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]));
        }
        if let Some(ca) = &self.ca {
            let bundle = reqwest::Certificate::from_pem_bundle(&access::trusted(ca)?);
            let bundle = bundle.map_err(|error| format!("{}: {error}", ca.display()))?;
            builder = builder.tls_built_in_root_certs(false);
            builder = bundle.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
        }
        Ok(builder)
    }

    /// For calls by gRPC.
    pub(super) fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        let value = self.token.as_ref().map(|token| MetadataValue::try_from(format!("Bearer {token}")));
        value.transpose().map_err(|_| "the token is none".to_owned())
    }

    /// Likewise.
    pub(super) fn tls(&self) -> Result<ClientTlsConfig, String> {
        Ok(match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(access::trusted(ca)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        })
    }
}
