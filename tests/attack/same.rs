//! Two users, tenants, issuers, hosts and routes after each other's answers.
