//! A paper-trading backend that uses only the public ways in.
