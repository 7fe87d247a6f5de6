//! What no client may send, and what it is answered.
