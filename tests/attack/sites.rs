//! The gateway's administration against other sites, rebinding, and principals of tenants.
