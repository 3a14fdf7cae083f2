//! PacketCapture on this node: takes down the packets of flows at pods of this node, and keeps them as files.
//!
//! ```text
//!  PacketCaptures ─► follow ─► filter ─► a socket on the pod's host-side link ─► record (a thread) ─► file
//!                      └──────────────────────── status ◄──────────────────────────────┘
//! ```
//!
//! Where the spec names a server, `upload` sends the file there when the capture is over.
//!
//! What decides is [`antrea_capture`]. A socket only hears: what it does not keep up with is missing in its file, and the
//! pod's traffic waits for nobody. Bounded are captures at once, packets (by the spec), time (by the spec), a file's size
//! and that of all files together. A file is there as long as its object; an agent that starts anew ends what its last life
//! had begun, for packets are missing.

mod files;
mod follow;
mod record;
mod upload;

pub use files::Files;
pub use follow::Capturer;
pub use upload::password;
