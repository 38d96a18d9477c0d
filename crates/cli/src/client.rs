//! Talks to `birthmarkd`: HTTP with JSON over its Unix socket (see crates/daemon/src/control.rs for the requests).

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// How long an answer may take. Cutting a VM off waits for `nft`.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const ANSWER_MAX: usize = 256 << 20;

/// A daemon that may or may not run.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// `GET /v1/{what}`.
    pub(crate) fn get(&self, what: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, &format!("/v1/{what}"))
    }

    /// `POST /v1/vms/{vm}/{what}`.
    pub(crate) fn act(&self, vm: &str, what: &str) -> anyhow::Result<Value> {
        self.send(Method::POST, &format!("/v1/vms/{}/{what}", path_segment(vm)))
    }

    fn send(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("Cannot start a runtime for the request")?;
        let (status, body) = runtime.block_on(async {
            tokio::time::timeout(TIMEOUT, self.exchange(method, path)).await.unwrap_or_else(|_| {
                bail!(
                    "birthmarkd did not answer on {} within {} seconds",
                    self.socket.display(),
                    TIMEOUT.as_secs()
                )
            })
        })?;
        let answer = serde_json::from_slice::<Value>(&body);
        if status.is_success() {
            return answer
                .with_context(|| format!("What answers on {} is no birthmarkd", self.socket.display()));
        }
        match answer.ok().as_ref().and_then(|answer| answer.get("error")).and_then(Value::as_str) {
            Some(why) => bail!("birthmarkd refused: {why}"),
            None => bail!("birthmarkd answered with {status} and no reason"),
        }
    }

    async fn exchange(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let socket = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let advice = match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    "start it with `birthmarkd --config FILE`, or name its socket with --socket"
                }
                ErrorKind::PermissionDenied => "only root and the daemon's group may speak to it",
                _ => "is it the daemon's control socket?",
            };
            anyhow::Error::new(error).context(format!("birthmarkd does not answer on {socket} ({advice})"))
        })?;
        let failed = || format!("The conversation with birthmarkd on {socket} failed");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(failed)?;
        // Ends with the connection; what goes wrong in it is seen by the request too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "birthmarkd")
            .body(Empty::<Bytes>::new())
            .with_context(failed)?;
        let response = sender.send_request(request).await.with_context(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error)).with_context(failed)?;
        Ok((status, body.to_bytes()))
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn path_segment(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail. The dot too, so that no name can be a path of its own.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::path_segment;

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(path_segment("web-1"), "web-1");
        assert_eq!(path_segment("../status?x#y z"), "%2E%2E%2Fstatus%3Fx%23y%20z");
        assert_eq!(path_segment("größe"), "gr%C3%B6%C3%9Fe");
    }
}
