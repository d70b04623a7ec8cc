//! Whether the API server in use lives.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::agent::context::Context;

/// How often the one in use is asked whether it lives, where there are others.
const ASK: Duration = Duration::from_secs(10);
/// It has this long for the answer, twice.
const ANSWER: Duration = Duration::from_secs(3);

/// Waits until the server in use does not answer, and there is another one to turn to. Returns it.
pub(in crate::agent) async fn lost(context: &Context) -> SocketAddr {
    loop {
        sleep(ASK).await;
        let Some(server) = context.api.server() else { continue };
        if context.api.servers().get().iter().any(|other| *other != server)
            && !lives(context).await
            && !lives(context).await
        {
            return server;
        }
    }
}

/// It answers, be it that it does not know us.
async fn lives(context: &Context) -> bool {
    let Ok(request) = http::Request::get("/livez").body(Vec::new()) else { return true };
    match timeout(ANSWER, context.api.watching().request_text(request)).await {
        Ok(Ok(_)) => true,
        Ok(Err(kube::Error::Api(status))) => status.code < 500,
        Ok(Err(_)) | Err(_) => false,
    }
}
