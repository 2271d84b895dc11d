//! Sign-in with a password, refresh tokens that rotate, sign-out (R4.3).

use std::time::Duration;

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::json;

use crate::base::Secret;
use crate::identity::{Claims, Revocation, SignError};
use crate::services::auth::accounts::{random_text, sha256};
use crate::services::auth::fault::Fault;
use crate::services::auth::input::{Input, bearer};
use crate::services::auth::{Answer, Asked, Inner, json, metrics, now};
use crate::store::{self, NewRefreshToken, Revoked, Rotation, User};

/// Tokens may have got longer lives from an earlier configuration, and clocks differ.
const MARGIN: Duration = Duration::from_secs(3600);

/// What somebody who has signed in gets.
struct Tokens {
    access: String,
    refresh: Secret,
    record: NewRefreshToken,
    life: u64,
}

impl Inner {
    /// `POST /api/v1/auth/login`.
    pub(super) async fn login(&self, asked: Asked) -> Answer {
        let Asked { head, body, context } = asked;
        let client = context.client_ip;
        let input = Input::read(&head.headers, body).await?;
        let (name, password) = (input.text("username")?, input.secret("password")?);
        let attempt = self.throttle.attempt(name, client).await.map_err(Fault::TooMany)?;
        let user = self.store.user_named(name).await?;
        let hash = user.as_ref().and_then(|it| it.password_hash.as_deref());
        let right = self.passwords.matches(password, hash, client).await?;
        let Some(user) = user.filter(|it| right && it.active) else {
            attempt.failed();
            tracing::info!(event = "sign_in_refused", client = %client);
            return Err(Fault::Credentials);
        };
        attempt.succeeded().await;
        let answer = self.sign_in(&user).await?;
        metrics::PASSWORD.inc();
        Ok(answer)
    }

    /// Begins a family of refresh tokens.
    pub(super) async fn sign_in(&self, user: &User) -> Answer {
        let family = random_text()?.expose().to_owned();
        let tokens = self.tokens_of(user, &family)?;
        self.store.begin_family(&family, &user.id, tokens.record.clone()).await?;
        tracing::info!(event = "signed_in", subject = %user.id);
        Ok(tokens.answer())
    }

    /// `POST /api/v1/auth/refresh`: a refresh token is good once. Who shows it a second time may be a
    /// thief, or the one who was robbed: then nothing that came from it counts any more.
    pub(super) async fn refresh(&self, asked: Asked) -> Answer {
        let input = Input::read(&asked.head.headers, asked.body).await?;
        let shown = input.secret("refresh_token")?;
        let hash = sha256(shown.expose().as_bytes());
        let refused = Fault::Token("the refresh token does not count");
        let known = self.store.refresh_token(hash).await?.ok_or(refused.clone())?;
        let user = self.store.user(&known.user).await?.filter(|it| it.active).ok_or(refused.clone())?;
        let tokens = self.tokens_of(&user, &known.family)?;
        match self.store.rotate(hash, tokens.record.clone(), self.revoked_for()).await? {
            Rotation::Done => {
                metrics::REFRESH.inc();
                Ok(tokens.answer())
            }
            Rotation::Refused => Err(refused),
            Rotation::Reused(family) => {
                tracing::warn!(event = "refresh_token_reused", subject = %user.id, client = %asked.context.client_ip);
                self.spread_end_of(family).await;
                Err(refused)
            }
        }
    }

    /// `POST /api/v1/auth/logout`: the access token in `Authorization` and everything that came from the
    /// same sign-in, or that of the refresh token in the body, don't count any more.
    pub(super) async fn logout(&self, asked: Asked) -> Answer {
        let Asked { head, body, context } = asked;
        // A filter that proved who the caller is may have taken the token out.
        let known = context.principal.is_some();
        let family = if known || bearer(&head.headers).is_some() {
            let principal = self.principal(&head, &context).await?;
            if let Some(jti) = &principal.credential {
                self.revoke_token(jti).await?;
            }
            principal.session.as_deref().map(str::to_owned)
        } else {
            let input = Input::read(&head.headers, body).await?;
            let shown = input.secret("refresh_token")?;
            let known = self.store.refresh_token(sha256(shown.expose().as_bytes())).await?;
            Some(known.ok_or(Fault::Token("the refresh token does not count"))?.family)
        };
        if let Some(family) = family {
            self.store.end_family(&family, self.revoked_for()).await?;
            self.spread_end_of(family).await;
        }
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Ok(answer)
    }

    /// Here it counts even if it can't be kept.
    async fn revoke_token(&self, jti: &str) -> Result<(), Fault> {
        let expires = now() + store_seconds(self.revoked_for());
        let record = store::Revocation { kind: Revoked::Token, id: jti.to_owned(), issued_until: now(), expires };
        let kept = self.store.revoke(record).await;
        self.spread(Revocation::Token { jti: jti.to_owned(), until: u64::try_from(expires).unwrap_or(0) }).await;
        Ok(kept?)
    }

    async fn spread_end_of(&self, family: String) {
        let until = u64::try_from(now()).unwrap_or(0) + self.revoked_for().as_secs();
        self.spread(Revocation::Session { sid: family, until }).await;
    }

    /// How long what is taken back has to be remembered.
    pub(super) fn revoked_for(&self) -> Duration {
        self.identity.keys().access_life() + MARGIN
    }

    fn tokens_of(&self, user: &User, family: &str) -> Result<Tokens, Fault> {
        let keys = self.identity.keys();
        let claims = self.claims_of(user, family);
        let access = keys.sign(&claims).map_err(|error| match error {
            SignError::NoKey => Fault::NoKey,
            SignError::Failed(_) => Fault::Internal,
        })?;
        let refresh = random_text()?;
        let record = NewRefreshToken {
            hash: sha256(refresh.expose().as_bytes()),
            expires: now().saturating_add(store_seconds(keys.refresh_life())),
        };
        Ok(Tokens { access, refresh, record, life: claims.exp - claims.iat })
    }

    fn claims_of(&self, user: &User, family: &str) -> Claims {
        let mut claims = self.identity.claims(&user.id);
        // Tokens of the second in which a user was changed, and of those before, don't count: another
        // gateway may have made the change, and this one not have heard of it.
        if user.version > 1 {
            let first = u64::try_from(user.changed).unwrap_or(0) + 1;
            let life = claims.exp - claims.iat;
            claims.iat = claims.iat.max(first);
            claims.exp = claims.iat + life;
        }
        claims.tenant.clone_from(&user.tenant);
        claims.roles.clone_from(&user.roles);
        claims.sid = Some(family.to_owned());
        claims
    }
}

impl Tokens {
    fn answer(self) -> Response<Body> {
        json(
            StatusCode::OK,
            &json!({
                "access_token": self.access,
                "token_type": "Bearer",
                "expires_in": self.life,
                "refresh_token": self.refresh.expose(),
            }),
        )
    }
}

fn store_seconds(length: Duration) -> i64 {
    length.as_secs().try_into().unwrap_or(i64::MAX)
}
