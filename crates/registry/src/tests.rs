//! Rules, seen through the traits.
