//! What every daemon needs around its work.
