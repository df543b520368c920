//! The broker that the tests share, and connections to it.

use lapin::{Connection, ConnectionProperties};
use rpchost::private_broker::PrivateBroker;
use tokio::sync::OnceCell;

static SHARED: OnceCell<PrivateBroker> = OnceCell::const_new();

/// The broker of this test run, started by the first test that needs it. It
/// ends with the process, in whatever way that ends.
///
/// # Panics
///
/// When RabbitMQ is not installed or does not start: a test without its
/// broker has failed.
pub async fn shared() -> &'static PrivateBroker {
    SHARED.get_or_init(|| async { PrivateBroker::start().await.expect("a private broker") }).await
}

/// A broker of its own: RabbitMQ 4.0, Debian 13's, out of the folder that
/// `tests/run.sh` makes.
///
/// # Panics
///
/// When there is none, or it does not start.
pub async fn rabbitmq_4() -> PrivateBroker {
    let folder = super::guests::root().join("target/rabbitmq-4");
    PrivateBroker::start_from(&folder).await.expect("RabbitMQ 4, from `tests/rabbitmq4.sh`")
}

/// A client's connection.
///
/// # Panics
///
/// When the broker cannot be reached.
pub async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.expect("a connection")
}
