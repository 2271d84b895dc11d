//! Claims of identity and of the way here, by every spelling: nobody but a trusted proxy is believed.
