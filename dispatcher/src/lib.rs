//! EventRail dispatcher
