//! The addresses of the broker and the database, which users write as URLs.
//!
//! An address can contain a password. Therefore, errors quote nothing of an address that is not
//! completely understood, and everything else shows only host, port and virtual host or database.
//!
//! Guarantees: a connection goes to the host that the address names, or the address is refused.
//!
//! Deliberately absent: I/O.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use lapin::uri::{AMQPScheme, AMQPUri};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

/// The reason an address cannot be used. It contains nothing of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is not a URL of this kind, or a character in it has an unintended meaning.
    #[error(
        "it is not a valid address: write {0}, and percent-encode the characters : / ? # [ ] @ % in the user, the \
         password and the name at the end, for example @ as %40"
    )]
    Syntax(&'static str),
    /// The address names no host.
    #[error("it names no host: write {0}")]
    NoHost(&'static str),
    /// The path of the address is a single slash, which names the virtual host with the empty name.
    #[error(
        "it names the empty virtual host, because it ends with /: write /%2f for the virtual host /, or leave out the \
         slash"
    )]
    EmptyVirtualHost,
    /// The SQLite database would exist only in memory.
    #[error(
        "it names no file, so the database would be lost when the program ends: write sqlite: and the path of a file"
    )]
    NoFile,
    /// A parameter of an SQLite address has a value that is not supported.
    #[error(
        "it has a parameter other than mode=rw and mode=rwc: a program of Licet must be able to write to the database"
    )]
    Parameter,
}

const BROKER: &str = "amqp://USER:PASSWORD@HOST:5672/%2f";
const SERVER: &str = "postgres://USER:PASSWORD@HOST:5432/DATABASE";

/// The address of a virtual host of a RabbitMQ broker.
#[derive(Clone)]
pub struct BrokerAddress {
    uri: AMQPUri,
}

impl BrokerAddress {
    /// Reads an address such as `amqp://user:password@host:5672/%2f`.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn parse(text: &SecretString) -> Result<Self, AddressError> {
        let text = text.expose_secret();
        let url = parsed(text, BROKER)?;
        if url.path() == "/" {
            return Err(AddressError::EmptyVirtualHost);
        }
        let mut uri: AMQPUri = text.parse().map_err(|_| AddressError::Syntax(BROKER))?;
        // The parser of lapin replaces an IPv6 address, and a missing host, by localhost.
        uri.authority.host = match url.host() {
            Some(Host::Domain("")) | None => return Err(AddressError::NoHost(BROKER)),
            Some(Host::Domain(name)) => decoded(name, BROKER)?,
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
        };
        Ok(Self { uri })
    }

    /// The parts of the address, as lapin needs them.
    pub fn uri(&self) -> &AMQPUri {
        &self.uri
    }

    /// The name of the virtual host.
    pub fn virtual_host(&self) -> &str {
        &self.uri.vhost
    }

    /// The host, without brackets around an IPv6 address.
    pub fn host(&self) -> &str {
        &self.uri.authority.host
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// The user and the password.
    pub fn credentials(&self) -> (&str, SecretString) {
        let user = &self.uri.authority.userinfo;
        (&user.username, user.password.clone().into())
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host(f, self.host(), self.uri.authority.port)?;
        if self.uri.vhost == "/" { Ok(()) } else { write!(f, " (vhost {})", self.uri.vhost) }
    }
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address of a database.
#[derive(Clone)]
pub enum DatabaseAddress {
    /// A PostgreSQL server.
    Server {
        /// The complete URL.
        url: SecretString,
        /// The port.
        port: u16,
        /// Host, port and database.
        shown: String,
    },
    /// An SQLite file.
    File {
        /// The path.
        path: PathBuf,
        /// Whether the file must exist.
        must_exist: bool,
    },
}

impl DatabaseAddress {
    /// Reads an address such as `postgres://user:password@host:5432/database` or `sqlite:file.db`.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn parse(text: &SecretString) -> Result<Self, AddressError> {
        match text.expose_secret().strip_prefix("sqlite:") {
            Some(file) => Self::file(file.strip_prefix("//").unwrap_or(file)),
            None => Self::server(text),
        }
    }

    fn file(text: &str) -> Result<Self, AddressError> {
        let (path, parameters) = text.split_once('?').unwrap_or((text, ""));
        let path = PathBuf::from(decoded(path, "sqlite:FILE")?);
        if parameters.contains("mode=memory") || path.as_os_str().is_empty() || path == Path::new(":memory:") {
            return Err(AddressError::NoFile);
        }
        let must_exist = match parameters {
            "mode=rw" => true,
            "" | "mode=rwc" => false,
            _ => return Err(AddressError::Parameter),
        };
        Ok(Self::File { path, must_exist })
    }

    fn server(text: &SecretString) -> Result<Self, AddressError> {
        let url = parsed(text.expose_secret(), SERVER)?;
        // If a parameter is repeated, sqlx uses the last one.
        let parameter = |names: &[&str]| {
            let given = url.query_pairs().filter(|(key, _)| names.contains(&&**key));
            given.last().map(|(_, value)| value.into_owned())
        };
        let host = match (parameter(&["host", "hostaddr"]), url.host()) {
            (Some(host), _) => host,
            (None, Some(Host::Ipv6(address))) => address.to_string(),
            (None, Some(host)) if !host.to_string().is_empty() => decoded(&host.to_string(), SERVER)?,
            (None, _) => return Err(AddressError::NoHost(SERVER)),
        };
        let port = match (parameter(&["port"]), url.port()) {
            (Some(port), _) => port.parse().map_err(|_| AddressError::Syntax(SERVER))?,
            (None, port) => port.unwrap_or(5432),
        };
        let database = match parameter(&["dbname"]) {
            Some(name) => name,
            None => decoded(url.path().trim_start_matches('/'), SERVER)?,
        };
        let shown = Shown { host: &host, port, database: &database }.to_string();
        Ok(Self::Server { url: text.clone(), port, shown })
    }
}

