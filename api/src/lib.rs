//! EventRail API
