//! Why a certificate and its key can't be used, in plain words, and what to do.

use rustls::{CertificateError, Error};

/// What is wrong with a pair that rustls refuses, and what to do about it.
pub fn unfit(error: &Error) -> (&'static str, &'static str) {
    const KINDS: &str = "RSA with 2048 to 8192 bits, ECDSA on P-256 or P-384, and Ed25519 can be used";
    match error {
        // Of versions that can't be used there is no kind of its own.
        Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string().contains("CertVersion") => (
            "the certificate is of X.509 version 1",
            "have it issued as version 3, with its names under subjectAltName",
        ),
        Error::InvalidCertificate(_) => ("the certificate can't be read", "have it issued as X.509 version 3"),
        _ => ("the key is of a kind or a length that can't be used", KINDS),
    }
}
