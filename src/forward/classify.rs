//! What an attempt says about the endpoint that it went to: one judgement for health, balancing, limits and metrics.

use http::StatusCode;

use super::attempts::ForwardError;
use crate::pipeline::Refusal;
use crate::upstream::Outcome;

/// The outcome of an attempt: of the head of its answer, or of its failure. A 5xx is the endpoint's own word that it
/// failed; a client that leaves, or sends what can't be forwarded, is none of its business, nor is what breaks in the
/// gateway.
pub fn classify(attempt: Result<StatusCode, &ForwardError>) -> Outcome {
    match attempt {
        Ok(status) if status.is_server_error() => Outcome::Failure,
        Ok(_) => Outcome::Success,
        Err(ForwardError::ClientGone) => Outcome::Abandoned,
        Err(ForwardError::Refused(refusal)) => match refusal {
            Refusal::BadRequest(_)
            | Refusal::BodyTooLarge { .. }
            | Refusal::CallDeadline
            | Refusal::Internal
            | Refusal::ContentStopped
            | Refusal::RequestTimeout => Outcome::Abandoned,
            _ => Outcome::Failure,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_error_is_a_failure_and_a_client_error_is_none() {
        let of = |status| classify(Ok(StatusCode::from_u16(status).unwrap()));
        assert_eq!([of(200), of(404), of(429), of(101)], [Outcome::Success; 4]);
        assert_eq!([of(500), of(502), of(503), of(599)], [Outcome::Failure; 4]);
    }

    #[test]
    fn what_the_client_did_is_not_held_against_the_endpoint() {
        let of = |refusal| classify(Err(&ForwardError::Refused(refusal)));
        assert_eq!(classify(Err(&ForwardError::ClientGone)), Outcome::Abandoned);
        assert_eq!(of(Refusal::BodyTooLarge { limit: 1 }), Outcome::Abandoned);
        assert_eq!(of(Refusal::ContentStopped), Outcome::Abandoned);
        assert_eq!(of(Refusal::CallDeadline), Outcome::Abandoned);
        assert_eq!(of(Refusal::ConnectFailed), Outcome::Failure);
        assert_eq!(of(Refusal::FirstByteTimeout), Outcome::Failure);
    }
}
