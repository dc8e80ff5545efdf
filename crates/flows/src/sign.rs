//! Signed requests, as Standard Webhooks has them: whoever shares the secret can tell that a request is ours and fresh.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::settings::Secret;

/// The header that names the request: the same for each repeat.
pub const ID_HEADER: &str = "webhook-id";
/// The header that says when it was signed, in seconds since the Unix epoch.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with the signature.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// The signature of a request: `v1,` and the base64 of an HMAC-SHA256 over `{id}.{timestamp}.{body}`. A secret that begins
/// with `whsec_` is base64 behind that; any other is taken as it is.
pub fn signature(secret: &Secret, id: &str, timestamp_s: u64, body: &[u8]) -> String {
    let key = secret.0.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
    let key = key.unwrap_or_else(|| secret.0.as_bytes().to_vec());
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { unreachable!("an HMAC takes keys of any length") };
    mac.update(id.as_bytes());
    mac.update(format!(".{timestamp_s}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// The headers of one try at sending JSON: its id, when it was signed, and a signature with each secret. Without a secret
/// only its type.
pub fn headers(secrets: &[Secret], id: &str, now_ms: u64, body: &[u8]) -> Vec<(String, String)> {
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    if !secrets.is_empty() {
        let now_s = now_ms / 1_000;
        let signatures: Vec<String> = secrets.iter().map(|secret| signature(secret, id, now_s, body)).collect();
        headers.push((ID_HEADER.to_owned(), id.to_owned()));
        headers.push((TIMESTAMP_HEADER.to_owned(), now_s.to_string()));
        headers.push((SIGNATURE_HEADER.to_owned(), signatures.join(" ")));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_example_is_signed_as_published() {
        // The example of the Standard Webhooks libraries' own tests.
        let secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
