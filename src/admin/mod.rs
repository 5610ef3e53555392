//! The admin listener: publishing, figures, disconnecting, health, metrics.
