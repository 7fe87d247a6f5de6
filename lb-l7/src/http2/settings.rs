//! SETTINGS, ours and the peer's (RFC 9113 section 6.5.2, RFC 8441 section 3, RFC 9218 section 2.1).
//!
//! Read next: `core.rs` (who applies them).

use super::frame::{ConnectionError, ErrorCode, PAYLOAD_BYTES_MAX, number};

/// The largest window (RFC 9113 section 6.9.1).
pub(super) const WINDOW_MAX: i64 = i32::MAX as i64;
/// The window that everything starts with.
pub(super) const WINDOW_INITIAL: i64 = 65_535;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;
const NO_RFC7540_PRIORITIES: u16 = 9;

/// What one end of a connection allows the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalSettings {
    /// Streams that the peer may have open; 0 for a client's end.
    pub(super) streams_max: u32,
    /// Bytes that the peer may send ahead on a stream.
    pub(super) window: u32,
    /// Longest head, as text.
    pub(super) head_bytes_max: usize,
}

impl LocalSettings {
    /// The window of the whole connection.
    pub(super) const fn connection_window(&self) -> i64 {
        let wanted = self.window as i64 * 4;
        if wanted < WINDOW_MAX {
            wanted
        } else {
            WINDOW_MAX
        }
    }

    /// The payload of our SETTINGS.
    pub(super) fn payload(&self, is_server: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(30);
        let mut push = |id: u16, value: u32| {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        };
        push(INITIAL_WINDOW_SIZE, self.window);
        push(MAX_HEADER_LIST_SIZE, self.head_bytes_max as u32);
        if is_server {
            push(MAX_CONCURRENT_STREAMS, self.streams_max);
            push(ENABLE_CONNECT_PROTOCOL, 1);
            push(NO_RFC7540_PRIORITIES, 1);
        } else {
            push(ENABLE_PUSH, 0);
        }
        out
    }
}

/// What the peer allows us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerSettings {
    pub(super) streams_max: u32,
    pub(super) window: i64,
    pub(super) table_bytes: u32,
    pub(super) has_connect_protocol: bool,
}

impl PeerSettings {
    /// Until the peer's SETTINGS come.
    pub(super) const fn new() -> Self {
        Self {
            streams_max: 100,
            window: WINDOW_INITIAL,
            table_bytes: 4096,
            has_connect_protocol: false,
        }
    }

    /// Takes the payload of the peer's SETTINGS.
    pub(super) fn apply(
        &mut self,
        payload: &[u8],
        from_server: bool,
    ) -> Result<(), ConnectionError> {
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(ConnectionError::size("SETTINGS of a broken length"));
        }
        for setting in settings {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            self.apply_one(id, number(&setting[2..]), from_server)?;
        }
        Ok(())
    }

    fn apply_one(&mut self, id: u16, value: u32, from_server: bool) -> Result<(), ConnectionError> {
        let bad = Err(ConnectionError::protocol("a setting that is out of range"));
        match id {
            HEADER_TABLE_SIZE => self.table_bytes = value,
            ENABLE_PUSH if value > 1 || (from_server && value == 1) => return bad,
            MAX_CONCURRENT_STREAMS => self.streams_max = value,
            INITIAL_WINDOW_SIZE if i64::from(value) > WINDOW_MAX => {
                return Err(ConnectionError::new(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "an initial window that is too large",
                ));
            }
            INITIAL_WINDOW_SIZE => self.window = i64::from(value),
            MAX_FRAME_SIZE if !(PAYLOAD_BYTES_MAX as u32..1 << 24).contains(&value) => return bad,
            ENABLE_CONNECT_PROTOCOL | NO_RFC7540_PRIORITIES if value > 1 => return bad,
            ENABLE_CONNECT_PROTOCOL => self.has_connect_protocol = value == 1,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(payload: &[u8]) -> Result<PeerSettings, ErrorCode> {
        let mut settings = PeerSettings::new();
        settings.apply(payload, false).map_err(|it| it.code)?;
        Ok(settings)
    }

    #[test]
    fn settings_are_applied_in_order() {
        let settings =
            apply(b"\0\x03\0\0\0\x05\0\x04\0\0\0\x07\0\x03\0\0\0\x06\xff\xff\0\0\0\0").unwrap();
        assert_eq!((settings.streams_max, settings.window), (6, 7));
        let ours = LocalSettings {
            streams_max: 10,
            window: 70_000,
            head_bytes_max: 1000,
        };
        let theirs = apply(&ours.payload(true)).unwrap();
        assert_eq!((theirs.streams_max, theirs.window), (10, 70_000));
        assert!(theirs.has_connect_protocol);
    }

    #[test]
    fn what_is_out_of_range_ends_the_connection() {
        assert_eq!(apply(b"\0\x03\0\0\0"), Err(ErrorCode::FRAME_SIZE_ERROR));
        assert_eq!(apply(b"\0\x02\0\0\0\x02"), Err(ErrorCode::PROTOCOL_ERROR));
        assert_eq!(
            apply(b"\0\x04\x80\0\0\0"),
            Err(ErrorCode::FLOW_CONTROL_ERROR)
        );
        assert_eq!(apply(b"\0\x05\0\0\x3f\xff"), Err(ErrorCode::PROTOCOL_ERROR));
        assert_eq!(apply(b"\0\x05\x01\0\0\0"), Err(ErrorCode::PROTOCOL_ERROR));
        assert_eq!(apply(b"\0\x08\0\0\0\x02"), Err(ErrorCode::PROTOCOL_ERROR));
    }
}
