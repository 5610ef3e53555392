//! Routes commands to backends and brings exactly one answer back for each.
