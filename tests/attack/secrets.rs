//! Canaries in every secret field, searched for in all that comes out, faults included.
