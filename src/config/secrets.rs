//! Passwords inside addresses.
//!
//! Owns how they are hidden before a configuration is shown.

use super::Config;

impl Config {
    /// Replaces every password in an address by `***`.
    pub fn hide_secrets(&mut self) {
        let addresses = self.backends.0.iter_mut().map(|backend| &mut backend.uri);
        let nats = &mut self.nats;
        let secrets = [&mut nats.password, &mut nats.token, &mut nats.nkey, &mut self.auth.node_token];
        for secret in secrets.into_iter().flatten() {
            "***".clone_into(secret);
        }
        for address in addresses.chain([&mut self.nats.url]).chain(self.store.endpoints.iter_mut()) {
            *address = without_password(address);
        }
    }
}

/// `scheme://user:password@host/…` with `***` for the password.
pub fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    // A password may itself contain an `@` if it was not escaped: the last one ends it.
    let Some((user_info, _)) = authority.rsplit_once('@') else { return address.to_owned() };
    let Some((user, _)) = user_info.split_once(':') else { return address.to_owned() };
    format!("{scheme}://{user}:***{}", &rest[user_info.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_goes() {
        for (address, shown) in [
            ("mongodb://h:1/db", "mongodb://h:1/db"),
            ("mongodb://u:p@h:1,i:2/db?x=1", "mongodb://u:***@h:1,i:2/db?x=1"),
            ("mongodb://u:p@q@h/", "mongodb://u:***@h/"),
            ("mongodb://u@h/", "mongodb://u@h/"),
            ("nats://:p@h", "nats://:***@h"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }
}
