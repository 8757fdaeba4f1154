//! RabbitMQ's management API. AMQP can list neither bindings nor alarms.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use licet_common::address::{AddressError, BrokerAddress};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{DeserializeOwned, IgnoredAny};
use url::Url;

use super::broker::{BrokerState, Overview, Permission};

/// The port of the API unless its URL names another one.
const PORT: u16 = 15672;
/// The longest time for a response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The reason the management API cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// The URL is not valid.
    #[error("LICET_MANAGEMENT_URL cannot be used: {0}")]
    Address(#[from] AddressError),
    /// The API does not respond.
    #[error(
        "RabbitMQ's management API at {address} cannot be reached ({reason}), and without it the broker cannot be \
         checked: enable the plugin rabbitmq_management, or set LICET_MANAGEMENT_URL"
    )]
    Unreachable {
        /// Host and port.
        address: String,
        /// The reason.
        reason: String,
    },
    /// The API refuses the user.
    #[error(
        "RabbitMQ's management API at {address} refuses the user {user} ({path}): give the user the tag monitoring, or \
         name another user in LICET_MANAGEMENT_URL"
    )]
    Refused {
        /// Host and port.
        address: String,
        /// The broker user.
        user: String,
        /// What was asked for.
        path: String,
    },
    /// The virtual host does not exist.
    #[error("the broker at {address} has no virtual host {virtual_host}: create it, or correct LICET_AMQP_URL")]
    NoVirtualHost {
        /// Host and port of the API.
        address: String,
        /// The name of the virtual host.
        virtual_host: String,
    },
}

/// The management API of a broker, for one virtual host.
#[derive(Debug)]
pub struct Management {
    base: Url,
    /// Host and port.
    address: String,
    user: String,
    password: SecretString,
    virtual_host: String,
    /// The user of the AMQP connections, whose permissions are checked.
    amqp_user: String,
}

impl Management {
    /// The API at `url`, or at port 15672 of the broker, with the user and password of the broker
    /// unless `url` contains others.
    ///
    /// # Errors
    /// The URL is not valid.
    pub fn new(broker: &BrokerAddress, url: Option<&SecretString>) -> Result<Self, ManagementError> {
        const EXAMPLE: &str = "http://HOST:15672";
        let host = if broker.host().contains(':') { format!("[{}]", broker.host()) } else { broker.host().to_owned() };
        let scheme = if broker.is_encrypted() { "https" } else { "http" };
        let text = match url {
            Some(url) => url.expose_secret().to_owned(),
            None => format!("{scheme}://{host}:{PORT}"),
        };
        let mut base = Url::parse(&text).map_err(|_| AddressError::Syntax(EXAMPLE))?;
        let (amqp_user, amqp_password) = broker.credentials();
        let (user, password) = match (base.username(), base.password()) {
            ("", _) => (amqp_user.to_owned(), amqp_password),
            (user, password) => (decoded(user)?, decoded(password.unwrap_or_default())?.into()),
        };
        // The user and the password are sent in a header, and must not appear in errors.
        let removed = base.set_username("").and_then(|()| base.set_password(None));
        removed.map_err(|()| AddressError::Syntax(EXAMPLE))?;
        let host = base.host_str().ok_or(AddressError::NoHost(EXAMPLE))?;
        let address = format!("{host}:{}", base.port_or_known_default().unwrap_or(PORT));
        let (virtual_host, amqp_user) = (broker.virtual_host().to_owned(), amqp_user.to_owned());
        Ok(Self { base, address, user, password, virtual_host, amqp_user })
    }

    /// The state of the broker.
    ///
    /// # Errors
    /// The API does not respond, refuses the user, or knows no such virtual host.
    pub fn state(&self) -> Result<BrokerState, ManagementError> {
        let overview: Overview = self.get(&["overview"])?;
        let vhost = self.virtual_host.as_str();
        let permission = match self.get::<Permission>(&["permissions", vhost, &self.amqp_user]) {
            Ok(permission) => Some(permission),
            // Only an administrator may read permissions.
            Err(ManagementError::Refused { .. }) => None,
            Err(ManagementError::NoVirtualHost { .. }) => {
                self.get::<IgnoredAny>(&["vhosts", vhost])?;
                Some(Permission::none())
            }
            Err(error) => return Err(error),
        };
        Ok(BrokerState {
            version: overview.rabbitmq_version,
            nodes: self.get(&["nodes"])?,
            exchanges: self.get(&["exchanges", vhost])?,
            queues: self.get(&["queues", vhost])?,
            bindings: self.get(&["bindings", vhost])?,
            user: self.amqp_user.clone(),
            permission,
        })
    }

    fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ManagementError> {
        let unreachable = |reason: String| ManagementError::Unreachable { address: self.address.clone(), reason };
        let mut url = self.base.clone();
        {
            let mut segments = url.path_segments_mut().map_err(|()| unreachable("no such URL".into()))?;
            segments.pop_if_empty().push("api").extend(path);
        }
        let credentials = STANDARD.encode(format!("{}:{}", self.user, self.password.expose_secret()));
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build().into();
        let request = agent.get(url.as_str()).header("Authorization", format!("Basic {credentials}"));
        let mut response = request.call().map_err(|error| unreachable(error.to_string()))?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => {
                return Err(ManagementError::Refused {
                    address: self.address.clone(),
                    user: self.user.clone(),
                    path: path[0].to_owned(),
                });
            }
            404 => {
                return Err(ManagementError::NoVirtualHost {
                    address: self.address.clone(),
                    virtual_host: self.virtual_host.clone(),
                });
            }
            status => return Err(unreachable(format!("it answers with status {status}"))),
        }
        let body = response.body_mut().with_config().limit(64 << 20).read_to_string();
        let body = body.map_err(|error| unreachable(error.to_string()))?;
        serde_json::from_str(&body).map_err(|error| unreachable(format!("its answer is not understood: {error}")))
    }
}

fn decoded(text: &str) -> Result<String, AddressError> {
    let text = percent_encoding::percent_decode_str(text).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| AddressError::Syntax("http://USER:PASSWORD@HOST:15672"))
}
