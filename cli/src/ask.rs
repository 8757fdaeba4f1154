//! Sends one request for an operator, and turns unexpected replies into failures.

use licet_client::{
    Client, Patience, Transport,
    schema::{InvalidValue, Output, Request},
};
use licet_common::{config::Config, program::Failure};

/// Sends a request and returns its reply, which can be a refusal.
pub(crate) async fn ask(config: &Config, request: &Request) -> Result<Output, Failure> {
    let transport = Transport::rabbit(&config.amqp_url()?)?;
    let client = Client::connect(&transport, Patience::default()).await?;
    client.ask(request).await.map_err(Failure::work)
}

/// The failure of a command whose request was refused, or whose reply has another type than
/// expected.
pub(crate) fn unexpected(reply: &Output) -> Failure {
    Failure::Work(match reply {
        Output::RequestRefused(refused) => format!("the request was refused as {}: {}", refused.code, refused.detail),
        other => {
            format!("the reply has the unexpected type {}: use the `licet` of the workers' release", other.kind())
        }
    })
}

/// The failure of a command whose argument is not valid.
pub(crate) fn invalid(error: InvalidValue) -> Failure {
    Failure::Usage(error.to_string())
}
