//! HTTP for operators: health, readiness, metrics. Read-only.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Telemetry;

/// A bound address that is not served yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Takes the address.
    ///
    /// # Errors
    ///
    /// When it is taken or not ours.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the admin address `{address}` cannot be used"))?;
        let address = listener.local_addr().context("the admin address cannot be read")?;
        Ok(Self { listener, address })
    }

    /// The address with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until stopped.
    ///
    /// # Errors
    ///
    /// When the listener fails.
    pub async fn serve(self, telemetry: Telemetry, stop: CancellationToken) -> anyhow::Result<()> {
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(telemetry);
        axum::serve(self.listener, routes)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .context("the admin server failed")
    }
}

async fn ready(State(telemetry): State<Telemetry>) -> Response {
    if telemetry.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not consuming, or not able to reply\n").into_response()
    }
}

async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    match telemetry.scrape() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
            .into_response(),
        Err(error) => {
            tracing::error!("{error:#}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
