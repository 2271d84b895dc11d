//! Paths against protected routes: no spelling reaches what another spelling may not.
