//! Messages that the components exchange.
