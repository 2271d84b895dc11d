//! Records that last: users, credentials, secrets. SQLite, or PostgreSQL (`store` in gateway.yaml).
