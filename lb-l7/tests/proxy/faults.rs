//! Backends that refuse, hang, reset, close early or talk nonsense.
