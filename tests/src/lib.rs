//! Test kit and suites.