impl fmt::Display for DatabaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { shown, .. } => f.write_str(shown),
            Self::File { path, .. } => path.display().fmt(f),
        }
    }
}

impl fmt::Debug for DatabaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct Shown<'a> {
    host: &'a str,
    port: u16,
    database: &'a str,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host(f, self.host, self.port)?;
        if self.database.is_empty() { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

fn write_host(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    // A colon shows that the host is an IPv6 address, and a slash that it is the folder of a
    // socket.
    match host {
        host if host.contains(':') => write!(f, "[{host}]:{port}"),
        host => write!(f, "{host}:{port}"),
    }
}

/// The host and port of a URL, without user, password and path.
///
/// # Errors
/// The text is not a URL.
pub(crate) fn without_secrets(text: &str) -> Result<String, AddressError> {
    const EXAMPLE: &str = "http://HOST:15672";
    let url = parsed(text, EXAMPLE)?;
    let host = url.host_str().ok_or(AddressError::NoHost(EXAMPLE))?;
    Ok(url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// A URL in which no character has an unintended meaning. A password with one of the characters
/// `/`, `?` or `#` ends the part of the URL before the host, so that the rest of the password, and
/// the `@` after it, are in another part.
fn parsed(text: &str, example: &'static str) -> Result<Url, AddressError> {
    let url = Url::parse(text).map_err(|_| AddressError::Syntax(example))?;
    let after_host = &url[url::Position::BeforePath..];
    if url.cannot_be_a_base() || after_host.contains(['@', '#']) {
        return Err(AddressError::Syntax(example));
    }
    Ok(url)
}

fn decoded(text: &str, example: &'static str) -> Result<String, AddressError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| AddressError::Syntax(example))?;
    if text.contains('\0') { Err(AddressError::Syntax(example)) } else { Ok(text.into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(text: &str) -> Result<String, AddressError> {
        BrokerAddress::parse(&text.into()).map(|address| address.to_string())
    }

    fn database(text: &str) -> Result<String, AddressError> {
        DatabaseAddress::parse(&text.into()).map(|address| address.to_string())
    }

    #[test]
    fn an_address_shows_host_port_and_virtual_host_or_database_alone() {
        for (text, shown) in [
            ("amqp://user:secret@broker:5672/%2f", "broker:5672"),
            ("amqps://user:secret@broker", "broker:5671"),
            ("amqp://user:s%2fe%40c@broker:1/orders", "broker:1 (vhost orders)"),
            ("amqp://10.0.0.1:1/%2f?heartbeat=9", "10.0.0.1:1"),
            ("amqp://user:secret@[2001:db8::1]:5672/%2f", "[2001:db8::1]:5672"),
        ] {
            assert_eq!(broker(text).as_deref(), Ok(shown), "{text}");
        }
        for (text, shown) in [
            ("postgres://user:secret@server/licet", "server:5432/licet"),
            ("postgres://server:1/licet?password=secret&sslmode=require", "server:1/licet"),
            ("postgresql://user:s%23%40@[::1]:1/licet", "[::1]:1/licet"),
            ("postgres:///licet?host=/run/postgresql", "/run/postgresql:5432/licet"),
            ("postgres://server", "server:5432"),
            ("postgres://a/licet?host=b&hostaddr=10.0.0.1&dbname=x&dbname=y", "10.0.0.1:5432/y"),
            ("sqlite:a%2Fb.db", "a/b.db"),
            ("sqlite://l.db?mode=rwc", "l.db"),
            ("sqlite:/var/lib/50%25.db", "/var/lib/50%.db"),
        ] {
            assert_eq!(database(text).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn a_broker_is_connected_to_at_the_host_that_its_address_names() {
        let host = |text: &str| BrokerAddress::parse(&text.into()).expect(text).host().to_owned();
        assert_eq!(host("amqp://a:b@[2001:db8::1]:5672/%2f"), "2001:db8::1");
        assert_eq!(host("amqp://a:b@[::1]"), "::1");
        assert_eq!(host("amqp://localhost/x"), "localhost");
        assert_eq!(broker("amqp:///x"), Err(AddressError::NoHost(BROKER)));
        assert!(broker("amqp://").is_err());
        assert_eq!(database("postgres:///licet"), Err(AddressError::NoHost(SERVER)));
    }

    #[test]
    fn nothing_of_an_address_that_is_not_understood_appears_in_its_error() {
        let parts =
            ["/secret", "?secret", "#secret", "1/secret", "12#secret", "12?secret", "se cret", "[secret", ":::"];
        for scheme in ["amqp", "amqps", "postgres", "postgresql"] {
            for password in parts {
                let text = format!("{scheme}://user:{password}@host:5672/name");
                let error = if scheme.starts_with("amqp") { broker(&text) } else { database(&text) };
                // Some of these characters may be written as they are.
                if let Err(error) = &error {
                    assert!(!error.to_string().contains("secret"), "{text}: {error}");
                }
                let shown = error.unwrap_or_default();
                assert!(
                    !shown.contains("secret") && (shown.is_empty() || shown.starts_with("host:")),
                    "{text}: {shown}"
                );
            }
        }
        for text in ["amqp://user:secret@host:port/x", "postgres://user:12#secret@host", "postgres://h/d#secret"] {
            let error = if text.starts_with("amqp") { broker(text) } else { database(text) };
            assert!(matches!(error, Err(AddressError::Syntax(_))), "{text}: {error:?}");
        }
    }

    #[test]
    fn an_empty_virtual_host_is_refused_with_the_way_to_write_a_slash() {
        assert_eq!(broker("amqp://a:b@host:5672/"), Err(AddressError::EmptyVirtualHost));
        let vhost = |text: &str| BrokerAddress::parse(&text.into()).expect(text).virtual_host().to_owned();
        assert_eq!(vhost("amqp://host"), "/");
        assert_eq!(vhost("amqp://host/%2f"), "/");
        assert_eq!(vhost("amqp://host/a%20b"), "a b");
    }

    #[test]
    fn an_sqlite_database_must_be_a_file_that_can_be_written() {
        for text in ["sqlite:", "sqlite://", "sqlite::memory:", "sqlite:x.db?mode=memory", "sqlite:?mode=rwc"] {
            assert_eq!(database(text), Err(AddressError::NoFile), "{text}");
        }
        for text in ["sqlite:x.db?mode=ro", "sqlite:x.db?cache=shared", "sqlite:x.db?mode=rwc&immutable=1"] {
            assert_eq!(database(text), Err(AddressError::Parameter), "{text}");
        }
        let must_exist = |text: &str| match DatabaseAddress::parse(&text.into()) {
            Ok(DatabaseAddress::File { must_exist, .. }) => must_exist,
            other => panic!("{text}: {other:?}"),
        };
        assert!(must_exist("sqlite:x.db?mode=rw") && !must_exist("sqlite:x.db"));
    }
}
