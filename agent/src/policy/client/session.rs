//! Requests on the connection that there is.

use std::sync::Arc;
use std::time::Duration;

use antrea_api::k8s::{self, Status};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::time::timeout;

use super::{ClientError, Identity, Timing};
use antrea_enforce::cache::Kind;

/// Longest answer that is read of a request that is no watch.
const MAX_ANSWER: usize = 1 << 20;

/// A connection on which requests can be made; clones share it.
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) requests: SendRequest<Full<Bytes>>,
    pub(super) authority: Arc<str>,
    pub(super) identity: Arc<Identity>,
    pub(super) timing: Arc<Timing>,
}

/// The error that a refusal is, with what the controller says of it.
pub(super) async fn refused(path: &str, response: Response<Incoming>) -> ClientError {
    let code = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
    let body = timeout(Duration::from_secs(2), body).await;
    let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let said = k8s::open(body.clone()).ok().and_then(|object| object.decode::<Status>().ok());
    let message = match said {
        Some(status) => status.message,
        None => String::from_utf8_lossy(&body).chars().take(300).collect(),
    };
    let path = path.split('?').next().unwrap_or(path).to_owned();
    ClientError::Refused { path, code, message }
}

impl Session {
    /// Makes a request and returns the head of the answer; `body` comes with its type.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(header::ACCEPT, k8s::PROTOBUF)
            .header(header::USER_AGENT, concat!("antrea-agent/", env!("CARGO_PKG_VERSION")));
        if let Ok(token) = tokio::fs::read_to_string(&self.identity.token).await {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        if let Some((kind, _)) = &body {
            request = request.header(header::CONTENT_TYPE, *kind);
        }
        let body = body.map(|(_, body)| body).unwrap_or_default();
        let request = request.body(Full::from(body)).map_err(|error| ClientError::Failed {
            kind: Kind::Policies,
            message: format!("{path}: {error}"),
        })?;
        let mut requests = self.requests.clone();
        let answer = async {
            requests.ready().await?;
            requests.send_request(request).await
        };
        let answer = timeout(self.timing.answer, answer).await;
        Ok(answer.map_err(|_| ClientError::Timeout(path.to_owned()))??)
    }

    /// Reads a path.
    ///
    /// # Errors
    /// The session is gone or the controller refused it.
    pub async fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        let response = self.request(Method::GET, path, None).await?;
        self.answer(path, response).await
    }

    /// Puts a value, as JSON, and reads what is answered.
    ///
    /// # Errors
    /// The session is gone or the controller refused it.
    pub async fn put_json(&self, path: &str, value: &impl serde::Serialize) -> Result<Bytes, ClientError> {
        let body = serde_json::to_vec(value).map_err(|error| ClientError::Unsent(error.to_string()))?;
        let response = self.request(Method::PUT, path, Some(("application/json", body))).await?;
        self.answer(path, response).await
    }

    async fn answer(&self, path: &str, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        if response.status() != StatusCode::OK {
            return Err(refused(path, response).await);
        }
        let body =
            timeout(self.timing.answer, Limited::new(response.into_body(), MAX_ANSWER).collect()).await;
        match body {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            _ => Err(ClientError::Timeout(path.to_owned())),
        }
    }

    /// Posts a sealed object.
    ///
    /// # Errors
    /// The session is gone or the controller refused it.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<(), ClientError> {
        let response = self.request(Method::POST, path, Some((k8s::PROTOBUF, body))).await?;
        if response.status().is_success() {
            // An answer that is not read to its end would keep its stream.
            let rest = Limited::new(response.into_body(), MAX_ANSWER).collect();
            let _ = timeout(self.timing.answer, rest).await;
            return Ok(());
        }
        Err(refused(path, response).await)
    }
}
